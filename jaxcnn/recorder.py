"""What a run leaves behind: `run(recipe, Recorder("folder"))` keeps it in a folder, from which it can be resumed."""

import threading
import time
from pathlib import Path

import jax
import numpy as np

from . import files
from .errors import InputError
from .experiment import Observer, precision
from .files import AnyPath
from .inspect import plots
from .inspect.flow import flow
from .progress import Progress, best_epoch
from .store.runs import Run, check_out

__all__ = ["Recorder"]


class Recorder(Observer):
    """Keeps a run in a folder: model.safetensors, metrics.jsonl, recipe.toml and pictures.

    The model's file is what `run(..., resume=folder)` goes on from. It is replaced after every epoch, within a long
    epoch every few minutes, and when the run is interrupted. With validation images best.safetensors is the model after
    the epoch that was best.

    Args:
        out: the folder to create, None for the next free runs/NAME-0001; refused before any work if it exists.
        resume: the folder of a run that goes on, in place of `out`.
        save_every: minutes after which the model is kept within an epoch, too.
        keep: how many of the last epochs keep a file of their own, epoch-0012.safetensors.

    Raises:
        InputError: the folder exists or cannot be created, or a number is out of range.
    """

    def __init__(
        self, out: AnyPath | None = None, *, resume: AnyPath | None = None, save_every: float = 5.0, keep: int = 0
    ):
        if not save_every > 0:
            raise InputError(f"save_every is {save_every} but must be above 0 minutes")
        if keep < 0:
            raise InputError(f"keep is {keep} but must be at least 0")
        self.out, self.resumed = None if out is None else Path(out), None if resume is None else Path(resume)
        self.locked: Path | None = None
        if resume is None:
            check_out(self.out)
        else:
            files.lock(resume)
            self.locked = self.resumed
        self.save_every, self.keep = save_every, keep
        self.run: Run | None = None
        self.progress: Progress | None = None
        self.kept: Progress | None = None  # in model.safetensors
        self.saved = time.monotonic()
        self.writing = threading.RLock()  # `stop` may be called from another thread than that of the run

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self._open.folder

    @property
    def _open(self) -> Run:
        if self.run is None:
            raise InputError("the folder of a run is not created before its gradient was checked")
        return self.run

    def on_checked(self, experiment, gradient_check, progress):
        with self.writing:
            self._begin(experiment, progress)

    def _begin(self, experiment, progress):
        facts = experiment.network, experiment.in_shape, experiment.config
        if self.resumed is None:
            run = Run.create(self.out, experiment.dataset.name, *facts)
        else:
            log = self.resumed / "metrics.jsonl"
            if not int(progress.state.step) and log.is_file() and log.stat().st_size:
                raise InputError(f"resume is {str(self.resumed)!r} for the recorder but must be given to run, too")
            run = Run.reopen(self.resumed, *facts)
        versions = f"jaxcnn train --config THIS_FILE repeats the run; it was made with jax {jax.__version__}"
        if self.resumed is not None:
            versions += (
                "\nit was resumed: if that changed its epochs, this repeats it with the last number from the start"
            )
        files.lock(run.folder)
        self.locked = run.folder
        experiment.recipe.write(run.folder / "recipe.toml", versions)
        run.keep(progress)
        run.log(progress.history)
        self.run, self.progress, self.kept, self.saved = run, progress, progress, time.monotonic()

    def on_steps(self, experiment, progress):
        with self.writing:
            self.progress = progress
            if time.monotonic() - self.saved > 60 * self.save_every:
                self._save()

    def on_epoch(self, experiment, progress, found):
        with self.writing:
            self.progress = progress
            history = progress.history
            if progress.best is not None and best_epoch(history) == len(history):
                self._open.keep(progress, "best.safetensors")
            self._save()
            self._open.log(history)
            if self.keep:
                self._open.keep_epoch(progress, self.keep)

    def on_divergence(self, experiment, diverged):
        with self.writing:
            self._open.keep(diverged.progress)

    def on_interrupt(self):
        self.stop()
        self.draw()

    def stop(self) -> Progress | None:
        """Keep where training stands, which is returned; the run can write nothing after that."""
        self.writing.acquire()  # and never given back
        if self.progress is not None:
            self._save()
        return self.kept

    def draw(self) -> None:
        """The pictures of what was reached: curves.png and kernels.png."""
        if self.kept is not None:
            self._open.draw(self.kept.history, self.kept.state.averaged)

    def _save(self):
        """Keep what is finite."""
        progress = self.progress
        assert progress is not None
        if all(np.isfinite(np.asarray(w, np.float64)).all() for w in jax.tree.leaves(progress.state.params)):
            self._open.keep(progress)
            self.kept = progress
        self.saved = time.monotonic()

    def on_end(self, result):
        with self.writing:
            self._open.draw(result.history, result.params)
            files.write(self.folder / "flow.png", _flow_of_one(result, self.folder.name))

    def on_close(self):
        if self.locked is not None:
            files.unlock(self.locked)


def _flow_of_one(result, name):
    """The picture of the first test image that is taken for another class; of the first, if none is."""
    experiment, predictions = result.experiment, result.measured.predictions
    dataset, labels = experiment.dataset, experiment.dataset.test_labels
    i = int(np.argmax(predictions != labels))
    (image,) = experiment.normalization(dataset.test_images[i : i + 1])
    with precision(experiment.recipe.dtype):
        passed, E = flow(experiment.network, experiment.loss, result.params, image, labels[i])
    right, taken = (dataset.classes[c] for c in (labels[i], predictions[i]))
    outcome = f"{right} taken for {taken}" if right != taken else right
    return plots.flow_picture(passed, dataset.classes, f"{name}: test image {i}, {outcome}; loss {E:.2g}")

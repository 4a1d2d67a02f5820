"""Event files for TensorBoard: `run(recipe, recorder, TensorBoard(recorder))`."""

from typing import Any

from .errors import InputError
from .experiment import Observer
from .recorder import Recorder

__all__ = ["TensorBoard"]


class TensorBoard(Observer):
    """Writes each number of an epoch's metrics as a scalar, over the updates, into the folder of a recorder.

    Where a run goes on the epochs that are over are written anew: what a killed process wrote may lack some.

    Args:
        recorder: whose folder it is; it must be told before this one.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, recorder: Recorder):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("tensorboard needs tensorboardX: pip install '.[tensorboard]' in a checkout") from None
        self.recorder, self.make = recorder, SummaryWriter
        self.writer: Any = None

    def on_checked(self, experiment, gradient_check, progress):
        for path in self.recorder.folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = self.make(str(self.recorder.folder))
        for metrics in progress.history:
            self._write(metrics)

    def on_epoch(self, experiment, progress, found):
        self._write(progress.history[-1])
        self.writer.flush()

    def on_end(self, result):
        self.writer.add_scalar("test_accuracy", result.measured.accuracy, result.history[-1]["step"])
        self.writer.close()

    def _write(self, metrics):
        for name, value in metrics.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, metrics["step"])

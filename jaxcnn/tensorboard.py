"""Event files for TensorBoard: `run(recipe, recorder, TensorBoard(recorder))`."""

from .errors import InputError
from .experiment import Observer
from .recorder import Recorder

__all__ = ["TensorBoard"]


class TensorBoard(Observer):
    """Writes each number of an epoch's metrics as a scalar, over the updates, into the folder of a recorder.

    Args:
        recorder: whose folder it is; it must be told before this one.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, recorder: Recorder):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError("tensorboard needs tensorboardX: pip install tensorboardX") from None
        self.recorder, self.open = recorder, SummaryWriter
        self.writer: SummaryWriter | None = None

    def on_checked(self, experiment, gradient_check, progress):
        step = int(progress.state.step)  # what an interrupted run wrote after it is hidden
        self.writer = self.open(str(self.recorder.folder), purge_step=step + 1 if step else None)

    def on_epoch(self, experiment, progress, found):
        assert self.writer is not None
        metrics = progress.history[-1]
        for name, value in metrics.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, metrics["step"])
        self.writer.flush()

    def on_end(self, result):
        assert self.writer is not None
        self.writer.add_scalar("test_accuracy", result.measured.accuracy, result.history[-1]["step"])
        self.writer.close()

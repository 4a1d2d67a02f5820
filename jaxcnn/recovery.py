"""When the loss stops being finite: which step spoiled the parameters, and the state before it, computed again."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .plan import at_hand
from .progress import Progress

__all__ = ["NonFiniteLoss"]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite.

    Attributes:
        step: the number of updates, one of which spoiled the parameters, at which this was seen.
        progress: up to the update that spoiled the parameters (where training began, if they were never good).
        state: of the progress, the last parameters whose loss was finite.
        history: the epochs that were finished.
    """

    def __init__(self, what: str, step: int, progress: Progress, history: list[dict]):
        super().__init__(
            f"{what}; the parameters after step {int(progress.state.step)} were kept: a smaller learning rate may help"
        )
        self.step, self.progress, self.state, self.history = step, progress, progress.state, history


def divergence(
    progress: Progress, probed: float, before: tuple[Progress, ...], steps: Callable[[Progress, int], Progress]
) -> NonFiniteLoss:
    """What to raise where a loss of an epoch, or the loss `probed` after its last step, is not finite.

    Args:
        progress: with the losses of the epoch, each that of the parameters before its update.
        probed: the loss after its last step; what it is does not matter where one of the losses is not finite.
        before: the progress before the last two pieces of training, the earlier first.
        steps: `steps(progress, count)`, the progress `count` updates later.
    """
    bad = np.flatnonzero(~np.isfinite(progress.losses))
    step = int(progress.state.step)
    if bad.size:
        step += int(bad[0]) + 1 - len(progress.losses)
        what, good = f"the loss became {progress.losses[bad[0]]} at step {step}", step - 2
    else:
        what, good = f"the loss is {probed} after step {step}", step - 1
    start = next((earlier for earlier in reversed(before) if int(earlier.state.step) <= good), before[0])
    count = good - int(start.state.step)
    good_progress = steps(start, count) if count > 0 else start
    kept = replace(good_progress, state=at_hand(good_progress.state))
    return NonFiniteLoss(what, step, kept, list(progress.history))

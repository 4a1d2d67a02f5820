"""When the loss stops being finite: which step spoiled the parameters, and the state before it, computed again."""

from collections.abc import Callable

import numpy as np

from .training import TrainState, epoch_order, train_step

__all__ = ["NonFiniteLoss"]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; `state` holds the last parameters whose loss was finite.

    Attributes:
        step: the number of updates, one of which spoiled the parameters, at which this was seen.
        state: the state before the update that spoiled the parameters (the given one if they were never good).
        history: the epochs that were finished.
    """

    def __init__(self, what: str, step: int, state: TrainState, history: list[dict]):
        super().__init__(
            f"{what}; the parameters after step {int(state.step)} were kept: a smaller learning rate may help"
        )
        self.step, self.state, self.history = step, state, history


def divergence(
    losses: np.ndarray,
    probed: float,
    earlier: TrainState,
    before: TrainState,
    steps: Callable[[TrainState, int], TrainState],
    history: list[dict],
) -> NonFiniteLoss:
    """What to raise after an epoch whose losses, or whose loss `probed` after its last step, are not all finite.

    Args:
        losses: of every step of the epoch, each that of the parameters before its update.
        probed: the loss after the last step.
        earlier: the state before the epoch before.
        before: the state before the epoch.
        steps: `steps(start, until)`, the state after step `until` of the epoch that begins with `start`.
        history: of the epochs that were finished.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        step = int(before.step) + int(bad[0]) + 1
        what, good = f"the loss became {losses[bad[0]]} at step {step}", max(step - 2, int(earlier.step))
    else:
        step = int(before.step) + len(losses)
        what, good = f"the loss is {probed} after step {step}", step - 1
    return NonFiniteLoss(what, step, steps(before if good >= int(before.step) else earlier, good), history)


def replay(network, loss, optimizer, images, labels, batch_size: int, start: TrainState, until: int) -> TrainState:
    """The state after step `until` of the epoch that begins with `start`, step by step."""
    order = epoch_order(start.key, start.epoch + 1, len(images), batch_size)
    for chosen in order[: until - int(start.step)]:
        start, _ = train_step(network, loss, optimizer, start, images[chosen], labels[chosen])
    return start

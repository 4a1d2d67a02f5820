r"""Where training stands, and the rules that end it.

(1)  stop at the largest number of epochs, or when an epoch's mean training loss is at or below the expected value [T1]
(2)  or when for `patience` epochs the validation images were not classified better than before: early stopping

Prechelt, *Early stopping, but when?* (1998) has (2). Tests: tests/test_fit.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import InputError, check_count, is_number
from .layers.base import Params
from .training import TrainState

__all__ = ["Progress", "best_epoch"]


@dataclass(frozen=True)
class Progress:
    """Where a `fit` stands: all that it needs to go on from there as if nothing had happened.

    Attributes:
        state: the training state.
        history: a dict for each epoch that is over.
        losses: of each step of the epoch that goes on, float64; none between two epochs.
        correct: likewise, how many of the samples were classified right.
        seconds: how long this epoch has been trained.
        best: the parameters after the epoch that classified the validation images best; None without such images.
    """

    state: TrainState
    history: tuple[dict[str, Any], ...] = ()
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    seconds: float = 0.0
    best: Params | None = None


@dataclass(frozen=True)
class StoppingRules:
    """(1) and (2); None is a rule that never holds.

    Raises:
        InputError: a value is out of range.

    >>> rules = StoppingRules(epochs=9, patience=2)
    >>> epochs = [{"validation_accuracy": share, "validation_loss": 0.1} for share in (0.5, 0.7, 0.6, 0.7)]
    >>> best_epoch(epochs), rules.hold(epochs[:3]), rules.hold(epochs)
    (2, False, True)
    """

    epochs: int
    target_error: float | None = None
    patience: int | None = None

    def __post_init__(self):
        check_count("fit", "epochs", self.epochs)
        if self.patience is not None:
            check_count("fit", "patience", self.patience)
        target = self.target_error
        if target is not None and not (is_number(target) and 0 <= target < math.inf):
            raise InputError(f"fit: target_error is {target!r} but must be a finite number of at least 0")

    def hold(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether one of them holds after these epochs."""
        if not history:
            return False
        reached = self.target_error is not None and history[-1]["loss"] <= self.target_error
        waited = self.patience is not None and len(history) - best_epoch(history) >= self.patience
        return len(history) >= self.epochs or reached or waited


def best_epoch(history: Sequence[dict[str, Any]]) -> int:
    """Which epoch, counted from 1, classified most of the validation images right; of equals the one of least loss."""
    return 1 + max(
        range(len(history)), key=lambda i: (history[i]["validation_accuracy"], -history[i]["validation_loss"])
    )

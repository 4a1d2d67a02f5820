"""A run that diverges keeps the last good parameters."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from corners import NETWORK, same, start

from jaxcnn import (
    SGD,
    Dense,
    Flatten,
    NonFiniteLoss,
    Sequential,
    SquaredError,
    fit,
    init_state,
    train_step,
)
from jaxcnn.training import epoch_order


def test_a_diverging_run_stops_and_keeps_the_last_good_parameters(images):
    wild = SGD(3e4)
    with pytest.raises(NonFiniteLoss) as error:
        fit(NETWORK, SquaredError(), wild, start(optimizer=wild), *images, batch_size=8, epochs=10)
    bad, state = error.value.step, error.value.state
    assert error.value.history == []
    assert f"at step {bad}; the parameters after step {int(state.step)} were kept" in str(error.value)
    assert int(state.step) == bad - 2
    assert all(bool(jnp.isfinite(w).all()) for w in jax.tree.leaves(state.params))

    again, finite = start(optimizer=wild), []
    for epoch in (1, 2):
        for chosen in epoch_order(again.key, epoch, 50, 8):
            if int(again.step) == int(state.step):
                assert same(again, state)
            again, metrics = train_step(NETWORK, SquaredError(), wild, again, images[0][chosen], images[1][chosen])
            finite.append(bool(jnp.isfinite(metrics["loss"])))
    assert finite.index(False) + 1 == bad


@dataclass(frozen=True)
class OnlyAt:
    """A schedule: the learning rate at one step, zero at all others."""

    step: int
    learning_rate: float

    def __call__(self, step):
        return jnp.where(step == self.step, self.learning_rate, 0.0)


def test_divergence_in_the_last_update_of_an_epoch_is_seen_before_the_next(images):
    """An update so large that the next loss overflows, at the last step of epoch 1."""
    at_last = SGD(OnlyAt(step=5, learning_rate=1e30))
    with pytest.raises(NonFiniteLoss) as error:
        fit(NETWORK, SquaredError(), at_last, start(optimizer=at_last), *images, batch_size=8, epochs=3)
    assert error.value.step == 6
    assert "after step 6; the parameters after step 5 were kept" in str(error.value)
    assert int(error.value.state.step) == 5
    assert error.value.history == []
    assert same(error.value.state, start(optimizer=at_last))


def test_divergence_seen_only_at_the_first_step_of_an_epoch_replays_the_epoch_before(images):
    """The test images are zeros, which hide the overflow of the weights."""
    at_last, plain = SGD(OnlyAt(step=11, learning_rate=1e30)), Sequential((Flatten(), Dense(3, bias=False)))
    state = init_state(plain, at_last, jax.random.key(0), (6, 6, 1))
    blind = jnp.zeros((4, 6, 6, 1)), jnp.zeros(4, int)
    with pytest.raises(NonFiniteLoss) as error:
        fit(plain, SquaredError(), at_last, state, *images, batch_size=8, epochs=3, validation=blind)
    assert error.value.step == 13
    assert int(error.value.state.step) == 11
    assert [epoch["epoch"] for epoch in error.value.history] == [1, 2]
    assert same(error.value.state, state)

"""with_rule: an operation outside of `jax.jit`."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import conv2d, max_pool2d, softmax_cross_entropy

CALLS = {
    "conv2d": (lambda x, weight: conv2d(x, weight, stride=2), ((2, 7, 6, 3), (3, 2, 3, 4))),
    "conv2d, depthwise": (lambda x, weight: conv2d(x, weight, groups=3), ((2, 7, 6, 3), (3, 2, 1, 3))),
    "max_pool2d": (lambda x: max_pool2d(x, 3, stride=2), ((2, 7, 6, 3),)),
    "softmax_cross_entropy": (lambda z: softmax_cross_entropy(z, jnp.array([1, 0])), ((2, 5),)),
}


@pytest.fixture
def compilations():
    """The names of the events of compilation, as they happen."""
    seen = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_outside_of_jit_compiles_nothing(rng, compilations, name):
    f, shapes = CALLS[name]
    arrays = [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]

    def gradients():
        y, pullback = jax.vjp(f, *arrays)
        return pullback(y)

    jax.clear_caches()
    gradients()
    assert compilations
    compilations.clear()
    gradients()
    assert not compilations

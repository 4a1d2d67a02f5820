"""`operation`: one object; outside of `jax.jit`; what it refuses."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import InputError, conv2d, max_pool2d, operation, relu, softmax_cross_entropy

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


def test_the_second_explicit_chain_outside_of_jit_compiles_nothing(rng, compilations):
    x, weight = (jnp.asarray(rng.standard_normal(shape)) for shape in ((2, 7, 6, 3), (3, 2, 3, 4)))

    def chain():
        u, of_conv = conv2d.forward(x, weight, stride=2)
        y, of_pool = max_pool2d.forward(u, 2)
        (du,) = max_pool2d.backward(of_pool, y, window_size=2)
        return conv2d.backward(of_conv, du, stride=2)

    jax.clear_caches()
    chain()
    compilations.clear()
    chain()
    assert not compilations


def test_forward_mode_is_refused_by_name():
    for asked in (lambda: jax.jvp(relu, (1.0,), (1.0,)), lambda: jax.jacfwd(relu)(1.0)):
        with pytest.raises(TypeError) as error:
            asked()
        assert str(error.value) == (
            "relu: its derivative is a rule of reverse mode but forward mode (jvp, jacfwd) was asked for; "
            "it must be grad, vjp or jacrev"
        )


@operation
def power(x, n=2, *, scale=1.0):
    """scale x^n."""
    return scale * x**n, x


@power.rule
def _(x, dy, *, n, scale):
    return (scale * n * x ** (n - 1) * dy,)


def test_static_arguments_are_the_rules_keywords_wherever_they_are_given():
    assert power.arguments == ("x",)
    assert (power.__name__, power.__doc__, repr(power)) == ("power", "scale x^n.", "<operation power>")
    for call in (lambda x: power(x, 3), lambda x: power(x, n=3), lambda x: power(n=3, x=x)):
        assert float(jax.grad(call)(2.0)) == 12.0
    y, residuals = power.forward(2.0, scale=5.0)
    assert (float(y), float(power.backward(residuals, 1.0, scale=5.0)[0])) == (20.0, 20.0)


def test_another_rule_leaves_the_operation_alone():
    reversed_ = power.with_rule(lambda x, dy, *, n, scale: (-dy,))
    assert float(jax.grad(reversed_)(3.0)) == -1.0
    assert float(reversed_(3.0)) == 9.0
    assert float(jax.grad(power)(3.0)) == 6.0


@operation
def ruleless(x):
    """x, whose rule somebody forgot."""
    return x, None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ruleless(1.0), "ruleless: is an operation without a rule but must have one, by @ruleless.rule"),
        (lambda: conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((1, 1, 1, 1)), stride=[1, 2]), "conv2d: stride is [1, 2] but"),
        (
            lambda: max_pool2d.backward(None, 1.0, stride=2),
            "max_pool2d.backward: the keyword arguments are ['padding', 'stride'] but must be ['padding', 'stride', "
            "'window_size']",
        ),
    ],
)
def test_a_wrong_call_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(sentence)


def test_all_operations_work_without_jit():
    """Every case, forward, under the rule and explicit."""
    script = """
import jax, numpy as np
from jaxcnn.verify.cases import OPERATIONS
from jaxcnn.verify.problem import is_floating
from jaxcnn.verify.registry import explicit, problem_of
from jaxcnn.verify.tolerances import relative_error
assert jax.config.jax_disable_jit
for name, entry in OPERATIONS.items():
    for seed, case in enumerate(entry.cases):
        problem = problem_of(entry.op, case, seed)
        values = problem.values(np.float32)
        args = problem.rebuild(values)
        y, _ = entry.op.forward(*args, **case.hyper)
        by_hand = explicit(entry.op, case.hyper, args, y)
        assert [gradient is not None for gradient in by_hand] == [is_floating(arg) for arg in args], name
        ours = problem.pullback(problem.f)(values, [y])[1]
        for a, b in zip(ours, (gradient for gradient in by_hand if gradient is not None), strict=True):
            assert relative_error(a, b) < 1e-6, name
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"JAX_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr[-2000:]

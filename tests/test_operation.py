"""`operation`: one object; outside of `jax.jit`; what it refuses."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import (
    InputError,
    conv2d,
    dense,
    dropout,
    expected_pool2d,
    max_pool2d,
    operation,
    relu,
    softmax_cross_entropy,
    stochastic_pool2d,
)
from jaxcnn.verify import OPERATIONS

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


def test_a_rule_for_what_the_operation_has_not_and_a_call_without_an_array_are_refused():
    with pytest.raises(InputError, match="ruleless: its rule has the static arguments"):
        ruleless.rule(lambda residuals, dy, *, n: (dy,))
    with pytest.raises(TypeError, match="conv2d: missing a required argument: 'weight'"):
        conv2d(jnp.ones((1, 3, 3, 1)))


@pytest.mark.parametrize(
    ("op", "args", "gradients", "sentence"),
    [
        (
            relu,
            (1.0,),
            1.0,
            "relu: its rule returns no tuple but must return a tuple with one gradient for each array, (du,)",
        ),
        (relu, (1.0,), None, "relu: its rule returns no tuple but"),
        (relu, (1.0,), (1.0, 1.0), "relu: its rule returns 2 gradients but must"),
        (dense, (jnp.ones((1, 1)), jnp.ones((1, 1))), (1.0, 1.0), "for each array, (dx, dweight, dbias)"),
    ],
)
def test_a_rule_without_one_gradient_for_each_array_is_refused(op, args, gradients, sentence):
    wrong = op.with_rule(lambda residuals, dy: gradients)
    y, residuals = wrong.forward(*args)
    for call in (lambda: jax.vjp(wrong, *args)[1](y), lambda: wrong.backward(residuals, y)):
        with pytest.raises(InputError) as error:
            call()
        assert sentence in str(error.value)


def test_another_rule_refuses_what_the_operation_refuses():
    same = stochastic_pool2d.with_rule(stochastic_pool2d.backward)
    with pytest.raises(InputError, match="stochastic_pool2d: x has the entry -1.0 but must have none below 0"):
        same(-jnp.ones((1, 2, 2, 1)), jax.random.key(0), 2)


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
            "max_pool2d.backward: window_size is missing but must be given, as to the forward pass",
        ),
        (
            lambda: max_pool2d.backward(None, 1.0, window=2),
            "max_pool2d.backward: window is given but must be among the static arguments ['window_size', 'stride', "
            "'padding']",
        ),
        (lambda: relu.with_rule(3), "relu: its rule is 3 but must be a function of (residuals, dy)"),
        (lambda: ruleless.rule(3), "ruleless: its rule is 3 but must be a function of (residuals, dy)"),
    ],
)
def test_a_wrong_call_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(sentence)


WITHOUT_JIT = """
import sys
import jax, numpy as np
from functools import partial
from jaxcnn.verify.cases import OPERATIONS
from jaxcnn.verify.tolerances import relative_error
assert jax.config.jax_disable_jit
for name, entry in OPERATIONS.items():
    for case in entry.cases[: int(sys.argv[1])]:
        args = [np.asarray(a, np.float32) if getattr(a, "dtype", 0) == np.float64 else a for a in case.draw(0)]
        args = jax.tree.map(jax.numpy.asarray, args)
        y, residuals = entry.op.forward(*args, **case.hyper)
        explicit = entry.op.backward(residuals, y, **case.hyper)
        f = lambda x: entry.op(x, *args[1:], **case.hyper)
        ours, (dx,) = f(args[0]), jax.vjp(f, args[0])[1](y)
        assert relative_error(ours, y) < 1e-6, name
        assert relative_error(dx, explicit[0]) < 1e-6, name
print("done")
"""


def without_jit(cases):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_JIT, str(cases)],
        env=os.environ | {"JAX_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )


def test_all_operations_work_without_jit():
    """The first case of each, called, under its rule and explicit."""
    done = without_jit(1)
    assert done.stdout == "done\n", done.stderr[-2000:]


@pytest.mark.slow
def test_all_cases_of_all_operations_work_without_jit():
    done = without_jit(100)
    assert done.stdout == "done\n", done.stderr[-2000:]


X, WEIGHT = jnp.ones((1, 3, 3, 1)), jnp.ones((1, 1, 1, 1))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: conv2d(None, WEIGHT), "conv2d: x is None but must be an array"),
        (lambda: conv2d.forward(X, None), "conv2d: weight is None but must be an array"),
        (lambda: conv2d("image", WEIGHT), "conv2d: x is of type str but must be an array of numbers"),
        (lambda: conv2d([[1.0]], WEIGHT), "conv2d: x is of type list but must be a floating-point array"),
        (lambda: relu({1, 2}), "relu: u is of type set but must be an array of numbers"),
        (lambda: expected_pool2d("image", 2), "expected_pool2d: x is of type str but must be an array of numbers"),
        (lambda: dense(jnp.ones((1, 1)), [[1.0]]), "dense: weight is of type list but must be a floating-point array"),
        (lambda: relu.backward(jnp.ones(2), None), "relu.backward: dy is None but must be an array"),
        (lambda: relu.backward(jnp.ones(2), "dy"), "relu.backward: dy is of type str but must be an array of numbers"),
        (
            lambda: relu.backward(jnp.ones(2), [1.0, 2.0]),
            "relu.backward: dy is of type list but must be an array of shape (2,)",
        ),
        (
            lambda: softmax_cross_entropy(jnp.ones((1, 2)), [1]),
            "softmax_cross_entropy: labels is of type list but must be a floating-point array",
        ),
        (
            lambda: dropout(X, 0, rate=0.5),
            "dropout: key is of type int32 and shape () but must be a key, such as jax.random.key(0)",
        ),
        (
            lambda: stochastic_pool2d(X, 0, 2),
            "stochastic_pool2d: key is of type int32 and shape () but must be a key, such as jax.random.key(0)",
        ),
        (
            lambda: dropout(X, jax.random.key(0), rate="half"),
            "dropout: rate is 'half' but must be at least 0 and below 1",
        ),
        (
            lambda: conv2d(X, WEIGHT, stride=jnp.array(2)),
            "conv2d: stride is Array(2, dtype=int32, weak_type=True) but must be hashable: a number, a string or a "
            "tuple of them",
        ),
    ],
)
def test_what_is_no_array_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_refuses_what_is_no_array_in_every_place(name):
    entry = OPERATIONS[name]
    case = entry.cases[0]
    args = case.draw(0)
    for i, argument in enumerate(entry.op.arguments[: len(args)]):
        for value in (None, "text", [1.0]):
            if value is None and f"{name} {argument}" in (
                "conv2d bias",
                "conv_transpose2d bias",
                "dense bias",
                "softmax_cross_entropy weights",
            ):
                continue
            with pytest.raises(InputError, match=f"{name}: {argument} is "):
                entry.op(*args[:i], value, *args[i + 1 :], **case.hyper)

"""Properties that every operation has, run over the registry of cases in jaxcnn.verify.

Values are compared in float64. Two compilations of one formula may sum in another order: EXACT is the bound that the
oracles have.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.kernels import quick_jit
from jaxcnn.verify.cases import OPERATIONS
from jaxcnn.verify.problem import is_floating
from jaxcnn.verify.registry import check_case, check_operations, chosen_cases, explicit
from jaxcnn.verify.tolerances import EXACT, relative_error
from reference.__main__ import check_case as check_against_loops
from reference.__main__ import check_whole_network

CASES = [
    pytest.param(name, case, seed, id=f"{name}-{seed}")
    for name, entry in OPERATIONS.items()
    for seed, case in enumerate(entry.cases)
]
LAST = [pytest.param(name, entry.cases[-1], len(entry.cases) - 1, id=name) for name, entry in OPERATIONS.items()]


def cast(args, dtype):
    """The arguments with the floating ones as JAX arrays of `dtype`."""
    return [jnp.asarray(arg, dtype) if is_floating(arg) else arg for arg in args]


def problem(name, case, seed):
    """The operation, its float64 arguments and a random cotangent."""
    op = OPERATIONS[name].op
    args = cast(case.draw(seed), jnp.float64)
    y = jax.eval_shape(partial(op.forward, **case.hyper), *args)[0]
    return op, args, jnp.asarray(np.random.default_rng(seed + 1).standard_normal(y.shape))


def assert_same(found, expected):
    """Two trees of arrays agree to EXACT, in structure, shape and dtype too."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= EXACT


@pytest.mark.parametrize(("name", "case", "seed"), CASES)
def test_gradients_agree_with_autodiff_and_finite_differences(name, case, seed):
    """And linear in dy, the same in two runs, right in float32 and bfloat16, under jit, vmap, scan and grad of grad."""
    report = check_case(OPERATIONS[name].op, case, seed, transformed=seed == len(OPERATIONS[name].cases) // 2)
    assert report.passed, report
    assert {check.oracle for check in report.checks} >= {
        "structure", "value", "autodiff", "explicit", "differences", "two runs", "linear in dy", "dy = 0",
        "float32", "bfloat16",
    }  # fmt: skip


def test_the_command_checks_a_few_cases_with_the_transformations_or_all():
    """Those of relu are two; the library's own test above takes the middle case of each operation."""
    first, second = check_operations(["relu"])
    assert "slope" in {check.oracle for check in first}
    assert {check.oracle for check in second} - {check.oracle for check in first} == {
        "jit",
        "vmap",
        "scan",
        "grad of grad",
    }
    assert [seed for seed, _ in chosen_cases(OPERATIONS["conv2d"])] == [0, 4, 8, 12]
    assert len(chosen_cases(OPERATIONS["conv2d"], thorough=True)) == len(OPERATIONS["conv2d"].cases) == 16


@pytest.mark.parametrize(("name", "case", "seed"), CASES)
def test_gradients_agree_with_the_reference(name, case, seed):
    failures = [str(check) for check in check_against_loops(name, case, seed) if not check.passed]
    assert not failures


def test_a_whole_network_agrees_with_the_reference():
    checks = check_whole_network()
    assert {check.oracle for check in checks} == {"value", "reference", "autodiff", "differences"}
    assert not [str(check) for check in checks if not check.passed]


@pytest.mark.parametrize(("name", "case", "seed"), CASES)
@pytest.mark.usefixtures("float64")
def test_shapes_and_dtypes(name, case, seed):
    op, args, dy = problem(name, case, seed)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float64):
        low = cast(args, dtype)
        y = jax.eval_shape(partial(op, **case.hyper), *low)
        assert y.dtype == dtype
        grads = jax.eval_shape(partial(explicit, op, case.hyper), low, dy.astype(dtype))
        assert isinstance(grads, tuple)
        assert len(grads) == len(args)
        for arg, grad in zip(low, grads, strict=True):
            if arg is None or not jnp.issubdtype(arg.dtype, jnp.floating):
                assert grad is None
            else:
                assert (grad.shape, grad.dtype) == (arg.shape, dtype)


@pytest.mark.parametrize(("name", "case", "seed"), LAST)
@pytest.mark.usefixtures("float64")
def test_jit_is_eager_and_residuals_survive_its_boundary(name, case, seed):
    op, args, dy = problem(name, case, seed)
    expected = explicit(op, case.hyper, args, dy)
    _, residuals = quick_jit(partial(op.forward, **case.hyper))(*args)
    assert_same(quick_jit(partial(op.backward, **case.hyper))(residuals, dy), expected)


def test_forward_mode_of_an_operation_is_refused_but_the_hessian_works():
    from jaxcnn import sigmoid

    with pytest.raises(TypeError, match="sigmoid: its derivative is a rule of reverse mode"):
        jax.jvp(sigmoid, (jnp.ones(()),), (jnp.ones(()),))
    y = 1 / (1 + np.exp(-1.0))
    assert float(jax.hessian(sigmoid)(1.0)) == pytest.approx(y * (1 - y) * (1 - 2 * y), rel=1e-5)

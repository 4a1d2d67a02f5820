"""Is a backward rule right? The one engine behind `check_rule`, `check_operations`, the mutants and the soak.

Each question has its file: structure, oracles, kinks, transformations, precision. Here they are asked in order.

The oracle never passes through the rule under test: automatic differentiation sees `plain`, which has none, finite
differences see values alone. Products have the highest precision: by default a GPU rounds float32 to TF32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from .context import Context
from .kinks import judge_kinks, kink_masks, probe, resampled
from .oracles import compare_differences, compare_gradients, compare_values, linear, point_at, two_runs
from .precision import check_precision
from .problem import Problem, described
from .report import Check, Report
from .structure import check_structure, residuals
from .transformations import check_transformations

CHECKED_DTYPES = ("float64", "float32", "bfloat16")
TRANSFORMATIONS = ("jit", "vmap", "scan", "grad of grad")
EXPECTED = ("right", "changed")
CONVENTIONS = ("autodiff", "reference", "left", "right", "mean")


def check_rule(
    f: Callable,
    *args,
    plain: Callable | None = None,
    reference: Callable | None = None,
    argnums: int | Sequence[int] | None = None,
    kinks: str | None = None,
    dtypes: Sequence[str] = CHECKED_DTYPES,
    thorough: bool = False,
    seed: int = 0,
    expect: str = "right",
) -> Report:
    """Check the reverse-mode rule of f, a `jax.custom_vjp` or any other, at these arguments.

    In float64 the rule is compared with finite differences of f, with automatic differentiation of `plain` and with
    `reference`; then in the other dtypes with the truth in float64, within what rounding explains. Its structure, its
    linearity in dy and its behaviour under jit, vmap, scan and a second differentiation are checked, too.
    The caller's `jax_enable_x64` is left as it was.

    A rule that is no derivative on purpose, such as a straight-through estimator, is `expect="changed"`: the report
    says where it agrees with the gradient and where it differs, and never that it passed. Linearity is told, a second
    derivative is not asked for, and the other dtypes are compared with the rule itself in float64. It fails where it
    cannot be run, has other shapes or dtypes, is not finite, or does another thing in a transformation.

    Args:
        f: `f(*args)`, any tree of arrays; bind what is static with `functools.partial`.
        *args: arrays or trees of them. Floating-point leaves are cast to each dtype; the others are kept.
        plain: the same function without the rule, for automatic differentiation.
        reference: `reference(*args, dy)`, NumPy: the gradients, one for each argument, None for what has none.
        argnums: positions of the arguments to differentiate by; all unless given.
        kinks: which derivative the rule promises where the two one-sided ones differ: that of "autodiff" of `plain`,
            of the "reference", "left" (from below), "right", or their "mean". Without it kinks are not judged.
        dtypes: of the checks, "float64" first.
        thorough: the transformations in float32, too, and four draws of the arguments in place of one.
        seed: of the cotangents and everything else that is random.
        expect: "right", or "changed" for a rule that is another than the gradient on purpose.

    Raises:
        InputError: an argument does not fit, or f cannot be called with `args`.

    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))
    >>> report = check_rule(square, np.array([1.0, -2.0, 0.5]), plain=lambda x: x * x)
    >>> report.failed, report.checks[3].note
    (True, 'scaled by 1/2')
    >>> check_rule(square, np.array([1.0, -2.0, 0.5]), plain=lambda x: x * x, expect="changed").verdict
    'changed: dx differs from the true gradient in 3 of 3 entries (cosine 1.00)'
    """
    if expect not in EXPECTED:
        raise InputError(f"check_rule: expect is {expect!r} but must be one of {', '.join(EXPECTED)}")
    if kinks is not None and kinks not in CONVENTIONS:
        raise InputError(f"check_rule: kinks is {kinks!r} but must be one of {', '.join(CONVENTIONS)}")
    for needed, given in (("autodiff", plain), ("reference", reference)):
        if kinks == needed and given is None:
            raise InputError(f"check_rule: kinks is {kinks!r} but {'plain' if given is plain else 'reference'} is None")
    for dtype in dtypes:
        if dtype not in ("float64", "float32", "float16", "bfloat16"):
            raise InputError(
                f"check_rule: dtypes has {dtype!r} but must have names among float64, float32, float16, bfloat16"
            )
    name = getattr(f, "__name__", None) or getattr(getattr(f, "func", None), "__name__", type(f).__name__)
    return check(
        Problem.of(f, args, plain, argnums, None),
        name=name,
        case=described(args),
        reference=reference,
        kinks=kinks,
        dtypes=dtypes,
        transformations=TRANSFORMATIONS if expect == "right" else TRANSFORMATIONS[:-1],
        thorough=thorough,
        seed=seed,
        expect=expect,
    )


def check(
    problem: Problem,
    *,
    name: str,
    case: str,
    reference: Callable | None = None,
    others: Mapping[str, Callable] | None = None,
    kinks: str | None = None,
    differences: bool = True,
    dtypes: Sequence[str] = CHECKED_DTYPES,
    terms: int | None = None,
    transformations: Sequence[str] = (),
    thorough: bool = False,
    seed: int = 0,
    expect: str = "right",
) -> Report:
    """`check_rule` with everything to choose.

    Args:
        problem: the function and its arguments.
        name, case: the report's words for them.
        reference, kinks, dtypes, thorough, seed, expect: see `check_rule`.
        others: more oracles by name, `(values, dys) -> gradients`.
        differences: whether to take finite differences.
        terms: products in the longest sum; counted in the traced rule unless given.
        transformations: among "jit", "vmap", "scan", "grad of grad".
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        context = Context.of(problem, name, case, others or {}, kinks, terms, seed, expect)
        facts = _facts(context) | {"oracles": ", ".join(_oracle_names(problem, differences, reference, others))}
        if expect == "changed":
            facts["expect"] = (
                "changed: a difference from the gradient is told, not judged; other dtypes beside the rule in float64"
            )
        checks, runs = check_structure(context)
        if not runs:
            return Report(tuple(checks), facts, expect=expect)
        if terms is None:
            facts["residuals"] = residuals(context)
        confirmed = True
        for draw in range(4 if thorough else 1):
            found, right = _at_draw(context, draw, reference, differences)
            checks, confirmed = checks + found, confirmed and right
        checks += check_transformations(context, transformations, np.float64)
        # a changed rule is the truth of its own in other dtypes
        own, confirmed = (context, confirmed) if expect == "right" else (replace(context, truth=None), True)
        for dtype in dtypes:
            if dtype != "float64":
                checks += check_precision(own, jnp.dtype(dtype), confirmed)
        if thorough and "float32" in dtypes:
            once = [name for name in transformations if name != "grad of grad"]
            checks += check_transformations(context, once, np.float32)
        return Report(tuple(checks), facts, context.arrays, expect)


def _at_draw(context, draw, reference, differences) -> tuple[list[Check], bool]:
    """The checks at one draw of arguments and cotangents, and whether every oracle confirms the gradients."""
    point = point_at(context, draw, reference)
    probes = probe(context, point) if differences else []
    kinks = kink_masks(point, probes)
    gradients = [*compare_gradients(context, point, kinks), *compare_differences(context, point, probes)]
    checks = [*compare_values(context, point), *gradients]
    if any(mask.any() for mask in kinks):
        checks += [*judge_kinks(context, point, probes), *resampled(context, point, draw)]
    checks += [two_runs(context, point), *linear(context, point, draw)]
    return checks, all(check.verdict != "FAILED" for check in gradients)


def _facts(context) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "rule": f"{context.name}({context.case})",
        "device": f"{device.device_kind} ({device.platform})",
        "versions": f"jax {jax.__version__}, numpy {np.__version__}",
        "precision": "matrix products and convolutions: highest",
        "seed": context.seed,
    }


def _oracle_names(problem, differences, reference, others):
    if problem.plain is not None:
        yield "automatic differentiation of plain"
    if differences:
        yield "finite differences of f in float64"
    if reference is not None:
        yield "the NumPy reference"
    yield from others or {}

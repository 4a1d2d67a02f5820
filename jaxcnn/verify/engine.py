r"""Is a backward rule right? The one engine behind `check_rule`, `check_operations`, the mutants and the soak.

The oracle never passes through the rule under test: automatic differentiation sees `plain`, which has none, finite
differences see values alone. Products have the highest precision: by default a GPU rounds float32 to TF32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..kernels import quick_jit
from .diagnosis import diagnose
from .differences import Differences, Prober
from .problem import Problem, described, is_floating
from .report import Check, Report
from .tolerances import (
    EXACT,
    FAULT,
    FINITE_DIFFERENCE,
    NEGLIGIBLE,
    SLOPE,
    relative_error,
    rounding_terms,
    scales,
    tolerance,
)

DTYPES = ("float64", "float32", "bfloat16")
CONVENTIONS = ("autodiff", "reference", "left", "right", "mean")
SAMPLES = 3  # of vmap and scan
SHOWN = 3  # kinks named in a line
FIRST, MOST = 2, 1024  # draws of a fitted slope


def check_rule(
    f: Callable,
    *args,
    plain: Callable | None = None,
    reference: Callable | None = None,
    argnums: int | Sequence[int] | None = None,
    kinks: str | None = None,
    dtypes: Sequence[str] = DTYPES,
    thorough: bool = False,
    seed: int = 0,
) -> Report:
    """Check the reverse-mode rule of f, a `jax.custom_vjp` or any other, at these arguments.

    In float64 the rule is compared with finite differences of f, with automatic differentiation of `plain` and with
    `reference`; then in the other dtypes with the truth in float64, within what rounding explains. Its structure, its
    linearity in dy and its behaviour under jit, vmap, scan and a second differentiation are checked, too.
    The caller's `jax_enable_x64` is left as it was.

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

    Raises:
        InputError: an argument does not fit, or f cannot be called with `args`.

    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))
    >>> report = check_rule(square, np.array([1.0, -2.0, 0.5]), plain=lambda x: x * x)
    >>> report.failed, report.checks[3].note
    (True, 'scaled by 1/2')
    """
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
        transformations=("jit", "vmap", "scan", "grad of grad"),
        thorough=thorough,
        seed=seed,
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
    dtypes: Sequence[str] = DTYPES,
    terms: int | None = None,
    transformations: Sequence[str] = (),
    thorough: bool = False,
    seed: int = 0,
) -> Report:
    """`check_rule` with everything to choose.

    Args:
        problem: the function and its arguments.
        name, case: the report's words for them.
        reference, kinks, dtypes, thorough, seed: see `check_rule`.
        others: more oracles by name, `(values, dys) -> gradients`.
        differences: whether to take finite differences.
        terms: products in the longest sum; counted in the traced rule unless given.
        transformations: among "jit", "vmap", "scan", "grad of grad".
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        run = _Run(problem, name, case, others or {}, kinks, terms, seed)
        try:
            outputs = jax.eval_shape(problem.value, problem.values(np.float64))
        except Exception as error:
            raise InputError(f"{name}({case}) cannot be called: {_words(error)}") from error
        if not outputs:
            raise InputError(f"{name}({case}) returns no floating-point array; there must be one to differentiate")
        run.facts |= {"oracles": ", ".join(_oracle_names(problem, differences, reference, others))}
        if run.structure(outputs):
            for draw in range(4 if thorough else 1):
                run.in_float64(draw, reference, differences)
            for transformation in transformations:
                run.transformation(transformation, np.float64)
            for dtype in dtypes:
                if dtype != "float64":
                    run.in_low_precision(jnp.dtype(dtype))
            if thorough and "float32" in dtypes:
                for transformation in transformations:
                    if transformation != "grad of grad":
                        run.transformation(transformation, np.float32)
        return Report(tuple(run.checks), run.facts, run.arrays)


class _Run:
    """The checks of one problem as they come; used once."""

    def __init__(self, problem, name, case, others, kinks, terms, seed):
        self.problem, self.name, self.case, self.convention, self.seed = problem, name, case, kinks, seed
        self.checks, self.arrays, self.loops = [], {}, {}
        self.others = others
        self.rule = quick_jit(self._both)
        self.truth = None if problem.plain is None else _autodiff(problem)
        self.prober = Prober(problem.value, lambda values: self.rule(values, self.cotangents(0))[0])
        self._terms = terms
        self.confirmed = True
        device = jax.devices()[0]
        self.facts: dict[str, Any] = {
            "rule": f"{name}({case})",
            "device": f"{device.device_kind} ({device.platform})",
            "versions": f"jax {jax.__version__}, numpy {np.__version__}",
            "precision": "matrix products and convolutions: highest",
            "seed": seed,
        }

    def _both(self, values, dys):
        outputs, grads = self.problem.pullback(self.problem.f)(values, dys)
        others = {name: gradients(values, dys) for name, gradients in self.others.items()}
        return self.problem.value(values), outputs, grads, others

    def add(self, oracle, argument="", error=0.0, allowed=0.0, **more):
        self.checks.append(Check(self.name, oracle, self.case, argument, error, allowed, **more))

    def structure(self, outputs) -> bool:
        """The rule can be run, and gradients have the shapes and dtypes of their arguments; integers have none."""
        problem = self.problem
        values = problem.values(np.float64)
        self.dtype = jnp.result_type(*outputs)
        if self.dtype != np.float64:
            self.add("float64", reason=f"f returns {self.dtype} for float64 arguments; compared within its rounding")
            values = problem.values(self.dtype)
            outputs = jax.eval_shape(problem.value, values)
        try:
            self.outputs = outputs
            dys = self.cotangents(0)
            _, _, grads, _ = jax.eval_shape(self.rule, values, dys)  # the trace is kept for the call
            self._check_integers(values, dys)
        except Exception as error:
            self.add("structure", error=math.inf, note=_words(error))
            self.add("gradients", reason="the rule cannot be run")
            return False
        for name, value, grad in zip(problem.names, values, grads, strict=True):
            if grad.dtype != value.dtype or grad.shape != value.shape:
                note = f"the gradient is {grad.dtype}{grad.shape} but must be {value.dtype}{value.shape}"
                self.add("structure", name, math.inf, note=note)
        if not any(check.verdict == "FAILED" for check in self.checks):
            self.add("structure", note="trees, shapes and dtypes are those of the arguments")
        if self._terms is None:
            kept = _residual_bytes(problem, problem.f, values)
            beside = ""
            if problem.plain is not None:
                beside = f"; autodiff of plain keeps {_residual_bytes(problem, problem.plain, values):,}"
            self.facts["residuals"] = f"{kept:,} bytes{beside}"
            self._terms = rounding_terms(jax.make_jaxpr(self._both)(values, dys))
        return True

    def _check_integers(self, values, dys):
        """All arguments at once through `jax.vjp`: raises what JAX has to say about gradients of integers."""
        leaves, tree = jax.tree.flatten(self.problem.rebuild(values))
        others = [leaf for i, leaf in enumerate(leaves) if i not in self.problem.places]
        if not others:
            return

        def all_gradients(leaves, dys):
            f = self.problem.f
            _, pull = jax.vjp(lambda *l: [y for y in jax.tree.leaves(f(*tree.unflatten(l))) if is_floating(y)], *leaves)
            return [g for g, l in zip(pull(dys), leaves, strict=True) if is_floating(l)]

        jax.eval_shape(all_gradients, [jnp.asarray(l) if not hasattr(l, "dtype") else l for l in leaves], dys)

    def cotangents(self, draw, dtype=None):
        rng = np.random.default_rng((self.seed, 1000 + draw))
        return [np.asarray(rng.standard_normal(y.shape)).astype(dtype or y.dtype) for y in self.outputs]

    def values(self, draw, dtype=None):
        """The arguments themselves at first, then moved at random."""
        return self.problem.values(dtype or self.dtype, None if draw == 0 else self.seed + 7919 * draw)

    def in_float64(self, draw, reference, differences):
        """The value and the gradients at one draw, against every oracle; what must hold exactly."""
        values, dys = self.values(draw), self.cotangents(draw)
        value, outputs, grads, others = self.rule(values, dys)
        self._compare_values("value", value, outputs, "f and its forward pass under the rule")
        truths = {}
        if self.truth is not None:
            plain_value, truths["autodiff"] = self.truth(values, dys)
            self._compare_values("value", value, plain_value, "f and plain")
        if reference is not None:
            truths["reference"] = self._of_reference(reference, values, dys)
        truths |= others
        probes: list[list[Differences]] | None = None
        if differences:
            probes = self.prober.probe(values, dys, self.seed)
            self._probe_suspects(probes, truths.get("autodiff"), values, dys, grads)
            self._hidden_kinks(probes, values, dys, grads)
        kinks = self._kinks(probes, values)
        before = len(self.checks)
        for oracle, truth in truths.items():
            skip = kinks if oracle == "autodiff" and self.convention is None else None
            self._compare(oracle, grads, truth, values, dys, kinks, skip)
        if probes is not None:
            self._compare_differences(probes, values, dys, grads)
        self.confirmed &= all(check.verdict != "FAILED" for check in self.checks[before:])
        if kinks is not None and any(k.any() for k in kinks):
            self._judge_kinks(probes, truths, grads, values)
            away = self.problem.values(self.dtype, self.seed + 31 * (draw + 1), away=True)
            fresh = self.prober.probe(away, dys, self.seed)
            self._compare_differences(fresh, away, dys, self.rule(away, dys)[2], "resampled away from the kinks")
        again = self.rule(values, dys)[2]
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(grads, again, strict=True))
        self.add("two runs", error=0.0 if same else math.inf, note="" if same else "the bits differ from run to run")
        self._linear(values, dys, grads, draw)

    def _compare_values(self, oracle, value, other, words):
        allowed = tolerance(self.dtype, self._terms)
        if [(v.shape, v.dtype) for v in value] != [(v.shape, v.dtype) for v in other]:
            self.add(oracle, words, math.inf, note="the outputs differ in number, shape or dtype")
            return
        errors = [relative_error(a, b) for a, b in zip(value, other, strict=True)]
        if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(value, other, strict=True)):
            errors = [0.0]
        self.add(oracle, words, max(errors), allowed)

    def _of_reference(self, reference, values, dys):
        args = jax.tree.map(
            lambda a: a if jnp.issubdtype(a.dtype, jax.dtypes.extended) else np.asarray(a), self.problem.rebuild(values)
        )
        tree = jax.tree.structure(jax.eval_shape(self.problem.f, *self.problem.rebuild(values)))
        dy = jax.tree.unflatten(tree, [np.asarray(d) for d in dys])
        found = reference(*args, dy)
        leaves = jax.tree.structure(args).flatten_up_to(found if isinstance(found, tuple) else (found,))
        return [leaves[place] for place in self.problem.places]

    def _compare(self, oracle, grads, truths, values, dys, kinks=None, skip=None, allowed=None, dtype=None):
        """A line for each argument: the worst entry and the diagnosis."""
        if len(truths) != len(grads) or any(t is None for t in truths):
            self.add(oracle, error=math.inf, note="the oracle has another number of gradients than the rule")
            return
        if allowed is None:
            allowed = [tolerance(self.dtype, self._terms)] * len(grads)
        for i, scale in enumerate(scales(truths)):
            found, truth = np.asarray(grads[i], np.float64), np.asarray(truths[i], np.float64)
            if skip is not None and skip[i].any():
                found, truth = np.where(skip[i], 0, found), np.where(skip[i], 0, truth)
            error, name = relative_error(found, truth, scale), self.problem.names[i]
            if oracle not in ("explicit",):
                self.arrays.setdefault((name, oracle), (found, truth, scale))
            if not error > allowed[i]:
                self._worst(oracle, name, found, truth, error, allowed[i])
                continue
            note = diagnose(found, truth, values[i], dys, None if kinks is None else kinks[i], allowed[i])
            self._worst(oracle, name, found, truth, error, allowed[i], note)

    def _worst(self, oracle, name, found, truth, error, allowed, note=""):
        index, pair = None, {}
        if found.shape == truth.shape and found.size:
            with np.errstate(invalid="ignore"):
                gap = np.abs(found - truth)
            gap = np.where(np.isfinite(gap), gap, np.inf)
            index = tuple(int(i) for i in np.unravel_index(np.argmax(gap), gap.shape))
            pair = {"value": float(found[index]), "truth": float(truth[index])}
        self.add(oracle, name, error, allowed, index=index, note=note, **pair)

    def _probe_suspects(self, probes, autodiff, values, dys, grads):
        """Entries of a large argument where autodiff disagrees: they may be kinks, and they name the fault."""
        for i, found in enumerate(probes):
            if len(found) < 2 or autodiff is None:
                continue
            gap = np.abs(np.asarray(grads[i]) - np.asarray(autodiff[i])).ravel()
            wrong = np.argsort(-gap)[:64]
            wrong = wrong[gap[wrong] > EXACT * (np.abs(np.asarray(autodiff[i])).max() or 1)]
            if wrong.size:
                found.append(self.prober.entries(values, dys, i, wrong))

    def _hidden_kinks(self, probes, values, dys, grads):
        """Entries that disagree where f has a kink along other lines than the entries': all of several equal ones.

        The median of three equal entries does not move with any single one of them, but with all of them.
        """
        for i, found in enumerate(probes):
            for part in (part for part in found if part.entries is not None):
                gap = np.abs(part.of(np.asarray(grads[i])) - part.derivative)
                scale = np.abs(part.derivative).max(initial=0, where=np.isfinite(part.derivative)) or 1.0
                wrong = ~part.kinks & ~(gap <= FINITE_DIFFERENCE * scale + 2 * part.error)
                if wrong.any() and self.prober.directions(values, dys, self.seed)[i].kinks.all():
                    part.kinks[wrong] = True

    def _kinks(self, probes, values):
        """For each argument a bool for each entry: a kink, as far as entries were probed."""
        if probes is None:
            return None
        kinks = [np.zeros(v.shape, bool) for v in values]
        for mask, found in zip(kinks, probes, strict=True):
            for part in found:
                if part.entries is not None:
                    mask.reshape(-1)[part.entries[part.kinks]] = True
        return kinks

    def _compare_differences(self, probes, values, dys, grads, extra=""):
        """A line for each argument: the worst of the lines that were probed, kinks and what does not settle apart."""
        largest = scales([np.concatenate([part.derivative[~part.kinks] for part in found]) for found in probes])
        base = FINITE_DIFFERENCE if self.dtype == np.float64 else tolerance(self.dtype, self._terms)
        for i, (found, scale) in enumerate(zip(probes, largest, strict=True)):
            name, gradient = self.problem.names[i], np.asarray(grads[i], np.float64)
            worst, unsettled, scale = None, 0, scale or 1.0
            for part in found:
                said = part.of(gradient)
                with np.errstate(invalid="ignore"):
                    gap, allowed = np.abs(said - part.derivative) / scale, base + 2 * part.error / scale
                gap = np.where(np.isfinite(gap), gap, np.inf)
                settled = ~part.kinks & (allowed < SLOPE)
                unsettled += (~part.kinks & ~settled).sum()
                with np.errstate(invalid="ignore"):
                    ratio = np.where(settled, gap / allowed, -1)
                at = int(np.argmax(ratio))
                if ratio[at] >= 0 and (worst is None or ratio[at] > worst[0]):
                    worst = ratio[at], part, at, float(gap[at]), float(allowed[at]), float(said[at])
            if unsettled:
                self.add("differences", name, reason=f"the differences do not settle along {unsettled} lines")
            if worst is None:
                if not unsettled and extra:  # before, the arguments are about to be resampled
                    self.add("differences", name, reason="every line that was probed has a kink")
                continue
            _, part, at, gap, allowed, said = worst
            index, note = None, extra
            if part.entries is not None:
                index = tuple(int(j) for j in np.unravel_index(part.entries[at], gradient.shape))
            elif gap > allowed:
                note = f"along random directions, the worst entry is not located; {extra}".rstrip("; ")
            if gap > allowed and len(found) == 1:
                truth = np.where(part.kinks, gradient.ravel(), part.derivative).reshape(gradient.shape)
                self.arrays.setdefault((name, "differences"), (gradient, truth, scale))
                note = "; ".join(filter(None, [diagnose(gradient, truth, values[i], dys, None, 1e-6), extra]))
            truth = float(part.derivative[at])
            self.add("differences", name, gap, allowed, index=index, value=said, truth=truth, note=note)

    def _judge_kinks(self, probes, truths, grads, values):
        """What the rule gives where the one-sided derivatives differ, against the convention that was stated."""
        for i, found in enumerate(probes):
            for part in (part for part in found if part.entries is not None and part.kinks.any()):
                at = np.flatnonzero(part.kinks)
                said = part.of(np.asarray(grads[i]))[at]
                left, right = part.left[at], part.right[at]
                shown = ", ".join(
                    f"{tuple(int(j) for j in np.unravel_index(part.entries[k], values[i].shape))}: "
                    f"{l:.3g} from below, {r:.3g} from above, the rule has {s:.3g}"
                    for k, l, r, s in list(zip(at, left, right, said, strict=True))[:SHOWN]
                )
                more = f" and {len(at) - SHOWN} more" if len(at) > SHOWN else ""
                words, name = f"kink at {shown}{more}", self.problem.names[i]
                if self.convention is None:
                    self.add("kinks", name, reason=f"{words}; no convention was stated (kinks=...)")
                    continue
                sides = {"left": left, "right": right, "mean": (left + right) / 2}
                allowed = 1e-5
                if self.convention in sides:
                    expected = sides[self.convention]
                else:
                    expected, allowed = part.of(np.asarray(truths[self.convention][i]))[at], EXACT
                scale = max(np.abs(expected).max(), np.abs(np.concatenate([left, right])).max()) or 1.0
                error = relative_error(said, expected, scale)
                words += "" if error <= allowed else f"; must be that of {self.convention}"
                self.add("kinks", name, error, allowed, note=words)

    def _linear(self, values, dys, grads, draw):
        """dy enters linearly, and dy = 0 gives exactly 0."""
        dys, other = _arrays(dys), _arrays(self.cotangents(draw + 500))
        mixed = self.rule(values, [2 * a - 3 * b for a, b in zip(dys, other, strict=True)])[2]
        grads, second = _arrays(grads), _arrays(self.rule(values, other)[2])
        expected = [2 * a - 3 * b for a, b in zip(grads, second, strict=True)]
        # each part has rounding errors of its own size, however much of it cancels
        sizes = scales([np.stack([2 * a, 3 * b]) for a, b in zip(grads, second, strict=True)])
        error = max(relative_error(a, b, s) for a, b, s in zip(mixed, expected, sizes, strict=True))
        self.add("linear in dy", "", error, tolerance(self.dtype, self._terms))
        zero = _arrays(self.rule(values, [0 * dy for dy in dys])[2])
        bad = [name for name, g in zip(self.problem.names, zero, strict=True) if (g != 0).any()]
        self.add("dy = 0", "", math.inf if bad else 0.0, note=f"gives another gradient than 0 for {bad}" if bad else "")

    def transformation(self, name, dtype):
        """A line: jit, vmap, scan, grad of grad against the rule itself, compiled and applied once after the other."""
        check = {"jit": self._jit, "vmap": self._vmap, "scan": self._scan, "grad of grad": self._second}[name]
        label = name if dtype == np.float64 else f"{name} in {np.dtype(dtype)}"
        dtype = self.dtype if dtype == np.float64 else dtype
        try:
            error, allowed, note = check(dtype)
        except Exception as error:
            self.add(label, error=math.inf, note=f"raises {_words(error)}")
            return
        self.add(label, "", error, allowed, note=note)

    def _jit(self, dtype):
        values, dys = self.values(0, dtype), self._dys(0, dtype)
        before = [np.array(v) for v in values]
        eager = self.problem.pullback(self.problem.f)(values, dys)[1]
        allowed = tolerance(dtype, self._terms)
        error = _largest_error(self.rule(values, dys)[2], eager)
        words = "= eager; the arguments are unchanged" if error <= allowed else "is not eager"
        if any(v.is_deleted() or not np.array_equal(v, b, equal_nan=True) for v, b in zip(values, before, strict=True)):
            return math.inf, allowed, "the arguments were changed"
        return error, allowed, words

    def _vmap(self, dtype):
        return self._stacked(dtype, jax.vmap)

    def _scan(self, dtype):
        def in_scan(f):
            return lambda *stack: jax.lax.scan(lambda count, one: (count + 1, f(*one)), 0, stack)[1]

        return self._stacked(dtype, in_scan)

    def _stacked(self, dtype, transform):
        """`transform` of the gradient over samples that differ in every argument, keys too."""
        if dtype not in self.loops:
            self.loops[dtype] = self._loop(dtype)
        gradients, stack, expected = self.loops[dtype]
        found = quick_jit(transform(gradients))(*stack)
        error, allowed = _largest_error(found, expected), tolerance(dtype, self._terms)
        return error, allowed, "= a loop" if error <= allowed else "is not a loop over the samples"

    def _loop(self, dtype):
        """The gradient as a function of all leaves and dy, stacked samples of these, and the gradients one by one."""
        leaves, tree = jax.tree.flatten(self.problem.args)

        def gradients(leaves, dys):
            args = tree.unflatten(leaves)
            problem = Problem(self.problem.f, args, None, self.problem.names, self.problem.places)
            return problem.pullback(problem.f)([leaves[place] for place in problem.places], dys)[1]

        samples = []
        for sample in range(SAMPLES):
            values = iter(self.values(sample, dtype))
            one = [
                next(values) if i in self.problem.places else _again(leaf, sample, dtype)
                for i, leaf in enumerate(leaves)
            ]
            samples.append((one, self._dys(sample, dtype)))
        one = quick_jit(gradients)
        stack = jax.tree.map(_stack, *samples)
        return gradients, stack, jax.tree.map(_stack, *(one(*sample) for sample in samples))

    def _second(self, dtype):
        """The derivative of <gradient, w> by the rule's own rule, against differences of the gradient."""
        values, dys = self.values(0, dtype), self._dys(0, dtype)
        count = len(values)

        def gradient(point):
            return self.problem.pullback(self.problem.f)(list(point[:count]), list(point[count:]))[1]

        rng = np.random.default_rng((self.seed, 3))
        w = [np.asarray(rng.standard_normal(v.shape)).astype(v.dtype) for v in values]
        point = [*values, *dys]
        found = quick_jit(lambda point, w: jax.vjp(gradient, point)[1](w)[0])(point, w)
        prober, worst = Prober(gradient), (0.0, FINITE_DIFFERENCE)
        largest = scales([np.asarray(g) for g in found])
        crossed = 0
        for i, part in enumerate(prober.directions(point, w, self.seed)):
            said = part.of(np.asarray(found[i]))
            scale = np.linalg.norm(np.asarray(found[i]).ravel()) or largest[i] or 1.0
            gap, allowed = np.abs(said - part.derivative) / scale, 10 * FINITE_DIFFERENCE + 2 * part.error / scale
            crossed += part.kinks.sum()
            ratio = np.where(part.kinks, -1, np.where(np.isfinite(said), gap / allowed, np.inf))
            at = int(np.argmax(ratio))
            if ratio[at] > worst[0] / worst[1]:
                worst = (float(gap[at]), float(allowed[at]))
        if worst[0] > worst[1]:
            return *worst, "a second derivative is not that of differences of the gradient"
        note = "= differences of the gradient" + (f"; {crossed} directions met a kink" if crossed else "")
        return *worst, note

    def _dys(self, draw, dtype):
        return [dy.astype(dtype) for dy in self.cotangents(draw)]

    def in_low_precision(self, dtype):
        """The rule in `dtype` against the truth in float64 at the same rounded arguments."""
        if self.dtype != np.float64 and dtype == self.dtype:
            return  # every check above was in this dtype
        if self.truth is None and not self.confirmed:
            self.add(dtype.name, reason="the rule is wrong in float64 already, and there is no other truth")
            return

        def truth(values, dys):
            # rounded arguments tie, and there plain may have another convention: then a confirmed rule is the truth
            if self.truth is not None and (self.convention == "autodiff" or not self.confirmed):
                return self.truth(values, dys)[1]
            return self.rule(values, dys)[2]

        rule = quick_jit(self.problem.pullback(self.problem.f))
        # as most people run it; but what a key draws depends on the setting, and the truth draws with it on
        leaves = jax.tree.leaves(self.problem.args)
        keys = any(jnp.issubdtype(getattr(leaf, "dtype", int), jax.dtypes.prng_key) for leaf in leaves)

        def low(values, dys):
            with jax.enable_x64(keys):
                return rule(values, dys)

        try:
            outputs, found = low(self.values(0, dtype), self._dys(0, dtype))
            kinds = [y.dtype for y in outputs]
        except Exception as error:
            if self._takes(dtype, keys):
                self.add(
                    dtype.name, error=math.inf, note=f"f takes {dtype.name} but its rule does not: {_words(error)}"
                )
            else:
                self.add(dtype.name, reason=f"f does not take {dtype.name}: {_words(error)}")
            return

        def at(draw):
            values = self.values(draw, dtype)
            dys = [d.astype(k) for d, k in zip(self._dys(draw, dtype), kinds, strict=True)]
            wide = [v.astype(self.dtype) for v in _arrays(values)], [d.astype(self.dtype) for d in dys]
            return values, dys, wide, truth(*wide)

        values, dys, wide, truths = at(0)
        for name, value, grad in zip(self.problem.names, values, found, strict=True):
            if grad.dtype != value.dtype:
                note = f"the gradient is {grad.dtype} but must be {value.dtype}"
                self.add("structure", f"{name} in {dtype.name}", math.inf, note=note)
        base = tolerance(dtype, self._terms)
        allowed = [base + 2 * c for c in _conditions(truth, wide, truths, float(jnp.finfo(dtype).eps), self.seed)]
        self._compare(dtype.name, found, truths, values, dys, None, None, allowed)
        if max(allowed) > SLOPE:
            self._slopes(dtype, low, at, found, truths)

    def _takes(self, dtype, x64) -> bool:
        """Whether f itself can be computed in `dtype`."""
        try:
            with jax.enable_x64(x64):
                jax.jit(self.problem.value)(self.values(0, dtype))
        except Exception:
            return False
        return True

    def _slopes(self, dtype, low, at, found, truths):
        """An error of 1 % in every entry, smaller than the rounding of one, shows in the slope over many draws."""
        own = [np.abs(np.asarray(t)).max(initial=0) for t in truths]
        open_ = [i for i in range(len(found)) if own[i] > NEGLIGIBLE * max(own)]
        pairs: list[list] = [[] for _ in found]
        for draw in range(MOST):
            if draw:
                values, dys, _, truths = at(draw)
                found = low(values, dys)[1]
            for i in open_:
                f, t = (np.asarray(a[i], np.float64).ravel() for a in (found, truths))
                if t.any() and np.isfinite(f).all() and np.isfinite(t).all():
                    pairs[i].append((f / np.abs(t).max(), t / np.abs(t).max()))
            if draw + 1 < FIRST or (draw + 1) & draw:  # looked at after 2, 4, 8, ... draws
                continue
            for i in list(open_):
                slope, error = _slope(pairs[i])
                gap, sure = abs(slope - 1), 4 * error
                right, wrong = gap + sure < FAULT, gap - sure > SLOPE
                if not (right or wrong) and draw + 1 < MOST:
                    continue
                open_.remove(i)
                name, words = self.problem.names[i], f"{slope:.4f} ± {error:.4f} in {dtype.name} over {draw + 1} draws"
                if right or wrong:
                    self.add("slope", name, gap, SLOPE if wrong else FAULT - sure, note=words)
                else:
                    self.add("slope", name, reason=f"{words}: rounding hides an error of 1 %")
            if not open_:
                break


def _slope(pairs):
    """The slope of (found, truth) pairs and its standard error; infinite from less than 16 entries."""
    if sum(t.size for _, t in pairs) < 16:
        return 1.0, math.inf
    total = sum((t * t).sum() for _, t in pairs)
    slope = sum((f * t).sum() for f, t in pairs) / total
    return float(slope), math.sqrt(sum((((f - slope * t) * t) ** 2).sum() for f, t in pairs)) / total


def _autodiff(problem):
    """`(values, dys) -> (outputs, gradients)` by `jax.vjp` of plain."""
    # jaxlib 0.10.2's simplifier ends the process at some derivatives of plain convolutions: docs/others.md
    return quick_jit(problem.pullback(problem.plain), xla_disable_hlo_passes="algsimp")


def _arrays(parts):
    """As NumPy arrays: JAX's arithmetic outside of jit is compiled for every shape."""
    return [np.asarray(part) for part in parts]


def _stack(*parts):
    return jnp.stack(parts) if jnp.issubdtype(parts[0].dtype, jax.dtypes.extended) else np.stack(_arrays(parts))


def _conditions(truth, point, truths, eps, seed):
    """How far the truth moves, on its own scale, when arguments and dy move by their rounding."""
    rng = np.random.default_rng((seed, 9))
    worst = np.zeros(len(truths))
    for _ in range(2):
        moved = [[a * (1 + eps * rng.uniform(-0.5, 0.5, a.shape)).astype(a.dtype) for a in part] for part in point]
        for i, (there, here, scale) in enumerate(zip(truth(*moved), truths, scales(truths), strict=True)):
            error = relative_error(there, here, scale)
            worst[i] = max(worst[i], error if math.isfinite(error) else 0.0)
    return worst


def _largest_error(found, expected):
    sizes = scales([np.asarray(e) for e in expected])
    return max(relative_error(f, e, s) for f, e, s in zip(found, expected, sizes, strict=True))


def _again(leaf, sample, dtype):
    """A leaf that is not differentiated, for one sample: a key differs, a floating one is cast."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, sample) if leaf.ndim == 0 else leaf
    return jnp.asarray(leaf, dtype) if is_floating(leaf) else jnp.asarray(leaf)


def _residual_bytes(problem, f, values) -> int:
    kept = jax.eval_shape(lambda v: jax.vjp(lambda *v: problem.value(v, f), *v)[1], values)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def _words(error) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def _oracle_names(problem, differences, reference, others):
    if problem.plain is not None:
        yield "automatic differentiation of plain"
    if differences:
        yield "finite differences of f in float64"
    if reference is not None:
        yield "the NumPy reference"
    yield from others or {}

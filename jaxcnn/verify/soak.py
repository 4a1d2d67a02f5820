"""Right rules at random geometries: does the verifier ever raise a false alarm? Needs hypothesis."""

import math
from collections.abc import Callable

from ..errors import InputError
from .cases import (
    OPERATIONS,
    Case,
    Draw,
    conv_case,
    fixed_norm_case,
    norm_case,
    pool_case,
    transposed_case,
    upsample_case,
)
from .registry import check_problem, problem_of
from .report import Report


def soak(count: int, seed: int = 0, on_report: Callable[[Report], None] = lambda report: None) -> list[Report]:
    """Check the rules of the library at `count` random cases, each in float64, float32 and bfloat16.

    hypothesis draws the geometry; the values come from the seed. Returns the reports of all that did not pass.

    Raises:
        InputError: hypothesis is not installed, or the count is not positive.
    """
    try:
        import hypothesis
        from hypothesis import strategies as st
    except ImportError:
        raise InputError("soak needs hypothesis: pip install hypothesis") from None
    if count < 1:
        raise InputError(f"soak is {count} but must be at least 1")
    bad, done = [], 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=(hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large),
    )
    @hypothesis.given(_cases(st), st.integers(0, 2**31 - 1))
    def run(named_case, values):
        nonlocal done
        if done == count:
            return
        done += 1
        name, case = named_case
        report = check_problem(problem_of(OPERATIONS[name].op, case, values), case, values, name)
        if not report.passed:
            bad.append(report)
        on_report(report)

    while done < count:
        run()
        seed += 1
        run = hypothesis.seed(seed)(run)
    return bad


def _cases(st):
    """A strategy of (operation, case): drawn geometries, or for an operation without any its cases with new values."""
    size, shapes = st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)

    def pointwise(kind):
        return shapes.map(lambda shape: Case((Draw(shape, kind),)))

    def loss(*kinds):
        matrix = st.tuples(st.integers(1, 6), st.integers(2, 6))
        return st.tuples(matrix, st.sampled_from(kinds), st.sampled_from(["mean", "sum"])).map(_loss)

    conv, transposed, pooled = (st.composite(drawing) for drawing in (_conv, _transposed, _pooled))
    maps, pair = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), size), st.tuples(size, size)

    def of_maps(case, *others):
        return st.tuples(maps, *others).map(lambda drawn: case(*drawn))

    wide = {"epsilon": 0.5}  # with a small one dx over two entries is what is left of a difference of larger numbers
    drawn = {
        "conv2d": conv(st),
        "conv_transpose2d": transposed(st),
        "batch_norm": of_maps(lambda shape: norm_case(shape, math.prod(shape[:3]), **wide)),
        "layer_norm": of_maps(lambda shape: norm_case(shape, shape[3], **wide)),
        "instance_norm": of_maps(lambda shape: norm_case(shape, math.prod(shape[1:3]), **wide)),
        "group_norm": of_maps(
            lambda shape, groups: norm_case(
                (*shape[:3], groups * shape[3]), math.prod(shape[1:]), groups=groups, **wide
            ),
            size,
        ),
        "fixed_batch_norm": of_maps(fixed_norm_case),
        "scale": of_maps(lambda shape: Case((Draw(shape), Draw(shape[3:])), terms=math.prod(shape[:3]))),
        "global_avg_pool2d": of_maps(lambda shape: Case((Draw(shape),), terms=math.prod(shape[1:3]))),
        "global_max_pool2d": of_maps(
            lambda shape, kind: Case((Draw(shape, kind),)), st.sampled_from(["apart", "tied"])
        ),
        "upsample2d_nearest": of_maps(lambda shape, factor: upsample_case(1, shape, factor), pair),
        "upsample2d_bilinear": of_maps(lambda shape, factor: upsample_case(4, shape, factor), pair),
        "pad2d": of_maps(lambda shape, *pads: Case((Draw(shape),), {"padding": pads}), pair, pair),
        "add": of_maps(lambda shape: Case((Draw(shape), Draw(shape)))),
        "multiply": of_maps(
            lambda shape: Case((Draw(shape), Draw((*shape[:1], 1, 1, shape[3]))), terms=math.prod(shape))
        ),
        "leaky_relu": pointwise("apart"),
        **{name: pointwise("wide") for name in ("elu", "hard_swish", "gelu", "gelu_tanh", "silu", "softplus")},
        "max_pool2d": pooled(st, ["apart", "tied"]),
        "avg_pool2d": pooled(st, ["normal"]),
        "dense": st.tuples(size, size, size, st.booleans()).map(_dense),
        "relu": pointwise("apart"),
        "sigmoid": pointwise("normal"),
        "tanh": pointwise("normal"),
        "softmax": shapes.map(lambda shape: Case((Draw((*shape, 3)),), terms=3)),
        "flatten": pointwise("normal"),
        "dropout": st.tuples(shapes, st.sampled_from([0.0, 0.1, 0.5, 0.9])).map(
            lambda drawn: Case((Draw(drawn[0]), Draw(kind="key")), {"rate": drawn[1]})
        ),
        "squared_error": loss("normal"),
        "softmax_cross_entropy": loss("labels", "probabilities", "normal"),
    }
    return st.sampled_from(list(OPERATIONS)).flatmap(
        lambda name: st.tuples(st.just(name), drawn[name] if name in drawn else st.sampled_from(OPERATIONS[name].cases))
    )


def _conv(draw, st):
    size, pair = st.integers(1, 4), st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(st.tuples(size, size)), draw(pair), draw(pair)
    groups, inside, outside = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2))
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    image = tuple(
        max(1, extent - sum(pad)) + draw(st.integers(0, 5)) for extent, pad in zip(extents, pads, strict=True)
    )
    padding = draw(st.sampled_from([pads, pads, "SAME"]))
    x, weight = (draw(st.integers(1, 3)), *image, groups * inside), (*kernel, inside, groups * outside)
    hyper = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return conv_case(x, weight, bias=draw(st.booleans()), **hyper)


def _multiplied(shape):
    return Case((Draw(shape), Draw((shape[0], 1, 1, shape[3]))), terms=math.prod(shape))


def _transposed(draw, st):
    size, pair = st.integers(1, 4), st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(st.tuples(size, size)), draw(pair), draw(pair)
    groups, inside, outside = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = tuple((draw(st.integers(0, extent - 1)), 0) for extent in extents)
    more = tuple(draw(st.integers(0, s - 1)) for s in stride)
    x, weight = (draw(st.integers(1, 2)), *draw(pair), groups * inside), (*kernel, outside, groups * inside)
    hyper = {"stride": stride, "padding": pads, "dilation": dilation, "output_padding": more, "groups": groups}
    try:
        return transposed_case(x, weight, bias=draw(st.booleans()), **hyper)
    except InputError:
        return transposed_case(x, weight, groups=groups)


def _pooled(draw, st, kinds):
    size, pair = st.integers(1, 4), st.tuples(st.integers(1, 3), st.integers(1, 3))
    window = draw(st.tuples(size, size))
    image = tuple(k + draw(st.integers(0, 4)) for k in window)
    pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in window)
    # every window must cover an entry: the last one starts before the end
    hyper = {"stride": draw(st.none() | pair), "padding": draw(st.sampled_from([pads, "SAME", "VALID"]))}
    shape = (draw(st.integers(1, 2)), *image, draw(st.integers(1, 3)))
    try:
        return pool_case(shape, draw(st.sampled_from(kinds)), window_size=window, **hyper)
    except InputError:
        return pool_case(shape, draw(st.sampled_from(kinds)), window_size=window)


def _dense(sizes):
    N, I, O, bias = sizes
    return Case((Draw((N, I)), Draw((I, O)), Draw((O,)) if bias else None), terms=max(N, I, O))


def _loss(drawn):
    (N, K), kind, reduction = drawn
    second = Draw((N,) if kind == "labels" else (N, K), kind, K)
    return Case((Draw((N, K)), second), {"reduction": reduction}, N * K)

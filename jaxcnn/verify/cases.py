"""Every operation with the cases that every generic check runs over.

The probes are random and asymmetric: sizes differ along every axis, so that a flip or a transposition shows.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ..errors import find
from ..geometry import pair, resolve, resolve_pool, resolve_transposed
from ..layers.activation import hard_swish, leaky_relu, relu, scaled_tanh, sigmoid, softmax, tanh
from ..layers.borders import crop2d, pad2d
from ..layers.branches import add, concatenate, multiply
from ..layers.combine_maps import combine_maps
from ..layers.conv import conv2d
from ..layers.conv_transpose import conv_transpose2d
from ..layers.dense import dense
from ..layers.dropout import dropout
from ..layers.global_pool import global_avg_pool2d, global_max_pool2d
from ..layers.median_pool import median_pool2d
from ..layers.norm import batch_norm, fixed_batch_norm, group_norm, instance_norm, layer_norm
from ..layers.pool import avg_pool2d, max_pool2d
from ..layers.reshape import flatten
from ..layers.scale import scale
from ..layers.smooth import elu, gelu, gelu_tanh, silu, softplus
from ..layers.sparsity import entropy_penalty, l1_penalty
from ..layers.stochastic_pool import expected_pool2d, stochastic_pool2d
from ..layers.subsample import subsample2d
from ..layers.upsample import upsample2d_bilinear, upsample2d_nearest
from ..losses import softmax_cross_entropy, squared_error
from ..operation import Operation


@dataclass(frozen=True)
class Draw:
    """How one argument is drawn.

    Kinds: "normal" is N(0, 1); "wide" lies between -6 and 6, where units saturate; "apart" holds distinct values at
    least 0.02 apart and 0.01 from zero, for operations with kinks; "tied" holds only 0, 1 and 2, so that most windows
    tie; "positive" lies between 10 and 100, where a step of finite differences does not change a draw; "probabilities"
    are positive rows that sum to one; "labels" are integers below `classes`; "weights" lie between 0.2 and 2, or are 0;
    "key" is a key of `jax.random.key`.
    """

    shape: tuple[int, ...] = ()
    kind: str = "normal"
    classes: int = 0

    def __call__(self, rng: np.random.Generator):
        if self.kind == "normal":
            return rng.standard_normal(self.shape)
        if self.kind == "wide":
            return rng.uniform(-6, 6, self.shape)
        if self.kind == "apart":
            count = math.prod(self.shape)
            return (rng.permutation(count) - count // 2 + 0.5).reshape(self.shape) * max(0.02, 4 / count)
        if self.kind == "tied":
            return rng.integers(0, 3, self.shape).astype(np.float64)
        if self.kind == "positive":
            return rng.uniform(10, 100, self.shape)
        if self.kind == "probabilities":
            return rng.dirichlet(np.ones(self.shape[-1]), self.shape[:-1])
        if self.kind == "labels":
            return rng.integers(0, self.classes, self.shape).astype(np.int32)
        if self.kind == "weights":
            return rng.uniform(0.2, 2, self.shape) * (rng.random(self.shape) < 0.7)
        return jax.random.key(int(rng.integers(2**31)))


@dataclass(frozen=True)
class Case:
    """Arguments of one call: arrays drawn as `args` says (None stays None), static keyword arguments `hyper`.

    `terms` is the number of products in the longest sum that the value or a gradient needs: the tolerances follow
    from it.
    """

    args: tuple[Draw | None, ...]
    hyper: dict[str, Any] = field(default_factory=dict)
    terms: int = 1

    @property
    def smooth(self) -> bool:
        """No argument is drawn on a kink, so finite differences have the derivative as their limit."""
        return not any(spec is not None and spec.kind == "tied" for spec in self.args)

    def draw(self, seed: int) -> list:
        """The arguments, float64 NumPy arrays where they are floating point."""
        rng = np.random.default_rng(seed)
        return [None if spec is None else spec(rng) for spec in self.args]

    def __str__(self):
        drawn = ["None" if spec is None else f"{spec.kind}{spec.shape}" for spec in self.args]
        return ", ".join(drawn + [f"{name}={value}" for name, value in self.hyper.items()])


@dataclass(frozen=True)
class Entry:
    """An operation and its cases."""

    op: Operation
    cases: tuple[Case, ...]


def find_operation(name: str) -> Entry:
    """The operation called `name`.

    Raises:
        InputError: no operation has this name.

    >>> find_operation("relu").op.arguments
    ('u',)
    """
    return find("op", name, OPERATIONS)


def conv_case(x, weight, bias=True, **hyper) -> Case:
    """A convolution of arrays of these shapes."""
    window = resolve("conv2d", x[1:3], weight[:2], **{k: v for k, v in hyper.items() if k != "groups"})
    U, V, I, O = weight
    terms = max(U * V * I, U * V * O // hyper.get("groups", 1), x[0] * math.prod(window.output))
    return Case((Draw(x), Draw(weight), Draw(weight[3:]) if bias else None), hyper, terms)


CONV_CASES = (
    conv_case((2, 7, 5, 3), (3, 2, 3, 4)),
    conv_case((1, 3, 3, 1), (2, 2, 1, 1), bias=False),
    conv_case((2, 7, 8, 3), (3, 2, 3, 4), stride=(2, 3)),
    conv_case((2, 7, 5, 2), (3, 2, 2, 3), stride=2, padding=((1, 0), (0, 2))),
    conv_case((2, 6, 5, 2), (2, 4, 2, 3), padding="SAME"),
    conv_case((2, 7, 6, 2), (3, 4, 2, 3), stride=(3, 2), padding="SAME"),
    conv_case((2, 8, 7, 2), (3, 2, 2, 3), padding=1, dilation=(2, 3)),
    conv_case((2, 9, 8, 2), (2, 3, 2, 3), stride=(2, 3), padding=((2, 1), (0, 1)), dilation=(3, 2)),
    conv_case((2, 6, 5, 4), (3, 2, 2, 6), groups=2),
    conv_case((2, 8, 7, 6), (3, 2, 2, 9), stride=(2, 1), padding=((0, 1), (2, 1)), dilation=(1, 2), groups=3),
    conv_case((2, 6, 5, 3), (3, 2, 1, 6), padding=1, groups=3),
    conv_case((2, 8, 7, 2), (2, 1, 2, 3), stride=(3, 2)),
    conv_case((2, 5, 4, 3), (1, 1, 3, 2), stride=(2, 1)),
    conv_case((2, 4, 3, 2), (3, 2, 2, 3), padding=((2, 2), (1, 1))),
    conv_case((2, 4, 5, 2), (4, 5, 2, 3)),
    conv_case((1, 4, 3, 1), (1, 2, 1, 2), padding=((3, 1), (2, 2)), stride=2),
)


def transposed_case(x, weight, bias=True, **hyper) -> Case:
    """A transposed convolution of x by kernels of this shape."""
    geometry = {k: v for k, v in hyper.items() if k != "groups"}
    window = resolve_transposed("conv_transpose2d", x[1:3], weight[:2], **geometry)
    (U, V, O, I), groups = weight, hyper.get("groups", 1)
    terms = max(U * V * I // groups, U * V * O, x[0] * math.prod(window.size))
    return Case((Draw(x), Draw(weight), Draw((O * groups,)) if bias else None), hyper, terms)


TRANSPOSED_CASES = (
    transposed_case((2, 4, 3, 3), (3, 2, 2, 3)),
    transposed_case((2, 4, 3, 2), (2, 3, 3, 2), stride=2, padding=((1, 0), (0, 2))),
    transposed_case((2, 3, 4, 2), (2, 1, 3, 2), stride=(3, 2), output_padding=(2, 1)),
    transposed_case((1, 2, 3, 1), (2, 3, 2, 1), bias=False, stride=(3, 1), padding=1),
    transposed_case((2, 3, 4, 2), (4, 3, 3, 2), stride=(2, 3), padding=((2, 1), (0, 1)), output_padding=(1, 0)),
    transposed_case((2, 3, 2, 4), (3, 2, 3, 4), stride=(1, 2), padding=((1, 2), (1, 0)), groups=2),
    transposed_case((2, 3, 4, 2), (2, 3, 3, 2), stride=2, padding=((1, 0), (2, 1)), dilation=(3, 2), output_padding=1),
    transposed_case((2, 3, 2, 3), (2, 2, 1, 3), padding=((1, 0), (0, 1)), stride=2, groups=3),
    transposed_case((2, 4, 3, 2), (2, 3, 3, 2), padding=((3, 0), (0, 1)), stride=2),
)


def pool_case(shape, kind, **hyper) -> Case:
    """A pooling of an image of this shape, drawn as `kind`."""
    window = resolve_pool("pool", shape[1:3], **hyper)
    overlap = math.prod(-(-k // s) for k, s in zip(window.kernel, window.stride, strict=True))
    return Case((Draw(shape, kind),), hyper, max(math.prod(window.kernel), overlap))


def _pool_cases(kind):
    def case(shape, kind=kind, **hyper):
        return pool_case(shape, kind, **hyper)

    return (
        case((2, 6, 4, 3), window_size=2),
        case((2, 7, 5, 3), window_size=(3, 2), stride=1),
        case((2, 7, 5, 3), window_size=(2, 3)),
        case((2, 7, 6, 2), window_size=3, stride=2, padding=1),
        case((2, 5, 8, 2), window_size=(3, 4), stride=(1, 3), padding=((0, 2), (3, 1))),
        case((2, 7, 6, 2), window_size=(3, 2), stride=2, padding="SAME"),
        case((2, 7, 8, 2), window_size=(2, 1), stride=(3, 2)),
        case((1, 5, 4, 1), window_size=(5, 4)),
        case((2, 7, 6, 2), "tied", window_size=3, stride=2, padding=((1, 0), (0, 2))),
    )


STOCHASTIC_CASES = [
    Case((Draw((2, 5, 4, 3), kind), Draw(kind="key")), hyper, math.prod(pair("", "", hyper["window_size"])))
    for kind, hyper in (
        ("positive", {"window_size": (3, 2), "stride": (1, 2)}),
        ("tied", {"window_size": (1, 2), "stride": 1}),
    )
]


def _subsample(x, window_size):
    (P, Q), (U, V) = (resolve_pool("subsample2d", x[1:3], window_size).output, pair("", "", window_size))
    draws = Draw(x), Draw(x[3:]), Draw(x[3:])
    return Case(draws, {"window_size": window_size}, max(U * V, x[0] * P * Q))


def norm_case(shape, terms, **hyper) -> Case:
    """A normalisation of maps of this shape, `terms` entries at a time."""
    return Case((Draw(shape), Draw(shape[-1:]), Draw(shape[-1:])), hyper, max(terms, math.prod(shape[:-1])))


def fixed_norm_case(shape, **hyper) -> Case:
    """A normalisation of maps of this shape by given statistics."""
    of_channels = [Draw(shape[-1:])] * 3
    return Case((Draw(shape), *of_channels, Draw(shape[-1:], "positive")), hyper, math.prod(shape[:-1]))


def _pointwise(*shapes, kind="normal", **hyper):
    return [Case((Draw(shape, kind),), hyper) for shape in shapes]


def _pairs(*shapes):
    return [Case((Draw(a), Draw(b)), terms=math.prod(a[1:3] + b[1:3])) for a, b in shapes]


def upsample_case(longest, shape, factor) -> Case:
    """`longest` is the number of entries of y that one of x reaches, over that of a block."""
    U, V = pair("", "", factor)
    return Case((Draw(shape),), {"factor": factor}, longest * U * V)


def _upsample_cases(longest):
    drawn = ((2, 4, 3, 3), (2, 3)), ((2, 3, 5, 2), 2), ((1, 1, 2, 3), (3, 1)), ((2, 3, 2, 1), (5, 4))
    return [upsample_case(longest, *shape_and_factor) for shape_and_factor in drawn]


def _cross_entropy(kind, reduction, shape=(5, 4), weights=False):
    """A loss of targets of this kind, labels or those of every class."""
    rows = shape[:-1]
    draws = Draw(shape), Draw(rows if kind == "labels" else shape, kind, shape[-1])
    return Case((*draws, Draw(rows, "weights") if weights else None), {"reduction": reduction}, math.prod(shape))


OPERATIONS = {
    op.name: Entry(op, tuple(cases))
    for op, cases in {
        conv2d: CONV_CASES,
        conv_transpose2d: TRANSPOSED_CASES,
        max_pool2d: _pool_cases("apart"),
        avg_pool2d: _pool_cases("normal"),
        global_avg_pool2d: [
            Case((Draw((2, 5, 4, 3)),), terms=5 * 4),
            Case((Draw((3, 1, 7, 2)),), terms=7),
        ],
        global_max_pool2d: _pointwise((3, 1, 7, 2), (2, 5, 4, 3), kind="apart") + _pointwise((2, 5, 4, 3), kind="tied"),
        stochastic_pool2d: STOCHASTIC_CASES,
        expected_pool2d: [Case(c.args[:1], c.hyper, c.terms) for c in STOCHASTIC_CASES],
        median_pool2d: [
            Case((Draw((2, 5, 4, 3), "apart"),), {"window_size": 2}),
            Case((Draw((2, 5, 4, 3), "tied"),), {"window_size": (1, 3), "stride": 1}, terms=3),
        ],
        subsample2d: [_subsample((2, 5, 6, 3), (2, 3)), _subsample((3, 7, 4, 2), 2)],
        upsample2d_nearest: _upsample_cases(1),
        upsample2d_bilinear: _upsample_cases(4),
        combine_maps: [
            Case((Draw((2, 5, 6, 3)), Draw((3, 2, 3)), Draw((3, 4)), Draw((4,))), terms=2 * 3 * 5 * 6),
            Case((Draw((1, 3, 4, 2)), Draw((1, 2, 2)), Draw((2, 1)), Draw((1,))), terms=3 * 3 * 2),
        ],
        batch_norm: [norm_case((2, 5, 3, 4), 30), norm_case((7, 3), 7, epsilon=0.5)],
        layer_norm: [norm_case((2, 5, 3, 4), 4), norm_case((3, 6), 6, epsilon=0.5)],
        instance_norm: [norm_case((2, 5, 3, 4), 15), norm_case((3, 6, 2), 6, epsilon=0.5)],
        group_norm: [norm_case((2, 5, 3, 6), 45, groups=2), norm_case((3, 8), 4, groups=2, epsilon=0.5)],
        fixed_batch_norm: [fixed_norm_case((2, 5, 3, 4)), fixed_norm_case((7, 3), epsilon=9.0)],
        l1_penalty: _pointwise((4, 3), kind="apart"),
        entropy_penalty: [Case((Draw((4, 3)),), terms=12)],
        dense: [
            Case((Draw((5, 7)), Draw((7, 3)), Draw((3,))), terms=7),
            Case((Draw((1, 4)), Draw((4, 6)), None), terms=6),
        ],
        relu: _pointwise((2, 5, 3, 4), (7,), kind="apart"),
        sigmoid: _pointwise((2, 5, 3, 4), (7,)),
        tanh: _pointwise((2, 5, 3, 4), (7,)),
        scaled_tanh: _pointwise((2, 5, 3, 4)),
        leaky_relu: [
            *_pointwise((2, 5, 3, 4), kind="apart"),
            *_pointwise((7,), kind="tied", slope=0.3),
            *_pointwise((5, 3), kind="wide", slope=1.7),
        ],
        hard_swish: _pointwise((2, 5, 3, 4), (7,), kind="wide"),
        elu: [
            *_pointwise((2, 5, 3, 4)),
            *_pointwise((7,), kind="tied", alpha=0.3),
            *_pointwise((5, 3), kind="wide", alpha=1.7),
        ],
        gelu: _pointwise((2, 5, 3, 4), (7,), kind="wide"),
        gelu_tanh: _pointwise((2, 5, 3, 4), (7,), kind="wide"),
        silu: _pointwise((2, 5, 3, 4), (7,), kind="wide"),
        softplus: _pointwise((2, 5, 3, 4), (7,), kind="wide"),
        softmax: [Case((Draw((5, 4)),), terms=4), Case((Draw((2, 3, 6)),), terms=6)],
        scale: [
            Case((Draw((2, 5, 3, 4)), Draw((4,))), terms=30),
            Case((Draw((7, 3)), Draw((3,))), terms=7),
        ],
        crop2d: [
            Case((Draw((2, 6, 5, 3)),), {"rows": (1, 2), "columns": (0, 3)}),
            Case((Draw((1, 4, 3, 2)),), {"rows": (0, 3), "columns": (1, 0)}),
        ],
        pad2d: [
            Case((Draw((2, 3, 4, 3)),), {"padding": ((1, 2), (0, 3))}),
            Case((Draw((2, 2, 3, 1)),), {"padding": 2}),
        ],
        flatten: _pointwise((2, 5, 3, 4), (3, 2)),
        add: _pairs(((2, 5, 3, 4), (2, 5, 3, 4)), ((7,), (7,))),
        concatenate: _pairs(((2, 5, 3, 4), (2, 5, 3, 2)), ((3, 2), (3, 5))),
        multiply: _pairs(
            ((2, 5, 3, 4), (2, 5, 3, 4)), ((2, 4), (2, 5, 3, 4)), ((2, 5, 3, 4), (2, 1, 1, 4)), ((3, 2), (3, 2))
        ),
        dropout: [Case((Draw((4, 5, 3)), Draw(kind="key")), {"rate": r}) for r in (0.0, 0.3, 0.9)],
        squared_error: [
            Case((Draw(shape), Draw(shape)), {"reduction": reduction}, math.prod(shape))
            for shape, reduction in (((5, 4), "mean"), ((5, 4), "sum"), ((2, 3, 4, 5), "mean"))
        ],
        softmax_cross_entropy: [
            *(_cross_entropy(kind, r) for kind in ("labels", "probabilities") for r in ("mean", "sum")),
            _cross_entropy("normal", "mean"),
            _cross_entropy("normal", "mean", (3, 2, 4), weights=True),
            _cross_entropy("normal", "sum"),
            _cross_entropy("labels", "mean", (2, 3, 4, 5)),
            _cross_entropy("labels", "mean", (2, 3, 4, 5), weights=True),
            _cross_entropy("labels", "sum", (2, 3, 4, 5), weights=True),
        ],
    }.items()
}

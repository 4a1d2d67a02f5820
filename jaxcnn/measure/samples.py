r"""The gradients of single samples: themselves, their norms, their clipped sum, their variance; one pass for all.

g_n is the gradient of sample n's own loss E_n, where E = 1/N sum_n E_n: N times its share of the mean's. With
reduction "sum", E = sum_n E_n. The network's penalty is apart. delta_n is the sensitivity at a layer's output, x_n
what went in.

(1)  each      g_n       = (df/dw)^T delta_n                 of every sample by itself
(2)  norm      |g_n|^2   = sum over the layers of |g_n^l|^2,   dense: |x_n|^2 |delta_n|^2 + |delta_n|^2
(3)  clipped   sum_n c_n g_n = sum_n (df/dw)^T (c_n delta_n),  c_n = min(1, C / |g_n|)
(4)  variance  v = (1/N sum_n g_n^2 - (1/N sum_n g_n)^2) N / (N - 1),   of every single parameter
(5)  dense     sum_n g_n^2 = sum_n x_n^2 (delta_n^2)^T

(2) needs no g_n of a dense layer (Goodfellow 2015), and of a convolution one at a time or none, see
`kernels.kernel_gradient_and_squares`. (3) is linear in delta: after the norms are known the gradients of the layers are
computed from the deltas that were kept, and no dx a second time: book-keeping (Bu et al. 2022, *Differentially Private
Optimization on Large Model at Small Cost*); of a layer whose g_n are smaller than its deltas these are kept.
Tests: tests/measure/test_samples.py.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from ..errors import InputError, is_number, shown
from ..geometry import resolve
from ..kernels import kernel_gradient, kernel_gradient_and_squares, materialized
from ..layers.base import Layer, Params, walk
from ..layers.conv import Conv2d
from ..layers.dense import Dense
from ..layers.norm import BatchNorm
from ..layers.rewrite import relu_after_pool
from ..layers.rules import under_rules, with_rules
from ..losses import Loss
from ..training import checked_batch, run_compiled

__all__ = ["SampleNorms", "clipped_gradient", "gradient_norms", "gradient_variance", "sample_gradients"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampleNorms:
    """What `gradient_norms` measures: a pytree.

    Attributes:
        norms: of each sample's gradient (N,), over all layers.
        layers: the same for each layer that has parameters, by name.
        grads: the gradient of the whole batch's E, a tree like the parameters: that of a training step.
        loss: E.
        outputs: of the network, (N, ...).
        reduction: the loss's.
    """

    norms: jax.Array
    layers: dict[str, jax.Array]
    grads: Params
    loss: jax.Array
    outputs: jax.Array
    reduction: str = field(metadata={"static": True})


def sample_gradients(network: Layer, loss: Loss, params: Params, x, labels, *, key=None, train: bool = True) -> Params:
    """(1): the gradient of each sample's own loss, a tree like the parameters with an axis (N, ...) in front.

    Args:
        network, loss: specs.
        params: the parameters; with statistics, from `merged`, where there are batch norms and `train` is False.
        x, labels: a batch; x is cast to the parameters' dtype.
        key: for dropout and the like.
        train: whether layers behave as in training.

    Raises:
        InputError: a batch norm in training, whose samples meet.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> print(sample_gradients(Dense(1), SquaredError(), params, x, labels)["weight"].ravel())
    [2. 6.]
    """
    batch = checked_batch(network, loss, params, x, labels)
    return run_compiled(_sample_gradients, (0, 1, 6), network, loss, params, *batch, key, train)


def _sample_gradients(network, loss, params, x, labels, key, train):
    return _passed(network, loss, params, x, labels, key, train, _each)[0]


def gradient_norms(
    network: Layer, loss: Loss, params: Params, x, labels, *, key=None, train: bool = True
) -> SampleNorms:
    """(2): the norm of each sample's gradient, and the batch's gradient, in one pass and without holding all g_n.

    Arguments and errors are those of `sample_gradients`.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> found = gradient_norms(Dense(1), SquaredError(), params, jnp.array([[2.0], [3.0]]), jnp.array([0, 0]))
    >>> print(found.norms.round(1), found.grads["weight"])
    [2.2 6.3] [[4.]]
    """
    batch = checked_batch(network, loss, params, x, labels)
    return run_compiled(_norms, (0, 1, 6), network, loss, params, *batch, key, train)


def _norms(network, loss, params, x, labels, key, train):
    found, E, outputs, scale = _passed(network, loss, params, x, labels, key, train, _with_squares)
    total, layers = _of_squares(network, found)
    grads = each_part(network, found, lambda layer, part: jax.tree.map(lambda g: g / scale, part["grads"]))
    return SampleNorms(total, layers, grads, E, outputs, loss.reduction)


def clipped_gradient(
    network: Layer, loss: Loss, params: Params, x, labels, limit: float, *, weights=None, key=None, train: bool = True
) -> tuple[Params, jax.Array]:
    """(3): the sum of the samples' gradients, each scaled to a norm of at most `limit`; and the norms (N,) before.

    Args:
        network, loss, params, x, labels, key, train: see `sample_gradients`.
        limit: C, above 0.
        weights: (N,), a factor for each sample, such as 0 for what fills up a batch; None: 1.

    Raises:
        InputError: the limit is no number above 0; a batch norm in training.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> grads, norms = clipped_gradient(Dense(1), SquaredError(), params, x, labels, 1.0)
    >>> print(norms.round(1), grads["weight"].round(3))
    [2.2 6.3] [[1.843]]
    """
    if isinstance(limit, int | float) and not (is_number(limit) and 0 < limit < float("inf")):
        raise InputError(f"clipped_gradient: limit is {shown(limit)} but must be a finite number above 0")
    batch = checked_batch(network, loss, params, x, labels)
    return run_compiled(_clipped, (0, 1, 6), network, loss, params, *batch, key, train, limit, weights)


def _clipped(network, loss, params, x, labels, key, train, limit, weights):
    found, *_ = _passed(network, loss, params, x, labels, key, train, _with_deltas)
    norms, _ = _of_squares(network, found)
    factors = jnp.minimum(1, limit / jnp.where(norms == 0, 1, norms))
    if weights is not None:
        factors = factors * weights

    def scaled(layer, part):
        if "each" in part:
            return jax.tree.map(lambda g: jnp.tensordot(factors.astype(g.dtype), g, 1), part["each"])
        residuals, dy = part["kept"]
        wide = dy * factors.reshape(-1, *[1] * (dy.ndim - 1))
        return _learned(layer, layer.backward(residuals, wide.astype(dy.dtype))[1])

    return each_part(network, found, scaled), norms


def gradient_variance(network: Layer, loss: Loss, params: Params, x, labels, *, key=None, train: bool = True) -> Params:
    """(4): the variance of every single parameter's gradient over the samples, a tree like the parameters.

    That of the mean of B samples is a B-th of it. Arguments and errors are those of `sample_gradients`.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> print(gradient_variance(Dense(1), SquaredError(), params, x, labels)["bias"])
    [0.5]
    """
    batch = checked_batch(network, loss, params, x, labels)
    return run_compiled(_variance, (0, 1, 6), network, loss, params, *batch, key, train)


def _variance(network, loss, params, x, labels, key, train):
    N = len(x)
    if N < 2:
        raise InputError(f"gradient_variance: x has {N} samples but must have at least 2")
    found, *_ = _passed(network, loss, params, x, labels, key, train, with_moment)

    def variance(layer, part):
        return jax.tree.map(lambda g, m: (m / N - (g / N) ** 2) * N / (N - 1), part["grads"], part["moment"])  # (4)

    return each_part(network, found, variance)


def _passed(network, loss, params, x, labels, key, train, rule):
    """What the rule leaves of each layer with parameters; E, the outputs, and N where E is a mean, 1 for a sum.

    dy is that of each sample's own loss, so that of the whole batch is its N-th part.
    """
    outputs, way_back = forward_and_back(network, params, x, key, train, rule)
    E, of_loss = loss.forward(outputs, labels)
    scale = share_of_sample(loss, outputs)
    return way_back(loss.backward(of_loss, jnp.asarray(scale, E.dtype))), E, outputs, scale


def forward_and_back(network, params, x, key, train, rule):
    """The outputs, and the function from dE/d(outputs) to what the rule leaves of each layer with parameters."""
    network = with_rules(relu_after_pool(network), {lambda name, layer: not layer.children(): rule})
    outputs, residuals = network.forward(params, x, train=train, key=key)
    return outputs, lambda dy: network.backward(residuals, dy)[1]


def share_of_sample(loss, outputs):
    """What makes a sample's share of E its own loss."""
    return len(outputs) if loss.reduction == "mean" else 1


def _each(layer, params, residuals, dy, context):
    if not params:
        return layer.backward(residuals, dy)
    each = _of_samples(layer, params, context)(context.x, dy)
    # or XLA on CPU computes them again for whoever sums them, too
    return _dx(layer, residuals, dy), {name: materialized(g) for name, g in each.items()}


def _with_squares(layer, params, residuals, dy, context):
    if not params:
        return layer.backward(residuals, dy)
    grads, squares = _squares(layer, params, residuals, dy, context)
    return _dx(layer, residuals, dy), {"grads": grads, "squares": squares}


def _with_deltas(layer, params, residuals, dy, context):
    if not params:
        return layer.backward(residuals, dy)
    if len(dy) * _size(params) <= dy.size:  # where a layer has fewer parameters than outputs, that is less to keep
        each = _of_samples(layer, params, context)(context.x, dy)
        return _dx(layer, residuals, dy), {"squares": _square_of_tree(each), "each": each}
    _, squares = _squares(layer, params, residuals, dy, context)
    return _dx(layer, residuals, dy), {"squares": squares, "kept": (residuals, dy)}


def with_moment(layer, params, residuals, dy, context):
    if not params:
        return layer.backward(residuals, dy)
    dx, grads = layer.backward(residuals, dy)
    grads = _learned(layer, grads)
    if type(layer) is Dense:  # (5)
        own = {"weight": context.x * context.x, "bias": jnp.ones((len(dy), 1), dy.dtype)}
        squares = {name: (own[name].T @ (dy * dy)).reshape(g.shape) for name, g in grads.items()}
        return dx, {"grads": grads, "moment": squares}

    def add(moment, each):
        return jax.tree.map(lambda m, g: m + (g * g).sum(axis=0), moment, each), None

    moment, _ = _through_samples(add, jax.tree.map(jnp.zeros_like, grads), layer, params, dy, context)
    return dx, {"grads": grads, "moment": moment}


def _dx(layer, residuals, dy):
    return layer.backward(residuals, dy)[0]


def _of_samples(layer, params, context):
    """(1) for one layer: from x (N, ...) and dy (N, ...) to gradients (N, ...)."""
    if isinstance(under_rules(layer), BatchNorm) and context.train:
        raise InputError(
            f"{context.name or 'network'}: is a BatchNorm in training, in which samples meet, but must be of samples "
            "by themselves: train=False with merged(params, statistics), or GroupNorm"
        )

    def of_one(x, dy):
        _, residuals = layer.forward(params, x[None], train=context.train, key=context.key)
        return _learned(layer, layer.backward(residuals, dy[None])[1])

    def of_convolution(x, dy):  # as many gradients as there are samples, in which XLA on CPU copies nothing
        x, dy = (array.reshape(-1, 1, *array.shape[1:]) for array in (x, dy))
        dweight, dbias = kernel_gradient(x, dy, window_of(layer, params, context.x), layer.groups, bias=layer.bias)
        return {"weight": dweight} | ({"bias": dbias} if layer.bias else {})

    return of_convolution if _is_plain_convolution(layer) else jax.vmap(of_one)


def _is_plain_convolution(layer):
    return type(layer) is Conv2d and layer.connections is None


def _learned(layer, grads):
    """Without those of a batch norm's statistics."""
    if isinstance(under_rules(layer), BatchNorm):
        return {name: grads[name] for name in ("scale", "bias")}
    return grads


def _squares(layer, params, residuals, dy, context):
    """(2) for one layer: its gradients of all samples together, and the square of each one's (N,)."""
    x = context.x
    if _is_plain_convolution(layer):
        window = window_of(layer, params, x)
        dweight, dbias, squares = kernel_gradient_and_squares(x, dy, window, layer.groups, bias=layer.bias)
        return {"weight": dweight} | ({"bias": dbias} if layer.bias else {}), squares
    grads = _learned(layer, layer.backward(residuals, dy)[1])
    if type(layer) is Dense:
        return grads, _square(dy) * (_square(x) + layer.bias)
    _, squares = _through_samples(lambda _, each: (None, _square_of_tree(each)), None, layer, params, dy, context)
    return grads, squares.reshape(-1)


def window_of(layer, params, x):
    """That of a convolution, resolved against x."""
    facts = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    return resolve("conv2d", x.shape[1:3], params["weight"].shape[:2], **facts)


def _through_samples(step, start, layer, params, dy, context):
    """A scan over the samples' gradients, no more of them at a time than have the size of the layer's input."""
    x, N = context.x, len(dy)
    most = max(1, x.size // _size(params))
    at_a_time = max(n for n in range(1, N + 1) if N % n == 0 and n <= most)
    of_samples = _of_samples(layer, params, context)
    given = jax.tree.map(lambda array: array.reshape(-1, at_a_time, *array.shape[1:]), (x, dy))
    return jax.lax.scan(lambda carried, part: step(carried, of_samples(*part)), start, given)


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _square(array):
    """The sum of the squares of each sample (N,)."""
    wide = array.reshape(len(array), -1).astype(jnp.promote_types(array.dtype, jnp.float32))
    return (wide * wide).sum(axis=1)


def _square_of_tree(each):
    first, *others = map(_square, jax.tree.leaves(each))
    return sum(others, first)


def _of_squares(network, found):
    """|g_n| over all layers, and by the names of those that have parameters."""
    squares = {path: part["squares"] for path, _, part in walk(network, found) if part}
    return jnp.sqrt(sum(squares.values())), {path: jnp.sqrt(each) for path, each in squares.items()}


def each_part(network, found, change):
    """A tree by the layers' names with `change(layer, part)` of what was found of each layer with parameters."""
    if not network.children():
        return change(network, found)
    children = network.children()
    return {name: each_part(children[name], part, change) for name, part in found.items()}

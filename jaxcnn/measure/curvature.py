r"""The curvature of a loss: the factors of K-FAC, layer by layer, and the diagonal of the Gauss-Newton matrix.

E_n is the loss of sample n by itself, f its outputs, J_n = df/dw, H_n the Hessian of E_n in f, R_n a root of it. The
network's penalty is apart.

(1)  GGN   G = 1/N sum_n J_n^T H_n J_n,   H_n = R_n R_n^T         with reduction "sum": without the 1/N
(2)  diag  G = 1/N sum_n sum_k (J_n^T R_n e_k)^2                 one way back for each column of R_n
(3)          ~ 1/N sum_n 1/M sum_m (J_n^T R_n z_m)^2,            z drawn with E[z z^T] = 1
(4)  K-FAC F = T A x S,   A = 1/(NT) sum a a^T,   S = 1/(NT) sum g g^T     over samples and T places
(5)  step  (F + lambda)^-1 dE/dw ~ (T A + pi sqrt(lambda))^-1 dE/dw (S + sqrt(lambda) / pi)^-1
(6)        pi^2 = (T tr A / dim A) / (tr S / dim S)

Softmax cross-entropy of weight c has H = c (diag p - p p^T) = R R^T with R v = sqrt(c) (sqrt(p) v - p <sqrt(p), v>):
R e_k = sqrt(c p_k) (e_k - p), and for a label k that is drawn from p, z = e_k / sqrt(p_k) gives sqrt(c) (e_k - p), the
gradient at this label. Half a squared distance has H = R = 1, and z ~ N(0, 1) is the difference from a target that is
drawn around the output. In (4) a is what a unit sees, the bias's 1 last, and g = dE_n/du, or that of R z in its place.

Sources: (1), (2) Schraudolph 2002, *Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent*; Dangel et
al. 2020, *BackPACK*. (4) Martens & Grosse 2015, *Optimizing Neural Networks with Kronecker-Factored Approximate
Curvature*, (5), (6) its section 6.3; Grosse & Martens 2016, *A Kronecker-Factored Approximate Fisher Matrix for
Convolution Layers*. Tests: tests/measure/test_curvature.py.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..errors import InputError, check_count, check_key, shown
from ..kernels import patch_moments
from ..layers.base import Layer, Params, walk
from ..layers.conv import Conv2d
from ..layers.dense import Dense
from ..losses import Loss, SoftmaxCrossEntropy, SquaredError
from ..training import checked_batch, run_compiled
from .samples import each_part, forward_and_back, share_of_sample, window_of, with_moment

__all__ = ["Diagonal", "Factors", "ggn_diagonal", "kfac"]

FISHER = ("model", "true", "exact")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factors:
    """(4) of a convolution or a dense layer: a pytree, so that an average of several batches is `jax.tree.map`'s.

    Attributes:
        A: (K, K), K the entries of a kernel (U, V, I / groups), and one more for the bias.
        S: (O, O). With groups there is an A (groups, K, K) and an S (groups, O / groups, O / groups) of each.
        positions: T; 1 for a dense layer.
    """

    A: jax.Array
    S: jax.Array
    positions: int = field(metadata={"static": True})

    def matrix(self) -> jax.Array:
        """F (K O, K O), of the parameters in the order of `concatenate([weight.reshape(-1, O), bias[None]]).ravel()`.

        With groups (groups, K O / groups, K O / groups): F is zero between two of them.
        """
        kron = jnp.kron if self.A.ndim == 2 else jax.vmap(jnp.kron)
        return self.positions * kron(self.A, self.S)

    def solve(self, grads: Params, damping: float) -> Params:
        """(5): the layer's gradients multiplied by the inverse of F, damped: those of a natural gradient step."""
        groups = 1 if self.A.ndim == 2 else len(self.A)
        A, S = (factor.reshape(groups, *factor.shape[-2:]) for factor in (self.positions * self.A, self.S))
        mean_a, mean_s = (jnp.trace(factor, axis1=1, axis2=2) / factor.shape[1] for factor in (A, S))
        alive = (mean_a > 0) & (mean_s > 0)
        pi = jnp.sqrt(jnp.where(alive, mean_a, 1) / jnp.where(alive, mean_s, 1))[:, None, None]  # (6)
        weight = grads["weight"]
        rows = [weight.reshape(-1, weight.shape[-1]), *([grads["bias"][None]] if "bias" in grads else [])]
        G = jnp.concatenate(rows).reshape(-1, groups, S.shape[1]).swapaxes(0, 1)
        root = jnp.sqrt(damping)
        left = jnp.linalg.solve(A + pi * root * jnp.eye(A.shape[1], dtype=A.dtype), G)
        both = jnp.linalg.solve(S + root / pi * jnp.eye(S.shape[1], dtype=S.dtype), left.swapaxes(1, 2))  # (5)
        flat = both.transpose(2, 0, 1).reshape(-1, weight.shape[-1]).astype(weight.dtype)
        return {"weight": flat[: weight.size // weight.shape[-1]].reshape(weight.shape)} | (
            {"bias": flat[-1]} if "bias" in grads else {}
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal:
    """The diagonal of F for a layer of another kind, 1/N sum_n g_n^2: a pytree.

    Attributes:
        values: a tree like the layer's parameters.
    """

    values: Params

    def matrix(self) -> jax.Array:
        """F, of the parameters as `jax.tree.leaves` has them, one after another."""
        return jnp.diag(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(self.values)]))

    def solve(self, grads: Params, damping: float) -> Params:
        """(F + damping)^-1 times the layer's gradients."""
        return jax.tree.map(lambda v, g: g / (v + damping).astype(g.dtype), self.values, grads)


def kfac(
    network: Layer, loss: Loss, params: Params, x, labels, *, fisher: str = "model", key=None, train: bool = True
) -> dict[str, Factors | Diagonal]:
    """(4): what K-FAC keeps of each layer that has parameters, by its name.

    A `Conv2d` and a `Dense` have `Factors`; a layer of another kind, and a convolution with connections, which have
    none, have the `Diagonal` of F alone.

    Args:
        network, loss: specs; the loss a `SoftmaxCrossEntropy` or a `SquaredError`, any with fisher "true".
        params: the parameters; with statistics, from `merged`, where there are batch norms and `train` is False.
        x, labels: a batch; x is cast to the parameters' dtype.
        fisher: whose gradients g are. "model": at labels drawn from the model, one for each sample, F's Monte Carlo.
            "true": at the true labels, the empirical Fisher. "exact": of all columns of R_n, the sum over all labels
            weighted by their probabilities, one way back for each output.
        key: from which labels are drawn, and dropout and the like; needed for "model".
        train: whether layers behave as in training.

    Returns:
        In float32 at least. F is of each sample's own loss, averaged, whatever the reduction.

    Raises:
        InputError: an argument does not fit; a batch norm in training, whose samples meet.

    >>> from jaxcnn import Dense, SoftmaxCrossEntropy
    >>> params = {"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    >>> x, labels = jnp.array([[2.0], [4.0]]), jnp.array([0, 1])
    >>> found = kfac(Dense(2), SoftmaxCrossEntropy(), params, x, labels, fisher="exact")[""]
    >>> print(jnp.rint(found.A), found.S.round(3))
    [[10.  3.]
     [ 3.  1.]] [[ 0.25 -0.25]
     [-0.25  0.25]]
    >>> print(found.solve({"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.array([0.5, -0.5])}, 0.1)["bias"].round(2))
    [ 0.25 -0.25]
    """
    if fisher not in FISHER:
        raise InputError(f"kfac: fisher is {shown(fisher)} but must be one of {', '.join(FISHER)}")
    if fisher == "model" or key is not None:
        check_key("kfac", key)
    if fisher != "true":
        _check_root("kfac", loss)
    batch = checked_batch(network, loss, params, x, labels)
    found = run_compiled(_kfac, (0, 1, 5, 7), network, loss, params, *batch, fisher, key, train)
    return {path: part["found"] for path, _, part in walk(network, found) if part}


def _kfac(network, loss, params, x, labels, fisher, key, train):
    drawing, key = _halves(key)
    outputs, way_back = forward_and_back(network, params, x, key, train, _with_factors)
    if fisher == "true":
        _, of_loss = loss.forward(outputs, labels)
        return way_back(loss.backward(of_loss, jnp.asarray(share_of_sample(loss, outputs), outputs.dtype)))
    c = _weights(loss, outputs, labels) * share_of_sample(loss, outputs)
    if fisher == "model":
        return way_back(_root(loss, outputs, c, _drawn(loss, outputs, drawing)))
    summed = _summed(lambda k: way_back(_root(loss, outputs, c, _column(outputs, k))), _columns(outputs))
    once = way_back(jnp.zeros_like(outputs))  # for A, which is no sum over columns; the rest of it is not computed
    return jax.tree.map(_with_inputs, once, summed, is_leaf=lambda part: isinstance(part, Factors | Diagonal))


def _with_inputs(once, summed):
    return Factors(once.A, summed.S, summed.positions) if isinstance(summed, Factors) else summed


def _with_factors(layer, params, residuals, dy, context):
    if not params:
        return layer.backward(residuals, dy)
    x = context.x
    if type(layer) is Conv2d and layer.connections is None:
        found = _of_convolution(x, dy, window_of(layer, params, x), layer.groups, layer.bias)
    elif type(layer) is Dense:
        a = _wide(jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1) if layer.bias else x)
        found = Factors(_mean_square(a), _mean_square(_wide(dy)), 1)
    else:
        dx, part = with_moment(layer, params, residuals, dy, context)
        return dx, {"found": Diagonal(jax.tree.map(lambda m: m / len(dy), part["moment"]))}
    return layer.backward(residuals, dy)[0], {"found": found}


def _of_convolution(x, dy, window, groups, bias):
    T = math.prod(window.output)
    A, total = (found / (len(x) * T) for found in patch_moments(x, window, groups))
    if bias:
        A = jnp.block([[A, total[:, :, None]], [total[:, None], jnp.ones((groups, 1, 1), A.dtype)]])
    S = jax.vmap(_mean_square, 1)(_wide(dy).reshape(-1, groups, dy.shape[3] // groups))
    return Factors(A, S, T) if groups > 1 else Factors(A[0], S[0], T)


def _wide(array):
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _mean_square(rows):
    """The mean of a a^T over rows a, divided before it is large."""
    rows = rows / math.sqrt(len(rows))
    return jnp.matmul(rows.T, rows, precision=lax.Precision.HIGHEST)


def ggn_diagonal(
    network: Layer, loss: Loss, params: Params, x, labels, *, samples: int | None = None, key=None, train: bool = True
) -> Params:
    """(2): the diagonal of the Gauss-Newton matrix of E, a tree like the parameters; exact, or (3) by Monte Carlo.

    The exact one takes a way back for each output of the network, K or, for maps, all of their H W K, one after
    another; single samples' gradients are made no more at a time than have the size of a layer's input.

    Args:
        network, loss, params, x, labels, train: see `kfac`; labels count by their weights alone.
        samples: M, how many z are drawn; None is exact.
        key: from which they are drawn, and dropout and the like; needed for samples.

    Raises:
        InputError: an argument does not fit; a batch norm in training, whose samples meet.

    >>> from jaxcnn import Dense, SoftmaxCrossEntropy
    >>> params = {"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    >>> x, labels = jnp.array([[2.0], [4.0]]), jnp.array([0, 1])
    >>> print(ggn_diagonal(Dense(2), SoftmaxCrossEntropy(), params, x, labels)["weight"].round(3))
    [[2.5 2.5]]
    """
    _check_root("ggn_diagonal", loss)
    if samples is not None:
        check_count("ggn_diagonal", "samples", samples)
    if samples is not None or key is not None:
        check_key("ggn_diagonal", key)
    batch = checked_batch(network, loss, params, x, labels)
    return run_compiled(_ggn_diagonal, (0, 1, 5, 7), network, loss, params, *batch, samples, key, train)


def _ggn_diagonal(network, loss, params, x, labels, samples, key, train):
    drawing, key = _halves(key)
    outputs, way_back = forward_and_back(network, params, x, key, train, with_moment)
    c = _weights(loss, outputs, labels) / (samples or 1)

    def squares(v):
        found = way_back(_root(loss, outputs, c, v))
        return each_part(network, found, lambda layer, part: part["moment"])

    if samples is None:
        return _summed(lambda k: squares(_column(outputs, k)), _columns(outputs))  # (2)
    return _summed(lambda key: squares(_drawn(loss, outputs, key)), jax.random.split(drawing, samples))  # (3)


def _halves(key) -> tuple[Any, Any]:
    """The key from which z is drawn, and that of the layers."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def _check_root(name, loss):
    if not isinstance(loss, SoftmaxCrossEntropy | SquaredError):
        raise InputError(f"{name}: loss is {shown(loss)} but must be a SoftmaxCrossEntropy or a SquaredError")


def _weights(loss, outputs, labels):
    """c: what a term counts in E, of the outputs' shape but for their last axis."""
    count = loss.count(outputs, labels) if loss.reduction == "mean" else 1
    c = jnp.ones(outputs.shape[:-1], outputs.dtype) / jnp.where(count == 0, 1, count)
    if isinstance(loss, SquaredError):
        return c
    targets, weights = loss._arrays(outputs, labels)
    if targets.ndim == outputs.ndim:
        c = c * targets.sum(axis=-1)
    return c if weights is None else jnp.where(weights == 0, 0, c * weights)


def _root(loss, outputs, c, v):
    """R v, for v (..., K) of the outputs' shape, or one for all samples."""
    root = jnp.sqrt(c)[..., None]
    if isinstance(loss, SquaredError):
        return root * v
    s = jnp.exp(jax.nn.log_softmax(outputs) / 2)
    return root * (s * v - s * s * (s * v).sum(axis=-1, keepdims=True))


def _drawn(loss, outputs, key):
    """z of (3)."""
    if isinstance(loss, SquaredError):
        return jax.random.normal(key, outputs.shape, outputs.dtype)
    chosen = jax.nn.one_hot(jax.random.categorical(key, outputs), outputs.shape[-1], dtype=outputs.dtype)
    return chosen * jnp.exp(-jax.nn.log_softmax(outputs) / 2)


def _columns(outputs):
    return jnp.arange(math.prod(outputs.shape[1:]))


def _column(outputs, k):
    """e_k, one for all samples."""
    return jnp.zeros(math.prod(outputs.shape[1:]), outputs.dtype).at[k].set(1).reshape(outputs.shape[1:])


def _summed(f, given):
    """The sum of f over what is given, one after another."""
    shapes = jax.eval_shape(f, given[0])
    zeros = jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes)
    return lax.scan(lambda total, one: (jax.tree.map(jnp.add, total, f(one)), None), zeros, given)[0]

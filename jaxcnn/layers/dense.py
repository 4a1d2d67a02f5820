r"""Fully connected layer.

Shapes:  x (N,I)   weight (I,O)   bias (O,)   y, dy (N,O)

(1)  y[n,o]       = bias[o] + sum_i x[n,i] weight[i,o]                                                [F9]
(2)  dbias[o]     = sum_n dy[n,o]                                                                     [B2]
(3)  dweight[i,o] = sum_n x[n,i] dy[n,o]                                                              [B6]
(4)  dx[n,i]      = sum_o dy[n,o] weight[i,o]                                                         [B1]

Loops: reference/dense.py. Tests: tests/layers/test_dense.py.
"""

from dataclasses import KW_ONLY, dataclass

from ..errors import InputError, check_count, check_flag, check_floating, check_shape
from ..initializers import find_initializer, initial_bias, initialize
from ..kernels import materialized
from ..operation import operation
from .base import OperationLayer

__all__ = ["Dense", "dense"]


@operation
def dense(x, weight, bias=None):
    """Fully connected layer, y = x W + b [F9].

    Args:
        x: (N, I), float32, bfloat16 or float64.
        weight: (I, O), the same dtype.
        bias: (O,), the same dtype, or None.

    Returns:
        (N, O) of that dtype. Its derivative is `dense.backward`.

    Raises:
        InputError: a shape or a dtype does not fit.

    >>> print(dense(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0], [0.0, 1.0, 4.0]])))
    [[ 1.  2. 11.]]

    >>> y, residuals = dense.forward(jnp.array([[1.0, 2.0]]), jnp.eye(2), jnp.zeros(2))
    >>> dx, dweight, dbias = dense.backward(residuals, jnp.array([[1.0, 10.0]]))
    >>> print(dweight)
    [[ 1. 10.]
     [ 2. 20.]]
    """
    check_floating("dense", 2, x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or weight.shape[0] != x.shape[1]:
        raise InputError(
            f"dense: weight has shape {weight.shape} but must have shape ({x.shape[1]}, out_features) for x of shape "
            f"{x.shape}"
        )
    y = x @ weight  # (1)
    if bias is not None:
        check_shape("dense", "bias", bias, weight.shape[1:])
        y = y + bias
    return y, (x, weight, bias)


@dense.rule
def _(residuals, dy):
    """(2)-(4): `(dx, dweight, dbias)` from `dense.forward`'s residuals and dy (N, O); dbias is None without a bias."""
    x, weight, bias = residuals
    check_shape("dense.backward", "dy", dy, (x.shape[0], weight.shape[1]))
    dbias = None if bias is None else dy.sum(axis=0)  # (2)
    dweight = x.T @ dy  # (3)
    dx = materialized(weight @ materialized(dy.T)).T  # (4); dy @ weight.T takes XLA on CPU twice as long
    return dx, dweight, dbias


@dataclass(frozen=True)
class Dense(OperationLayer):
    """Spec of a fully connected layer with `out_features` units; how many it is fed is found when it meets its input.

    >>> Dense(10).output_shape((64,))
    (10,)
    """

    out_features: int
    _: KW_ONLY
    bias: bool = True
    initializer: str = "he_normal"

    op = dense

    def __post_init__(self):
        check_count("dense", "out_features", self.out_features)
        check_flag("dense", "bias", self.bias)
        find_initializer(self.initializer)

    def init(self, key, in_shape):
        if len(in_shape) != 1:
            raise InputError(f"dense: the input has shape {in_shape} but must have shape (in_features,); add Flatten()")
        fan_in, fan_out = in_shape[0], self.out_features
        weight = initialize(self.initializer, key, (fan_in, fan_out), fan_in, fan_out)
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": initial_bias(self.initializer, key, (fan_out,), fan_in)}

    def multiply_adds(self, in_shape):
        return in_shape[0] * self.out_features

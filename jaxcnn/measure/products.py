r"""Products of the curvature with a vector, by the hand-written chain and its derivative; no matrix is made.

y = f(w, x) are the network's outputs, g(w) = dE/dw the chain of jaxcnn/layers/sequential.py, v a tree like w. The
network's penalty is apart.

(1)  H v = d/dt g(w + t v)  at t = 0            forward mode over the way back (Pearlmutter 1994, *Fast Exact
                                                Multiplication by the Hessian*)
(2)  G v = J^T (H_E (J v))                      J v by forward mode, H_E u the derivative of the loss's dE/dy along u,
                                                J^T the way back (Schraudolph 2002, *Fast Curvature Matrix-Vector
                                                Products for Second-Order Gradient Descent*)

Tests: tests/measure/test_products.py.
"""

import jax
import jax.numpy as jnp

from ..errors import InputError
from ..layers.base import Layer, Params
from ..layers.rewrite import relu_after_pool
from ..losses import Loss
from ..training import checked_batch, run_compiled

__all__ = ["ggn_vector_product", "hessian_vector_product"]


def hessian_vector_product(
    network: Layer, loss: Loss, params: Params, x, labels, v: Params, *, key=None, train: bool = True
) -> Params:
    """(1): the Hessian of E, without the network's penalty, times v; a tree like the parameters.

    Args:
        network, loss: specs.
        params: the parameters; with statistics, from `merged`, where there are batch norms and `train` is False.
        x, labels: a batch; x is cast to the parameters' dtype.
        v: a tree like the parameters, of their shapes and dtypes.
        key: for dropout and the like: the Hessian is that of what they drew.
        train: whether layers behave as in training; batch norms may, their samples meet in E as well.

    Raises:
        InputError: an argument does not fit; v is no tree like the parameters.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> v = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> print(hessian_vector_product(Dense(1), SquaredError(), params, x, labels, v))  # mean of x^2, and of x
    {'bias': Array([2.5], dtype=float32), 'weight': Array([[6.5]], dtype=float32)}
    """
    return _product(_hessian, "hessian_vector_product", network, loss, params, x, labels, v, key, train)


def ggn_vector_product(
    network: Layer, loss: Loss, params: Params, x, labels, v: Params, *, key=None, train: bool = True
) -> Params:
    """(2): the Gauss-Newton matrix of E times v; a tree like the parameters. One forward pass.

    Arguments and errors are those of `hessian_vector_product`, and so is the product where the network is linear in
    its parameters.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> v = {"weight": jnp.array([[0.0]]), "bias": jnp.array([2.0])}
    >>> print(ggn_vector_product(Dense(1), SquaredError(), params, x, labels, v))
    {'bias': Array([2.], dtype=float32), 'weight': Array([[5.]], dtype=float32)}
    """
    return _product(_ggn, "ggn_vector_product", network, loss, params, x, labels, v, key, train)


def _product(function, name, network, loss, params, x, labels, v, key, train):
    batch = checked_batch(network, loss, params, x, labels)
    facts = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (v, params)]
    if facts[0] != facts[1]:
        raise InputError(f"{name}: v is another tree than params but must have its names, shapes and dtypes")
    return run_compiled(function, (0, 1, 7), network, loss, params, *batch, v, key, train)


def _hessian(network, loss, params, x, labels, v, key, train):
    network = relu_after_pool(network)

    def gradient(params):
        outputs, residuals = network.forward(params, x, train=train, key=key)
        return network.backward(residuals, loss.backward(loss.forward(outputs, labels)[1]))[1]

    return jax.jvp(gradient, (params,), (v,))[1]  # (1)


def _ggn(network, loss, params, x, labels, v, key, train):
    network = relu_after_pool(network)

    def forward(params):
        return network.forward(params, x, train=train, key=key)

    def slope(outputs):
        return loss.backward(loss.forward(outputs, labels)[1])

    outputs, Jv, residuals = jax.jvp(forward, (params,), (v,), has_aux=True)
    return network.backward(residuals, jax.jvp(slope, (outputs,), (Jv,))[1])[1]  # (2)

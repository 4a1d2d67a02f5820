r"""The gradient of a kernel with the squared norm of each sample's own, where oneDNN is not called.

Shapes:  A_n (T, UVI)  what the T = PQ windows see of x~[n], x zero-padded      G_n (T, O)  dy[n]

(1)  dW_n           = A_n^T G_n,  db_n = sum_t G_n[t]              of its batch dW = sum_n dW_n, db = sum_n db_n
(2)  |dW_n|^2       = sum of the squares of (1), |db_n|^2 likewise
(3)  |dW_n|^2       = sum_{t,s} (A_n A_n^T)[t,s] (G_n G_n^T)[t,s],  |db_n|^2 = sum_{t,s} (G_n G_n^T)[t,s]

By (2) dW is had as well; by (3), the ghost norm, no dW_n is computed, and dW is computed apart. (3) needs the fewer
numbers where 2 T^2 <= UVIO: the rule of Bu, Mao and Xu (2022), "Scalable and efficient training of large convolutional
neural networks with differential privacy". It is taken at its word but on CPU, where it was measured; of groups, (2).
A few samples are held at a time.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import lax

from ..geometry import Window
from ..meshes import alike
from .convolution import patches

HELD = 2**24  # entries of the arrays of those samples that are computed at once
MARGIN = 32  # on CPU (3) is the faster one only where it needs so many times fewer numbers than (2)


def gradient_and_squares(
    gradient: Callable, x, dy, *, window: Window, groups: int, bias: bool, on_cpu: bool = False
) -> tuple:
    """dweight, the squared norms (N,) and, with a bias, dbias; `gradient` is what computes the first and last alone.

    On CPU sample by sample: a product of many matrices is a slow one there.
    """
    (U, V), T, N, I, O = window.kernel, window.output[0] * window.output[1], len(x), x.shape[3] // groups, dy.shape[3]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    product = partial(jnp.einsum, preferred_element_type=dtype)
    is_ghost = groups == 1 and 2 * T * T * (MARGIN if on_cpu else 1) <= U * V * I * O
    held = T * U * V * I * groups + (2 * T * T if is_ghost else U * V * I * O)
    most = 1 if on_cpu else max(1, HELD // held)
    turns = min((t for t in range(1, N + 1) if N % t == 0 and N // t <= most), default=1)
    at_once = N // turns

    def ghost(x, dy):
        A, G = patches(window, x).reshape(at_once, T, U * V * I), dy.reshape(at_once, T, O)
        seen = product("ntk,nsk->nts", A, A) + int(bias)
        squares = (seen * product("nto,nso->nts", G, G)).sum((1, 2))  # (3)
        return [], jnp.maximum(squares, 0)  # which may round to less

    def direct(x, dy):
        A = patches(window, x).reshape(at_once, T, U * V, groups, I)
        G = dy.reshape(at_once, T, groups, O // groups)
        grads = [product("ntkgi,ntgo->nkigo", A, G)]  # (1)
        if bias:
            grads.append(G.astype(dtype).sum(1))
        squares = sum((grad**2).sum(range(1, grad.ndim)) for grad in grads)  # (2)
        return [grad.sum(0) for grad in grads], squares

    def turn(total, i):
        grads, squares = (ghost if is_ghost else direct)(*(lax.dynamic_index_in_dim(a, i, 1, False) for a in apart))
        return [sum_ + grad for sum_, grad in zip(total, grads, strict=True)], squares

    shapes = [] if is_ghost else [(U * V, I, groups, O // groups), (groups, O // groups)][: 1 + bias]
    # In a turn every turns-th sample: where XLA divides the batch among devices, each has some of them.
    apart = [a.reshape(at_once, turns, *a.shape[1:]) for a in (x, dy)]
    start, apart = alike(([jnp.zeros(shape, dtype) for shape in shapes], apart))
    total, squares = lax.scan(turn, start, jnp.arange(turns))
    squares = jnp.transpose(squares).reshape(N)
    if is_ghost:
        dweight, dbias = gradient(x, dy, window, groups, bias=bias)
        return (dweight, squares, dbias) if bias else (dweight, squares)
    dweight, *dbias = (a.astype(x.dtype) for a in total)
    return dweight.reshape(U, V, I, O), squares, *(db.reshape(O) for db in dbias)

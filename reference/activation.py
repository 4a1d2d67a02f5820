"""Activations [A1, A2, A3, N10, N16] and softmax [A4] with their backward, [B12] for softmax."""

import math

import numpy as np


def relu_forward(u):
    """max(u, 0)."""
    return _each(lambda a: a if a > 0 else 0.0, u), u


def relu_backward(u, dy):
    """dy 1[u > 0]."""
    return (_each(lambda a, d: d if a > 0 else 0.0, u, dy),)


def sigmoid_forward(u):
    """1 / (1 + e^-u)."""
    return _each(_sigmoid, u), u


def sigmoid_backward(u, dy):
    """dy f(u) (1 - f(u))."""
    return (_each(lambda a, d: d * _sigmoid(a) * (1 - _sigmoid(a)), u, dy),)


def tanh_forward(u):
    """tanh u."""
    return _each(math.tanh, u), u


def tanh_backward(u, dy):
    """dy (1 - f(u)^2)."""
    return (_each(lambda a, d: d * (1 - math.tanh(a) ** 2), u, dy),)


def scaled_tanh_forward(u):
    """1.7159 tanh(2u/3)."""
    return _each(lambda a: 1.7159 * math.tanh(2 * a / 3), u), u


def scaled_tanh_backward(u, dy):
    """dy 1.7159 (2/3) (1 - tanh(2u/3)^2)."""
    return (_each(lambda a, d: d * 1.7159 * 2 / 3 * (1 - math.tanh(2 * a / 3) ** 2), u, dy),)


def softmax_forward(u):
    """e^{u_i} / sum_j e^{u_j} along the last axis."""
    y = np.zeros(u.shape)
    for row in np.ndindex(u.shape[:-1]):
        largest = max(u[row])
        total = sum(math.exp(a - largest) for a in u[row])
        for i in range(u.shape[-1]):
            y[(*row, i)] = math.exp(u[(*row, i)] - largest) / total
    return y, y


def softmax_backward(y, dy):
    """du_i = sum_k dy_k dy_k/du_i with dy_k/du_i = y_k ([k = i] - y_i)."""
    du = np.zeros(y.shape)
    for row in np.ndindex(y.shape[:-1]):
        for i, k in np.ndindex(y.shape[-1], y.shape[-1]):
            du[(*row, i)] += dy[(*row, k)] * y[(*row, k)] * ((1 if k == i else 0) - y[(*row, i)])
    return (du,)


def leaky_relu_forward(u, *, slope=0.01):
    """u where u > 0, slope u elsewhere."""
    return _each(lambda a: a if a > 0 else slope * a, u), u


def leaky_relu_backward(u, dy, *, slope=0.01):
    """dy where u > 0, slope dy elsewhere."""
    return (_each(lambda a, d: d if a > 0 else slope * d, u, dy),)


def hard_swish_forward(u):
    """u min(max(u + 3, 0), 6) / 6."""
    return _each(lambda a: a * min(max(a + 3, 0), 6) / 6, u), u


def hard_swish_backward(u, dy):
    """dy (min(max(u + 3, 0), 6) + u 1[-3 < u < 3]) / 6."""
    return (_each(lambda a, d: d * (min(max(a + 3, 0), 6) + (a if -3 < a < 3 else 0)) / 6, u, dy),)


def _sigmoid(a):
    return 1 / (1 + math.exp(-a))


def _each(f, *arrays):
    result = np.zeros(arrays[0].shape)
    for index in np.ndindex(result.shape):
        result[index] = f(*(array[index] for array in arrays))
    return result

"""Stochastic pooling and its expectation [F6], and their backward [B4].

The draw is an argument here: NumPy has not JAX's random numbers.
"""

import numpy as np

from .geometry import axes, pair


def stochastic_pool2d_forward(x, k, window_size, *, stride=None):
    """y[n,p,q,c] = the entry of the window at the position k = u V + v that was drawn."""
    (P, s, _, _), (Q, t, _, _) = axes(x.shape[1:3], window_size, stride or window_size, 0, 1)
    _, V = pair(window_size)
    y = np.zeros((x.shape[0], P, Q, x.shape[3]))
    for n, p, q, c in np.ndindex(y.shape):
        y[n, p, q, c] = x[n, p * s + k[n, p, q, c] // V, q * t + k[n, p, q, c] % V, c]
    return y, (x.shape, k)


def stochastic_pool2d_backward(residuals, dy, *, window_size, stride=None):
    """dy goes to the position that was drawn."""
    shape, k = residuals
    (_, s, _, _), (_, t, _, _) = axes(shape[1:3], window_size, stride or window_size, 0, 1)
    _, V = pair(window_size)
    dx = np.zeros(shape)
    for n, p, q, c in np.ndindex(dy.shape):
        dx[n, p * s + k[n, p, q, c] // V, q * t + k[n, p, q, c] % V, c] += dy[n, p, q, c]
    return dx, None


def expected_pool2d_forward(x, window_size, *, stride=None):
    """y[n,p,q,c] = sum p a with p = a / sum a; 0 for a window of zeros."""
    (P, s, _, _), (Q, t, _, _) = axes(x.shape[1:3], window_size, stride or window_size, 0, 1)
    y = np.zeros((x.shape[0], P, Q, x.shape[3]))
    for n, p, q, c in np.ndindex(y.shape):
        window = [x[n, p * s + u, q * t + v, c] for u, v in np.ndindex(*pair(window_size))]
        for a in window:
            if sum(window) > 0:
                y[n, p, q, c] += a / sum(window) * a
    return y, x


def expected_pool2d_backward(x, dy, *, window_size, stride=None):
    """dy/da_j = p_j + sum_k a_k dp_k/da_j with dp_k/da_j = ([k = j] - p_k) / sum a.

    The first position owns dy of a window of zeros.
    """
    (_, s, _, _), (_, t, _, _) = axes(x.shape[1:3], window_size, stride or window_size, 0, 1)
    dx = np.zeros(x.shape)
    for n, p, q, c in np.ndindex(dy.shape):
        positions = [(p * s + u, q * t + v) for u, v in np.ndindex(*pair(window_size))]
        total = sum(x[n, i, j, c] for i, j in positions)
        if total == 0:
            dx[(n, *positions[0], c)] += dy[n, p, q, c]
            continue
        for j in positions:
            slope = x[(n, *j, c)] / total
            for k in positions:
                share = x[(n, *k, c)] / total
                slope += x[(n, *k, c)] * ((1 if k == j else 0) - share) / total
            dx[(n, *j, c)] += dy[n, p, q, c] * slope
    return (dx,)

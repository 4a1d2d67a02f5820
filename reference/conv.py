"""2-D convolution (cross-correlation) [F1] and its gradients [B3, B7, B8]."""

import numpy as np

from .geometry import axes


def conv2d_forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """y[n,p,q,o] = bias[o] + sum_{u,v,i} x~[n, ps+ud, qs+vd, i] weight[u,v,i,o]."""
    (P, s, top, d), (Q, t, left, e) = axes(x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    y = np.zeros((x.shape[0], P, Q, weight.shape[3]))
    for n, p, q, o in np.ndindex(y.shape):
        if bias is not None:
            y[n, p, q, o] = bias[o]
        for u, v, i in np.ndindex(weight.shape[:3]):
            row, column, channel = p * s + u * d - top, q * t + v * e - left, _input_map(weight, groups, i, o)
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                y[n, p, q, o] += x[n, row, column, channel] * weight[u, v, i, o]
    return y, (x, weight, bias)


def conv2d_backward(residuals, dy, *, stride=1, padding=0, dilation=1, groups=1):
    """Every product x w of the forward pass hands dy w to x and dy x to w; the bias takes dy."""
    x, weight, bias = residuals
    (_, s, top, d), (_, t, left, e) = axes(x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(weight.shape[3])
    for n, p, q, o in np.ndindex(dy.shape):
        dbias[o] += dy[n, p, q, o]
        for u, v, i in np.ndindex(weight.shape[:3]):
            row, column, channel = p * s + u * d - top, q * t + v * e - left, _input_map(weight, groups, i, o)
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                dx[n, row, column, channel] += dy[n, p, q, o] * weight[u, v, i, o]
                dweight[u, v, i, o] += dy[n, p, q, o] * x[n, row, column, channel]
    return dx, dweight, None if bias is None else dbias


def _input_map(weight, groups, i, o):
    """The input map that entry i of kernel o sees: the groups share out the maps in order."""
    group = o // (weight.shape[3] // groups)
    return group * weight.shape[2] + i

"""Learned combination of maps [F8] and its gradients [B3, B10]."""

import math

import numpy as np


def combine_maps_forward(x, kernels, c, bias):
    """y[n,p,q,j] = sum_i alpha_ij sum_{u,v} x[n,p+u,q+v,i] kernels[u,v,i] + bias[j], alpha the softmax of c over i."""
    U, V, I = kernels.shape
    alpha = np.zeros(c.shape)
    for i, j in np.ndindex(c.shape):
        alpha[i, j] = math.exp(c[i, j]) / sum(math.exp(a) for a in c[:, j])
    y = np.zeros((x.shape[0], x.shape[1] - U + 1, x.shape[2] - V + 1, c.shape[1]))
    for n, p, q, j in np.ndindex(y.shape):
        y[n, p, q, j] = bias[j]
        for u, v, i in np.ndindex(U, V, I):
            y[n, p, q, j] += alpha[i, j] * x[n, p + u, q + v, i] * kernels[u, v, i]
    return y, (x, kernels, alpha)


def combine_maps_backward(residuals, dy):
    """Every product alpha x k hands dy times the other two to each; dalpha_k/dc_i = alpha_k ([k = i] - alpha_i)."""
    x, kernels, alpha = residuals
    dx, dkernels, dalpha = np.zeros(x.shape), np.zeros(kernels.shape), np.zeros(alpha.shape)
    dc, dbias = np.zeros(alpha.shape), np.zeros(alpha.shape[1])
    for n, p, q, j in np.ndindex(dy.shape):
        dbias[j] += dy[n, p, q, j]
        for u, v, i in np.ndindex(kernels.shape):
            dx[n, p + u, q + v, i] += dy[n, p, q, j] * alpha[i, j] * kernels[u, v, i]
            dkernels[u, v, i] += dy[n, p, q, j] * alpha[i, j] * x[n, p + u, q + v, i]
            dalpha[i, j] += dy[n, p, q, j] * x[n, p + u, q + v, i] * kernels[u, v, i]
    for i, j in np.ndindex(alpha.shape):
        for k in range(alpha.shape[0]):
            dc[i, j] += dalpha[k, j] * alpha[k, j] * ((1 if k == i else 0) - alpha[i, j])
    return dx, dkernels, dc, dbias

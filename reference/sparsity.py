"""Sparsity penalties of the combination's weights [B11]."""

import math

import numpy as np


def l1_penalty_forward(alpha):
    """E = sum |alpha|."""
    E = 0.0
    for index in np.ndindex(alpha.shape):
        E += abs(alpha[index])
    return np.array(E), alpha


def l1_penalty_backward(alpha, dy):
    """dE/dalpha = sign(alpha)."""
    dalpha = np.zeros(alpha.shape)
    for index in np.ndindex(alpha.shape):
        dalpha[index] = dy * (alpha[index] > 0) - dy * (alpha[index] < 0)
    return (dalpha,)


def entropy_penalty_forward(c):
    """E = - sum_ij alpha_ij ln alpha_ij, alpha_ij = exp c_ij / sum_k exp c_kj."""
    E, alpha = 0.0, _alpha(c)
    for index in np.ndindex(c.shape):
        E -= alpha[index] * math.log(alpha[index])
    return np.array(E), alpha


def entropy_penalty_backward(alpha, dy):
    """dE/dc_ij = sum_k dE/dalpha_kj dalpha_kj/dc_ij with dE/dalpha = - ln alpha - 1."""
    dc = np.zeros(alpha.shape)
    for i, j in np.ndindex(alpha.shape):
        for k in range(alpha.shape[0]):
            slope = alpha[k, j] * ((1 if k == i else 0) - alpha[i, j])
            dc[i, j] -= dy * (math.log(alpha[k, j]) + 1) * slope
    return (dc,)


def _alpha(c):
    alpha = np.zeros(c.shape)
    for i, j in np.ndindex(c.shape):
        alpha[i, j] = math.exp(c[i, j]) / sum(math.exp(a) for a in c[:, j])
    return alpha

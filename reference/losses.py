"""Losses [L1, L2] and their gradients."""

import math

import numpy as np


def squared_error_forward(outputs, targets, *, reduction="mean"):
    """E = 1/2 sum (t - y)^2, over N for "mean"."""
    E = 0.0
    for index in np.ndindex(outputs.shape):
        E += (targets[index] - outputs[index]) ** 2 / 2
    return np.array(E / _divisor(outputs, reduction)), (outputs, targets)


def squared_error_backward(residuals, dy, *, reduction="mean"):
    """dE/dy = y - t and dE/dt = t - y."""
    outputs, targets = residuals
    doutputs = np.zeros(outputs.shape)
    for index in np.ndindex(outputs.shape):
        doutputs[index] = dy * (outputs[index] - targets[index]) / _divisor(outputs, reduction)
    return doutputs, -doutputs


def softmax_cross_entropy_forward(logits, labels, *, reduction="mean"):
    """E = - sum t ln p, over N for "mean"."""
    E = 0.0
    targets, logp = _targets(labels, logits.shape), _log_probabilities(logits)
    for index in np.ndindex(logits.shape):
        E -= targets[index] * logp[index]
    return np.array(E / _divisor(logits, reduction)), (logits, labels)


def softmax_cross_entropy_backward(residuals, dy, *, reduction="mean"):
    """dE/du_j = sum_k t_k (p_j - [j = k]) ; dE/dt_j = - ln p_j."""
    logits, labels = residuals
    targets, logp = _targets(labels, logits.shape), _log_probabilities(logits)
    N, K = logits.shape
    dlogits, dlabels = np.zeros((N, K)), np.zeros((N, K))
    for n, j in np.ndindex(N, K):
        dlabels[n, j] = -dy * logp[n, j] / _divisor(logits, reduction)
        for k in range(K):
            difference = math.exp(logp[n, j]) - (1 if j == k else 0)
            dlogits[n, j] += dy * targets[n, k] * difference / _divisor(logits, reduction)
    return dlogits, dlabels if labels.ndim == 2 else None


def _log_probabilities(logits):
    logp = np.zeros(logits.shape)
    for n, k in np.ndindex(logits.shape):
        largest = max(logits[n])
        logp[n, k] = logits[n, k] - largest - math.log(sum(math.exp(u - largest) for u in logits[n]))
    return logp


def _targets(labels, shape):
    if labels.ndim == 2:
        return labels
    targets = np.zeros(shape)
    for n in range(shape[0]):
        targets[n, labels[n]] = 1
    return targets


def _divisor(outputs, reduction):
    return outputs.shape[0] if reduction == "mean" else 1

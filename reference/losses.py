"""Losses [L1, L2, N17] and their gradients."""

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


def softmax_cross_entropy_forward(logits, labels, weights=None, *, reduction="mean"):
    """E = sum_m w_m e_m with e_m = - sum_k t_mk ln p_mk, over sum_m w_m for "mean"."""
    E, r = _weighted(logits, labels, weights)
    return np.array(E / r if reduction == "mean" else E), (logits, labels, weights)


def softmax_cross_entropy_backward(residuals, dy, *, reduction="mean"):
    """dE/du_j = w sum_k t_k (p_j - [j = k]), dE/dt_j = - w ln p_j, dE/dw = e; for "mean" over r, the last e - E."""
    logits, labels, weights = residuals
    E, r = _weighted(logits, labels, weights)
    scale = dy / r if reduction == "mean" else dy
    dlogits, dlabels, dweights = np.zeros(logits.shape), np.zeros(logits.shape), np.zeros(logits.shape[:-1])
    for m in np.ndindex(logits.shape[:-1]):
        w = 1.0 if weights is None else weights[m]
        t, logp = _targets(labels, m, logits.shape[-1]), _log_probabilities(logits[m])
        dweights[m] = scale * (_term(t, logp) - (E / r if reduction == "mean" else 0))
        for j in range(logits.shape[-1]):
            dlabels[(*m, j)] = -scale * w * logp[j]
            for k in range(logits.shape[-1]):
                dlogits[(*m, j)] += scale * w * t[k] * (math.exp(logp[j]) - (1 if j == k else 0))
    return dlogits, None if labels.ndim < logits.ndim else dlabels, None if weights is None else dweights


def _weighted(logits, labels, weights):
    """sum_m w_m e_m and sum_m w_m."""
    E, r = 0.0, 0.0
    for m in np.ndindex(logits.shape[:-1]):
        w = 1.0 if weights is None else weights[m]
        E += w * _term(_targets(labels, m, logits.shape[-1]), _log_probabilities(logits[m]))
        r += w
    return E, r


def _term(t, logp):
    return -sum(t[k] * logp[k] for k in range(len(t)))


def _log_probabilities(u):
    largest = max(u)
    total = math.log(sum(math.exp(a - largest) for a in u))
    return [a - largest - total for a in u]


def _targets(labels, m, classes):
    """Those of the position m; integer labels have no axis of classes."""
    if np.issubdtype(labels.dtype, np.integer):
        return [1 if k == labels[m] else 0 for k in range(classes)]
    return labels[m]


def _divisor(outputs, reduction):
    return outputs.shape[0] if reduction == "mean" else 1

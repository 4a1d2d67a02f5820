"""Normalisation [N1, N3, N4] and its backward [N2], through the variance and the mean as Ioffe & Szegedy write it."""

import numpy as np


def batch_norm_forward(x, scale, bias, *, epsilon=1e-5):
    """Entries of one channel are normalised together."""
    return _forward(x, scale, bias, epsilon, lambda index: index[-1])


def batch_norm_backward(residuals, dy, *, epsilon=1e-5):
    """Each entry of a channel counts in its mean and in its variance."""
    return _backward(residuals, dy, epsilon, lambda index: index[-1])


def layer_norm_forward(x, scale, bias, *, epsilon=1e-5):
    """Entries of one position are normalised together."""
    return _forward(x, scale, bias, epsilon, lambda index: index[:-1])


def layer_norm_backward(residuals, dy, *, epsilon=1e-5):
    """Each channel counts in the mean and the variance of its position."""
    return _backward(residuals, dy, epsilon, lambda index: index[:-1])


def instance_norm_forward(x, scale, bias, *, epsilon=1e-5):
    """Entries of one channel of one sample are normalised together."""
    return _forward(x, scale, bias, epsilon, lambda index: (index[0], index[-1]))


def instance_norm_backward(residuals, dy, *, epsilon=1e-5):
    """Each position counts in the mean and the variance of its map."""
    return _backward(residuals, dy, epsilon, lambda index: (index[0], index[-1]))


def group_norm_forward(x, scale, bias, *, groups, epsilon=1e-5):
    """Entries of neighbouring channels of one sample are normalised together."""
    return _forward(x, scale, bias, epsilon, lambda index: (index[0], index[-1] * groups // x.shape[-1]))


def group_norm_backward(residuals, dy, *, groups, epsilon=1e-5):
    """Each entry of a group counts in its mean and its variance."""
    return _backward(residuals, dy, epsilon, lambda index: (index[0], index[-1] * groups // dy.shape[-1]))


def fixed_batch_norm_forward(x, scale, bias, mean, variance, *, epsilon=1e-5):
    """y = scale (x - mean) / sqrt(variance + epsilon) + bias."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        c = index[-1]
        y[index] = scale[c] * (x[index] - mean[c]) / np.sqrt(variance[c] + epsilon) + bias[c]
    return y, (x, scale, mean, variance)


def fixed_batch_norm_backward(residuals, dy, *, epsilon=1e-5):
    """The partial derivatives of that line."""
    x, scale, mean, variance = residuals
    dx, dscale, dbias, dmean, dvariance = (np.zeros(a.shape) for a in (x, scale, scale, mean, variance))
    for index in np.ndindex(x.shape):
        c = index[-1]
        root = np.sqrt(variance[c] + epsilon)
        dx[index] = dy[index] * scale[c] / root
        dscale[c] += dy[index] * (x[index] - mean[c]) / root
        dbias[c] += dy[index]
        dmean[c] -= dy[index] * scale[c] / root
        dvariance[c] -= dy[index] * scale[c] * (x[index] - mean[c]) / (2 * root**3)
    return dx, dscale, dbias, dmean, dvariance


def _moments(x, group):
    """Count, mean and biased variance of the entries of each group."""
    count, mean, variance = {}, {}, {}
    for index in np.ndindex(x.shape):
        count[group(index)] = count.get(group(index), 0) + 1
    for index in np.ndindex(x.shape):
        mean[group(index)] = mean.get(group(index), 0) + x[index] / count[group(index)]
    for index in np.ndindex(x.shape):
        square = (x[index] - mean[group(index)]) ** 2
        variance[group(index)] = variance.get(group(index), 0) + square / count[group(index)]
    return count, mean, variance


def _forward(x, scale, bias, epsilon, group):
    _, mean, variance = _moments(x, group)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        normalised = (x[index] - mean[group(index)]) / np.sqrt(variance[group(index)] + epsilon)
        y[index] = scale[index[-1]] * normalised + bias[index[-1]]
    return y, (x, scale)


def _backward(residuals, dy, epsilon, group):
    x, scale = residuals
    count, mean, variance = _moments(x, group)
    dx, dscale, dbias = np.zeros(x.shape), np.zeros(scale.shape), np.zeros(scale.shape)
    dmean, dvariance = dict.fromkeys(mean, 0.0), dict.fromkeys(mean, 0.0)
    for index in np.ndindex(x.shape):
        c, g = index[-1], group(index)
        root, d = np.sqrt(variance[g] + epsilon), dy[index] * scale[c]
        dscale[c] += dy[index] * (x[index] - mean[g]) / root
        dbias[c] += dy[index]
        dvariance[g] -= d * (x[index] - mean[g]) / (2 * root**3)
        dmean[g] -= d / root
    for index in np.ndindex(x.shape):
        g = group(index)
        d = dy[index] * scale[index[-1]]
        dx[index] = d / np.sqrt(variance[g] + epsilon)
        dx[index] += dvariance[g] * 2 * (x[index] - mean[g]) / count[g] + dmean[g] / count[g]
    return dx, dscale, dbias

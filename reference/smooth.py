"""Smooth relatives of the rectifier [N11 to N15]."""

import math

from .activation import _each, _sigmoid


def elu_forward(u, *, alpha=1.0):
    """u where u > 0, alpha (e^u - 1) elsewhere."""
    return _each(lambda a: a if a > 0 else alpha * (math.exp(a) - 1), u), u


def elu_backward(u, dy, *, alpha=1.0):
    """dy where u > 0, dy alpha e^u elsewhere."""
    return (_each(lambda a, d: d if a > 0 else d * alpha * math.exp(a), u, dy),)


def gelu_forward(u):
    """u (1 + erf(u / sqrt 2)) / 2."""
    return _each(lambda a: a * (1 + math.erf(a / math.sqrt(2))) / 2, u), u


def gelu_backward(u, dy):
    """dy (Phi(u) + u e^{-u^2/2} / sqrt(2 pi))."""

    def each(a, d):
        return d * ((1 + math.erf(a / math.sqrt(2))) / 2 + a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi))

    return (_each(each, u, dy),)


def gelu_tanh_forward(u):
    """u (1 + tanh w) / 2, w = sqrt(2/pi) (u + 0.044715 u^3)."""
    return _each(lambda a: a * (1 + math.tanh(_w(a))) / 2, u), u


def gelu_tanh_backward(u, dy):
    """dy ((1 + tanh w) / 2 + u (1 - tanh^2 w) w' / 2), w' = sqrt(2/pi) (1 + 0.134145 u^2)."""

    def each(a, d):
        t, slope = math.tanh(_w(a)), math.sqrt(2 / math.pi) * (1 + 0.134145 * a**2)
        return d * ((1 + t) / 2 + a * (1 - t**2) * slope / 2)

    return (_each(each, u, dy),)


def silu_forward(u):
    """u / (1 + e^-u)."""
    return _each(lambda a: a * _sigmoid(a), u), u


def silu_backward(u, dy):
    """dy (f(u) + sigmoid(u) (1 - f(u)))."""
    return (_each(lambda a, d: d * (a * _sigmoid(a) + _sigmoid(a) * (1 - a * _sigmoid(a))), u, dy),)


def softplus_forward(u):
    """log(1 + e^u)."""
    return _each(lambda a: math.log(1 + math.exp(a)), u), u


def softplus_backward(u, dy):
    """dy / (1 + e^-u)."""
    return (_each(lambda a, d: d * _sigmoid(a), u, dy),)


def _w(a):
    return math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)

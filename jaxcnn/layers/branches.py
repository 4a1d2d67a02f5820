r"""Layers that see the same input, side by side, and the three ways to join their outputs.

Shapes:  a, b, y, dy (N, ..., C); concatenated, a has A channels and y those of both; a gate g is (N, C) or (N, 1, 1, C)

(1)  add          y = a + b                        da = dy            db = dy                              [N30]
(2)  concatenate  y[..., :A] = a, y[..., A:] = b   da = dy[..., :A]   db = dy[..., A:]                     [N31]
(3)  multiply     y = a b                          da = dy b          db = dy a        no division by a 0  [N32]
(4)  by a gate    y_nijc = g_nc x_nijc             dg_nc = sum_ij dy_nijc x_nijc       dx_nijc = dy_nijc g_nc

Branch k = 1..K has parameters w^k, output y^k = f_k(w^k, x) and sensitivity delta^k = dE/dy^k.

(5)  forward   z^1 = y^1, z^k = join(z^{k-1}, y^k), y = z^K
(6)  backward  dE/dz^K = dy; from K down to 2 the join's rule makes of dE/dz^k both dE/dz^{k-1} and delta^k
(7)            dE/dx = sum_k (df_k/dx)^T delta^k,   dE/dw^k = (df_k/dw^k)^T delta^k

So of a product delta^k is dy times the outputs of all other branches. XLA makes one concatenation of (5)'s.
Loops: reference/branches.py. Tests: tests/layers/test_branches.py.
"""

import functools
import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import jax

from ..errors import InputError, check_floating, check_key, check_shape
from ..operation import Operation, Static, operation
from .base import Layer, Shape, parameters_of, without_empty
from .sequential import Listed, naming_layer, sample_shape

__all__ = ["Concatenate", "Identity", "Product", "Sum", "add", "concatenate", "multiply"]


@operation
def add(a, b):
    """a + b, of one shape and floating dtype [N30].

    Raises:
        InputError: a and b are not floating point, or differ in dtype or shape.

    >>> print(add(jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])))
    [4. 7.]
    """
    check_floating("add", a=a, b=b)
    return a + b, Static(_of_both("add", a, b))  # (1)


@add.rule
def _(residuals, dy):
    """(1): `(da, db)` from the residual shape and dy of it."""
    check_shape("add.backward", "dy", dy, residuals.value)
    return dy, dy


@operation
def concatenate(a, b):
    """a (N, ..., A) and b (N, ..., B) as (N, ..., A + B): the channels of b behind those of a [N31].

    Szegedy et al., *Going deeper with convolutions* (2015); Huang et al., *Densely connected convolutional networks*
    (2017).

    Raises:
        InputError: a and b are not floating point, differ in dtype or in a size other than the last.

    >>> concatenate(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, 5))).shape
    (2, 4, 4, 8)
    """
    check_floating("concatenate", a=a, b=b)
    shape = _of_both("concatenate", a, b)
    return jax.lax.concatenate((a, b), len(shape) - 1), Static((shape, a.shape[-1]))  # (2)


@concatenate.rule
def _(residuals, dy):
    """(2): `(da, db)` from the residuals shape and A, and dy of this shape."""
    shape, A = residuals.value
    check_shape("concatenate.backward", "dy", dy, shape)
    return dy[..., :A], dy[..., A:]


@operation
def multiply(a, b):
    """The product entry by entry of arrays of one shape, or of maps (N, H, W, C) and a gate, one factor for each map.

    The gate is (N, C) or (N, 1, 1, C), and either argument may be it [N32]. Hu et al., *Squeeze-and-excitation
    networks* (2018).

    Raises:
        InputError: a and b are not floating point, differ in dtype, or have other shapes.

    >>> gate, maps = jnp.array([[2.0, 0.0]]), jnp.ones((1, 3, 3, 2))
    >>> print(multiply(gate, maps)[0, 0], jax.grad(lambda g: multiply(g, maps).sum())(gate))
    [[2. 0.]
     [2. 0.]
     [2. 0.]] [[9. 9.]]
    """
    check_floating("multiply", a=a, b=b)
    _of_both("multiply", a, b)
    return _beside(a, b) * _beside(b, a), (a, b)  # (3), (4)


@multiply.rule
def _(residuals, dy):
    """(3), (4): `(da, db)` from the residuals a and b, and dy of the larger one's shape."""
    a, b = residuals
    check_shape("multiply.backward", "dy", dy, _of_both("multiply", a, b))
    return _gathered(dy * _beside(b, a), a), _gathered(dy * _beside(a, b), b)


def _beside(a, b):
    """A gate (N, C) beside maps as (N, 1, 1, C)."""
    return a[:, None, None] if a.ndim < b.ndim else a


def _gathered(d, a):
    """The gradient of a factor: for one that was a gate, the sum over each map."""
    return d if d.shape == a.shape else d.sum(axis=(1, 2)).reshape(a.shape)


def _equal(shapes):
    return shapes[0] if len(set(shapes)) == 1 else None


def _side_by_side(shapes):
    if min(map(len, shapes)) < 2 or len({shape[:-1] for shape in shapes}) > 1:
        return None
    return *shapes[0][:-1], sum(shape[-1] for shape in shapes)


def _scaled(shapes):
    full = max(shapes, key=lambda shape: (len(shape), math.prod(shape)))
    gates = {(full[0], full[3]), (full[0], 1, 1, full[3])} if len(full) == 4 else set()
    return full if set(shapes) <= {full, *gates} else None


FITS = {  # by operation: the shape of what is joined, None for shapes that do not fit; and what they must
    "add": (_equal, "have one shape"),
    "concatenate": (_side_by_side, "have one shape but for the channels, the last axis"),
    "multiply": (_scaled, "have one shape, or be maps (H, W, C) of each sample and gates (C,) or (1, 1, C) to them"),
}


def _joined(op: str, where: str, shapes: dict[str, Shape], batch: Shape = ()) -> Shape:
    """The shape of what is joined by `op`; shapes that leave the batch out are given one in `batch`.

    Raises:
        InputError: they do not fit, by their names.
    """
    fit, must = FITS[op]
    joined = fit([(*batch, *shape) for shape in shapes.values()])
    if joined is None:
        given = " and ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise InputError(f"{where}: {given} but they must {must}")
    return joined[len(batch) :]


def _of_both(op, a, b):
    return _joined(op, op, {"a": a.shape, "b": b.shape})


class Branches(Layer, abstract=True):
    """Base of the layers whose children all see x, and whose outputs are joined two at a time by `join`, (5) to (7).

    Residuals are a dict by the branches' names; those of the joins stand under "joined", by the name of the second.
    """

    join: ClassVar[Operation]

    def branches(self) -> dict[str, Layer]:
        """All of them by name; a way that is not among the children has no name in the deltas."""
        return self.children()

    def init(self, key, in_shape):
        check_key(type(self).__name__, key)
        params = {}
        for name, layer, own_key in self._with_keys(key):
            with naming_layer(name, in_shape):
                params[name] = layer.init(own_key, in_shape)
        self.output_shape(in_shape)
        return without_empty(params)

    def apply(self, params, x, *, train=False, key=None):
        outputs = {}
        for name, layer, own_key in self._with_keys(key):
            with naming_layer(name, sample_shape(x)):
                outputs[name] = layer.apply(parameters_of(name, params), x, train=train, key=own_key)
        self._joined({name: sample_shape(y) for name, y in outputs.items()})
        return functools.reduce(self.join, outputs.values())  # (5)

    def forward(self, params, x, *, train=False, key=None):
        outputs, residuals, joins = {}, {}, {}
        for name, layer, own_key in self._with_keys(key):
            with naming_layer(name, sample_shape(x)):
                outputs[name], residuals[name] = layer.forward(parameters_of(name, params), x, train=train, key=own_key)
        self._joined({name: sample_shape(y) for name, y in outputs.items()})
        (_, z), *others = outputs.items()
        for name, y in others:
            z, joins[name] = self.join.forward(z, y)  # (5)
        return z, residuals | {"joined": joins}

    def backward_with_deltas(self, residuals, dy):
        branches = self.branches()
        first, *others = branches
        dz, delta = dy, {}
        for name in reversed(others):
            dz, delta[name] = self.join.backward(residuals["joined"][name], dz)  # (6)
        delta[first] = dz
        dx, grads, deltas = [], {}, {}
        for name, layer in branches.items():
            with naming_layer(name, sample_shape(delta[name]), "dy"):
                dx_of_branch, grads[name], inner = layer.backward_with_deltas(residuals[name], delta[name])
            dx.append(dx_of_branch)
            if name in self.children():
                deltas |= {name: delta[name]} | {f"{name}/{inside}": value for inside, value in inner.items()}
        return functools.reduce(operator.add, dx), without_empty(grads), deltas  # (7)

    def output_shape(self, in_shape):
        shapes = {}
        for name, layer in self.branches().items():
            with naming_layer(name, in_shape):
                shapes[name] = layer.output_shape(in_shape)
        return self._joined(shapes)

    def _joined(self, shapes):
        outputs = {f"{name}'s output": shape for name, shape in shapes.items()}
        return _joined(self.join.name, type(self).__name__, outputs, batch=(1,))

    def _with_keys(self, key):
        """(name, layer, key) of each branch."""
        branches = self.branches()
        keys = [None] * len(branches) if key is None else jax.random.split(key, len(branches))
        return [(name, layer, own_key) for (name, layer), own_key in zip(branches.items(), keys, strict=True)]


@dataclass(frozen=True, init=False)
class Sum(Listed, Branches):
    """Spec of the sum of several layers' outputs for one x, all of one shape; named as in a `Sequential`.

    >>> from jaxcnn import Conv2d
    >>> Sum((Conv2d(8, 3, padding=1), Conv2d(8, 1), Conv2d(8, 5, padding=2))).output_shape((32, 32, 4))
    (32, 32, 8)
    """

    join = add


@dataclass(frozen=True, init=False)
class Concatenate(Listed, Branches):
    """Spec of several layers' outputs for one x, channels behind channels, as in an Inception module or a DenseNet.

    >>> from jaxcnn import Conv2d, ReLU, Sequential
    >>> densely = Concatenate((Identity(), Sequential((ReLU(), Conv2d(12, 3, padding=1)))))
    >>> densely.names, densely.output_shape((32, 32, 16))
    (('identity1', 'sequential1'), (32, 32, 28))
    """

    join = concatenate


@dataclass(frozen=True, init=False)
class Product(Listed, Branches):
    """Spec of the product of several layers' outputs for one x, of one shape or gates, one factor for each map.

    Squeeze-and-excitation (Hu et al. 2018), here for maps of 8 by 8:

    >>> from jaxcnn import AvgPool2d, Dense, Flatten, ReLU, Sequential, Sigmoid
    >>> gate = Sequential((AvgPool2d(8), Flatten(), Dense(4), ReLU(), Dense(16), Sigmoid()))
    >>> Product((Identity(), gate)).output_shape((8, 8, 16))
    (8, 8, 16)
    """

    join = multiply


@dataclass(frozen=True)
class Identity(Layer):
    """The layer that does nothing, y = x and dx = dy: a branch that hands x through.

    >>> print(Identity().apply({}, jnp.array([1.0, 2.0])))
    [1. 2.]
    """

    def apply(self, params, x, *, train=False, key=None):
        return x

    def forward(self, params, x, *, train=False, key=None):
        return x, None

    def backward(self, residuals, dy):
        return dy, {}

    def output_shape(self, in_shape):
        return in_shape

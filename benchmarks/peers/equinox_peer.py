"""Equinox with optax, as its documentation trains: `filter_jit`, `filter_value_and_grad`, the model under `vmap`.

The state is that of batch norms: the mode "batch" is the one that all others have.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)

VERSIONS = {"equinox": eqx.__version__, "optax": optax.__version__}
CHANNELS_FIRST = True
AXIS = "batch"

wait = jax.block_until_ready


class Block(eqx.nn.StatefulLayer):
    """body(x) + shortcut(x)."""

    body: eqx.nn.Sequential
    shortcut: eqx.nn.Sequential

    def __call__(self, x, state, *, key=None):
        y, state = self.body(x, state)
        around, state = self.shortcut(x, state)
        return y + around, state


def module(layer, shape, key, dtype):
    """The layer, for inputs of `shape`, as a module for one sample."""
    if isinstance(layer, Sequential):
        modules = []
        for inner in layer.layers:
            modules.append(module(inner, shape, key, dtype))
            shape = inner.output_shape(shape)
        return eqx.nn.Sequential(modules)
    if isinstance(layer, Residual):
        ways = [() if way is None else (module(way, shape, key, dtype),) for way in (layer.body, layer.shortcut)]
        return Block(*map(eqx.nn.Sequential, ways))
    if isinstance(layer, Conv2d):
        return eqx.nn.Conv2d(
            shape[-1],
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            use_bias=layer.bias,
            key=key,
        )
    if isinstance(layer, Dense):
        return eqx.nn.Linear(shape[0], layer.out_features, use_bias=layer.bias, key=key)
    if isinstance(layer, BatchNorm):
        return eqx.nn.BatchNorm(shape[-1], AXIS, layer.epsilon, momentum=0.9, dtype=dtype, mode="batch")
    if isinstance(layer, MaxPool2d | AvgPool2d):
        pool = eqx.nn.MaxPool2d if isinstance(layer, MaxPool2d) else eqx.nn.AvgPool2d
        return pool(layer.window_size, layer.window_size if layer.stride is None else layer.stride, layer.padding)
    of_arrays = {ReLU: jax.nn.relu, Flatten: jnp.ravel, GlobalAvgPool2d: lambda x: x.mean((1, 2))}
    return eqx.nn.Lambda(of_arrays[type(layer)])


def outputs_of(model, state, x):
    """The outputs for a batch, and the state after it."""
    return jax.vmap(model, (0, None), (0, None), axis_name=AXIS)(x, state)


def loss_fn(model, state, x, labels):
    """Mean cross-entropy, and the state."""
    outputs, state = outputs_of(model, state, x)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean(), state


@eqx.filter_jit
def make_step(model, state, opt_state, optim, x, labels):
    """One update."""
    (loss, state), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, state, x, labels)
    updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state, opt_state, loss


@eqx.filter_jit
def predict(model, state, x):
    """The outputs."""
    return outputs_of(model, state, x)[0]


class Net:
    """A network that learns one batch."""

    def __init__(self, network, weights, statistics, x, labels, rate, dtype):
        model, state = eqx.nn.make_with_state(module)(network, x.shape[1:], jax.random.key(0), dtype)
        arrays, static = eqx.partition(model, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        flat = (a for values in weights for a in values)  # a convolution's bias is (O, 1, 1)
        filled = [jnp.asarray(a, dtype).reshape(leaf.shape) for a, leaf in zip(flat, leaves, strict=True)]
        self.model = eqx.combine(jax.tree.unflatten(structure, filled), static)
        self.norms = [part for part in jax.tree.leaves(model, is_leaf=_is_norm) if _is_norm(part)]
        for norm, values in zip(self.norms, statistics, strict=True):
            state = state.set(norm.batch_state_index, tuple(jnp.asarray(a, dtype) for a in values))
        self.state, self.evaluated = state, (eqx.nn.inference_mode(self.model), state)
        self.weights = weights
        self.x, self.labels = jnp.asarray(x, dtype).transpose(0, 3, 1, 2), jnp.asarray(labels)
        self.optim = optax.sgd(rate)
        self.opt_state = self.optim.init(eqx.filter(self.model, eqx.is_array))

    def step(self):
        """One update."""
        self.model, self.state, self.opt_state, loss = make_step(
            self.model, self.state, self.opt_state, self.optim, self.x, self.labels
        )
        return self.model, loss

    def evaluate(self):
        """The forward pass alone, of the network as it was at first."""
        return predict(*self.evaluated, self.x)

    def gradients(self):
        """The gradients of a layer's parameters together, in the order of `weights`."""
        grads, self.state = eqx.filter_jit(eqx.filter_grad(loss_fn, has_aux=True))(
            self.model, self.state, self.x, self.labels
        )
        flat = iter(jax.tree.leaves(grads))
        return [tuple(np.asarray(next(flat)).reshape(a.shape) for a in values) for values in self.weights]

    def statistics(self):
        """The moving mean and variance of each batch norm; the variance is of biased ones."""
        return [tuple(np.asarray(a) for a in self.state.get(norm.batch_state_index)) for norm in self.norms]

    def outputs(self):
        """What `evaluate` computes, as an array."""
        return np.asarray(self.evaluate())


def _is_norm(part):
    return isinstance(part, eqx.nn.BatchNorm)


def nets(network, weights, statistics, x, labels, rate, dtype, tf32):
    """The network, by name; JAX's own setting decides about TF32."""
    del tf32
    return {"equinox": Net(network, weights, statistics, x, labels, rate, dtype)}

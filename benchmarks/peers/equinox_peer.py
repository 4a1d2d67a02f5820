"""Equinox with optax, as its documentation trains: `filter_jit`, `filter_value_and_grad`, the model under `vmap`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Residual, Sequential

VERSIONS = {"equinox": eqx.__version__, "optax": optax.__version__}
CHANNELS_FIRST = True

wait = jax.block_until_ready


class Block(eqx.Module):
    """body(x) + shortcut(x)."""

    body: eqx.Module
    shortcut: eqx.Module

    def __call__(self, x, *, key=None):
        return self.body(x) + self.shortcut(x)


def module(layer, shape, key):
    """The layer, for inputs of `shape`, as a module for one sample."""
    if isinstance(layer, Sequential):
        modules = []
        for inner in layer.layers:
            modules.append(module(inner, shape, key))
            shape = inner.output_shape(shape)
        return eqx.nn.Sequential(modules)
    if isinstance(layer, Residual):
        shortcut = eqx.nn.Identity() if layer.shortcut is None else module(layer.shortcut, shape, key)
        return Block(module(layer.body, shape, key), shortcut)
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
    if isinstance(layer, MaxPool2d | AvgPool2d):
        pool = eqx.nn.MaxPool2d if isinstance(layer, MaxPool2d) else eqx.nn.AvgPool2d
        return pool(layer.window_size, layer.window_size if layer.stride is None else layer.stride, layer.padding)
    return eqx.nn.Lambda({ReLU: jax.nn.relu, Flatten: jnp.ravel}[type(layer)])


def loss_fn(model, x, labels):
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels).mean()


@eqx.filter_jit
def make_step(model, opt_state, optim, x, labels):
    """One update."""
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, labels)
    updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), opt_state, loss


@eqx.filter_jit
def predict(model, x):
    """The outputs."""
    return jax.vmap(model)(x)


class Net:
    """A network that learns one batch."""

    def __init__(self, network, weights, x, labels, rate, dtype):
        model = module(network, x.shape[1:], jax.random.key(0))
        arrays, static = eqx.partition(model, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        flat = (a for values in weights for a in values)  # a convolution's bias is (O, 1, 1)
        filled = [jnp.asarray(a, dtype).reshape(leaf.shape) for a, leaf in zip(flat, leaves, strict=True)]
        self.model = eqx.combine(jax.tree.unflatten(structure, filled), static)
        self.weights = weights
        self.x, self.labels = jnp.asarray(x, dtype).transpose(0, 3, 1, 2), jnp.asarray(labels)
        self.optim = optax.sgd(rate)
        self.opt_state = self.optim.init(eqx.filter(self.model, eqx.is_array))

    def step(self):
        """One update."""
        self.model, self.opt_state, loss = make_step(self.model, self.opt_state, self.optim, self.x, self.labels)
        return self.model, loss

    def evaluate(self):
        """The forward pass alone."""
        return predict(self.model, self.x)

    def gradients(self):
        """The gradients of a layer's parameters together, in the order of `weights`."""
        grads = eqx.filter_jit(eqx.filter_grad(loss_fn))(self.model, self.x, self.labels)
        flat = iter(jax.tree.leaves(grads))
        return [tuple(np.asarray(next(flat)).reshape(a.shape) for a in values) for values in self.weights]

    def outputs(self):
        """What `evaluate` computes, as an array."""
        return np.asarray(self.evaluate())


def nets(network, weights, x, labels, rate, dtype, tf32):
    """The network, by name; JAX's own setting decides about TF32."""
    del tf32
    return {"equinox": Net(network, weights, x, labels, rate, dtype)}

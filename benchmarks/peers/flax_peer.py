"""Flax (NNX) with optax, as its documentation trains: `nnx.jit`, and `nnx.cached_partial` to save the traversal."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

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
from jaxcnn.geometry import pair

VERSIONS = {"flax": flax.__version__, "optax": optax.__version__}
CHANNELS_FIRST = False

wait = jax.block_until_ready


class Block(nnx.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body, shortcut):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x):
        return self.body(x) + self.shortcut(x)


def module(layer, shape, rngs, dtype):
    """The layer, for inputs of `shape`, as a module or a function."""
    if isinstance(layer, Sequential):
        modules = []
        for inner in layer.layers:
            modules.append(module(inner, shape, rngs, dtype))
            shape = inner.output_shape(shape)
        return nnx.Sequential(*modules)
    if isinstance(layer, Residual):
        shortcut = (lambda x: x) if layer.shortcut is None else module(layer.shortcut, shape, rngs, dtype)
        return Block(module(layer.body, shape, rngs, dtype), shortcut)
    if isinstance(layer, Conv2d):
        return nnx.Conv(
            shape[-1],
            layer.out_channels,
            pair("conv2d", "kernel_size", layer.kernel_size),
            layer.stride,
            padding=layer.padding,
            kernel_dilation=layer.dilation,
            feature_group_count=layer.groups,
            use_bias=layer.bias,
            param_dtype=dtype,
            rngs=rngs,
        )
    if isinstance(layer, Dense):
        return nnx.Linear(shape[0], layer.out_features, use_bias=layer.bias, param_dtype=dtype, rngs=rngs)
    if isinstance(layer, BatchNorm):
        return nnx.BatchNorm(shape[-1], momentum=0.9, epsilon=layer.epsilon, param_dtype=dtype, rngs=rngs)
    if isinstance(layer, GlobalAvgPool2d):
        return lambda x: x.mean((1, 2))
    if isinstance(layer, MaxPool2d | AvgPool2d):
        window, pad = pair("pool", "window_size", layer.window_size), (layer.padding, layer.padding)
        strides = window if layer.stride is None else pair("pool", "stride", layer.stride)
        pool = nnx.max_pool if isinstance(layer, MaxPool2d) else nnx.avg_pool
        return partial(pool, window_shape=window, strides=strides, padding=(pad, pad))
    return {ReLU: nnx.relu, Flatten: lambda x: x.reshape(x.shape[0], -1)}[type(layer)]


def loss_fn(model, x, labels):
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()


@nnx.jit
def train_step(model, optimizer, x, labels):
    """One update."""
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, labels)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def eval_step(model, x):
    """The outputs."""
    return model(x)


class Net:
    """A network that learns one batch."""

    def __init__(self, network, weights, statistics, x, labels, rate, dtype):
        self.model = module(network, x.shape[1:], nnx.Rngs(0), dtype)
        state = nnx.state(self.model, nnx.Param)
        flat = [jnp.asarray(a, dtype) for values in weights for a in reversed(values)]  # "bias" before "kernel"
        nnx.update(self.model, jax.tree.unflatten(jax.tree.structure(state), flat))
        moving = jax.tree.structure(nnx.state(self.model, nnx.BatchStat))
        nnx.update(self.model, jax.tree.unflatten(moving, [jnp.asarray(a) for values in statistics for a in values]))
        self.groups = [len(values) for values in weights]
        self.x, self.labels = jnp.asarray(x, dtype), jnp.asarray(labels)
        optimizer = nnx.Optimizer(self.model, optax.sgd(rate), wrt=nnx.Param)
        self.model.eval()
        self.eval = nnx.cached_partial(eval_step, self.model)  # each keeps the mode of its model
        self.model.train()
        self.train = nnx.cached_partial(train_step, self.model, optimizer)

    def step(self):
        """One update."""
        return self.train(self.x, self.labels)

    def evaluate(self):
        """The forward pass alone."""
        return self.eval(self.x)

    def gradients(self):
        """The gradients of a layer's parameters together, in the order of `weights`."""
        grads = nnx.jit(nnx.grad(loss_fn))(self.model, self.x, self.labels)
        flat = iter(jax.tree.leaves(grads))
        return [tuple(np.asarray(next(flat)) for _ in range(count))[::-1] for count in self.groups]

    def statistics(self):
        """The moving mean and variance of each batch norm; the variance is of biased ones."""
        flat = [np.asarray(a) for a in jax.tree.leaves(nnx.state(self.model, nnx.BatchStat))]
        return list(zip(flat[::2], flat[1::2], strict=True))

    def outputs(self):
        """What `evaluate` computes, as an array."""
        return np.asarray(self.evaluate())


def nets(network, weights, statistics, x, labels, rate, dtype, tf32):
    """The network, by name; JAX's own setting decides about TF32."""
    del tf32
    return {"flax": Net(network, weights, statistics, x, labels, rate, dtype)}

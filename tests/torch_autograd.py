"""A second opinion on a rule: PyTorch's value and gradients of the same function, in float64."""

import numpy as np
import pytest

from jaxcnn import Operation


def assert_same_as_torch(op: Operation, function, arrays, seed: int = 0, **static) -> None:
    """Value and gradients of `op` for a random cotangent are those of `function`, written in PyTorch, to 1e-10.

    Args:
        op: the operation.
        function: of tensors, one for each array, in our layout: it permutes to PyTorch's and back.
        arrays: floating point; None is handed on.
        seed: of the cotangent.
        static: the operation's static arguments.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import jax

    tensors = [None if a is None else torch.tensor(np.asarray(a), requires_grad=True) for a in arrays]
    expected = function(*tensors)
    dy = np.random.default_rng(seed).standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        y, residuals = op.forward(*arrays, **static)
        grads = op.backward(residuals, dy, **static)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-10)
        for name, grad, tensor in zip(op.arguments, grads, tensors, strict=True):
            if tensor is not None:
                np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-10, atol=1e-10, err_msg=f"d{name}")

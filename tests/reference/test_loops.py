"""The reference against nothing but the documents' numbers, and its differences against known derivatives."""

import numpy as np
import pytest

from reference.activation import softmax_forward
from reference.conv import conv2d_forward
from reference.finite_difference import derivative, gradient
from reference.geometry import axes
from reference.losses import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from reference.pool import max_pool2d_backward, max_pool2d_forward


def test_the_nine_equations_of_d3_from_values_alone(rng):
    """[B3] by differences of the forward loops: no backward formula enters."""
    P, K, dC = rng.standard_normal((1, 3, 3, 1)), rng.standard_normal((2, 2, 1, 1)), rng.standard_normal((1, 2, 2, 1))
    (K1, K2), (K3, K4) = K[:, :, 0, 0]
    (C1, C2), (C3, C4) = dC[0, :, :, 0]
    expected = [
        [C1 * K1, C1 * K2 + C2 * K1, C2 * K2],
        [C1 * K3 + C3 * K1, C1 * K4 + C2 * K3 + C3 * K2 + C4 * K1, C2 * K4 + C4 * K2],
        [C3 * K3, C3 * K4 + C4 * K3, C4 * K4],
    ]
    found = gradient(lambda p: (conv2d_forward(p, K)[0] * dC).sum(), P)
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-9)


def test_differences_are_of_fourth_order():
    for step in (0.1, 0.05):
        error = derivative(np.exp, np.float64(1.0), np.float64(1.0), step) - np.e
        assert abs(error) == pytest.approx(np.e * step**4 / 30, rel=0.02)


def test_d3s_softmax():
    u = np.array([[2.0, 3.0, 4.0]])
    np.testing.assert_allclose(softmax_forward(u)[0], [[0.0900, 0.2447, 0.6652]], atol=5e-5)
    _, residuals = softmax_cross_entropy_forward(u, np.array([1]))
    np.testing.assert_allclose(
        softmax_cross_entropy_backward(residuals, 1.0)[0], [[0.0900, -0.7553, 0.6652]], atol=5e-5
    )


def test_d2s_sizes():
    assert axes((200, 200), 5, 2, 1, 1)[0][0] == 99
    assert axes((99, 97), 3, 1, ((0, 0), (1, 1)), 1)[0][0] == 97
    assert axes((99, 97), 3, 1, ((0, 0), (1, 1)), 1)[1][0] == 97


def test_ties_go_to_the_first():
    y, residuals = max_pool2d_forward(np.ones((1, 2, 2, 1)), 2)
    np.testing.assert_array_equal(max_pool2d_backward(residuals, y, window_size=2)[0][0, :, :, 0], [[1, 0], [0, 0]])

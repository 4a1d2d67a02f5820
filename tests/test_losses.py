import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import InputError, Loss, SoftmaxCrossEntropy, SquaredError, one_hot, softmax_cross_entropy, squared_error


def test_the_example_of_d3():
    """[L2]: scores [2, 3, 4], true class 1: dE/du = p - t = [0.0900, -0.7553, 0.6652]."""
    E, residuals = softmax_cross_entropy.forward(jnp.array([[2.0, 3, 4]]), jnp.array([1]))
    dlogits, dlabels = softmax_cross_entropy.backward(residuals, 1.0)
    assert float(E) == pytest.approx(-np.log(0.24472847), rel=1e-6)
    np.testing.assert_allclose(dlogits, [[0.0900, -0.7553, 0.6652]], atol=5e-5)
    assert dlabels is None


def test_integer_and_one_hot_labels_agree(rng):
    u, labels = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32), jnp.array([0, 3, 2, 2, 1, 0])
    value, grad = jax.value_and_grad(softmax_cross_entropy)(u, labels)
    value1, grad1 = jax.value_and_grad(softmax_cross_entropy)(u, one_hot(labels, 4))
    np.testing.assert_allclose(value, value1, rtol=1e-6)
    np.testing.assert_allclose(grad, grad1, atol=1e-7)


def test_targets_that_do_not_sum_to_one():
    """dE/du = p sum_k t_k - t."""
    u, t = jnp.array([[0.3, -0.2, 0.9]]), jnp.array([[0.5, 2.0, 0.0]])
    p = jax.nn.softmax(u)
    np.testing.assert_allclose(jax.grad(softmax_cross_entropy)(u, t), p * 2.5 - t, atol=1e-6)


def test_large_logits_are_safe():
    value, grad = jax.value_and_grad(softmax_cross_entropy)(jnp.array([[1e4, 0.0, -1e4]]), jnp.array([1]))
    assert value == 1e4
    np.testing.assert_array_equal(grad, [[1, -1, 0]])


def test_mean_is_the_sum_over_n_and_n_divides_once(rng):
    u, t = jnp.asarray(rng.standard_normal((5, 3))), jnp.asarray(rng.standard_normal((5, 3)))
    for loss in (softmax_cross_entropy, squared_error):
        summed = jax.value_and_grad(lambda u, loss=loss: loss(u, t, reduction="sum"))(u)
        mean = jax.value_and_grad(lambda u, loss=loss: loss(u, t))(u)
        np.testing.assert_allclose(summed[0] / 5, mean[0], rtol=1e-6)
        np.testing.assert_allclose(summed[1] / 5, mean[1], rtol=1e-6)


def test_squared_error_is_l1():
    """E = 1/2 sum (t - y)^2 ; dE/dy = y - t, not t - y as D1 writes."""
    y, t = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    assert squared_error(y, t, reduction="sum") == 2.5
    np.testing.assert_array_equal(jax.grad(squared_error)(y, t, reduction="sum"), y - t)


def test_a_label_out_of_range_is_loud():
    for label in (3, -1):
        value, grad = jax.value_and_grad(softmax_cross_entropy)(jnp.zeros((1, 3)), jnp.array([label]))
        assert jnp.isnan(value)
        assert jnp.isnan(grad).all()
        assert jnp.isnan(SquaredError().apply(jnp.zeros((1, 3)), jnp.array([label])))


def test_specs_take_integer_labels():
    y, labels = jnp.array([[0.2, 0.9], [0.5, 0.1]]), jnp.array([1, 0])
    for spec, expected in (
        (SquaredError(), squared_error(y, one_hot(labels, 2))),
        (SoftmaxCrossEntropy("sum"), softmax_cross_entropy(y, labels, reduction="sum")),
    ):
        value, residuals = spec.forward(y, labels)
        assert value == spec.apply(y, labels) == expected
        np.testing.assert_allclose(
            spec.backward(residuals), jax.grad(lambda y, spec=spec: spec.forward(y, labels)[0])(y), atol=1e-7
        )


def test_errors_are_one_sentence():
    for call, message in (
        (
            lambda: softmax_cross_entropy(jnp.ones((2, 3)), jnp.array([0, 1]), reduction="max"),
            'softmax_cross_entropy: reduction is \'max\' but must be "mean" or "sum"',
        ),
        (
            lambda: softmax_cross_entropy(jnp.ones((2, 3)), jnp.array([0])),
            "softmax_cross_entropy: labels has shape (1,) but must have shape (2,)",
        ),
        (
            lambda: softmax_cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 4))),
            "softmax_cross_entropy: labels has shape (2, 4) but must have shape (2, 3)",
        ),
        (
            lambda: squared_error(jnp.ones((2, 3)), jnp.ones((2,))),
            "squared_error: targets has shape (2,) but must have shape (2, 3)",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message


def test_targets_of_tanh_outputs_are_minus_one_and_one(rng):
    """[I4]: 0 for the other classes by default, for sigmoid outputs; -1 for tanh outputs."""
    y, labels = jnp.asarray(rng.standard_normal((3, 2)).astype(np.float32)), jnp.array([1, 0, 1])
    targets = jnp.array([[-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_array_equal(one_hot(labels, 2, low=-1), targets)
    loss = SquaredError(low=-1)
    E, residuals = loss.forward(y, labels)
    assert E == loss.apply(y, labels) == squared_error(y, targets)
    np.testing.assert_allclose(loss.backward(residuals), (y - targets) / 3, rtol=1e-6)
    assert jnp.isnan(one_hot(jnp.array([2]), 2, low=-1)).all()
    with pytest.raises(InputError, match="SquaredError: low is 1 but must be a finite number below 1"):
        SquaredError(low=1)


def test_a_loss_without_an_operation_is_refused_when_its_class_is_defined():
    for op in (None, softmax_cross_entropy.__wrapped__):
        with pytest.raises(InputError, match="Lame: op is .* but must be an operation, made by @operation"):
            type("Lame", (Loss,), {} if op is None else {"op": op})
    with pytest.raises(InputError, match=r"Loss: has no operation but must be one of its subclasses, such as Softmax"):
        Loss()

    class Own(Loss):
        def apply(self, outputs, labels):
            return outputs.sum()

        def forward(self, outputs, labels):
            return outputs.sum(), outputs

        def backward(self, residuals, dy=1.0):
            return dy * jnp.ones_like(residuals)

    assert Own().apply(jnp.ones((1, 2)), None) == 2


def test_a_number_of_numpy_is_a_number():
    assert SquaredError(low=np.float32(-1)).low == -1
    with pytest.raises(InputError, match="SquaredError: low is 'low' but must be a finite number below 1"):
        SquaredError(low="low")


def test_labels_may_be_a_list():
    outputs = jnp.array([[1.0, 2.0, 4.0], [0.5, 0.0, 3.0]])
    for loss in (SoftmaxCrossEntropy(), SquaredError()):
        assert loss.apply(outputs, [2, 0]) == loss.apply(outputs, jnp.array([2, 0]))


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_is_optaxs(rng, smoothing):
    logits, labels = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32), jnp.array([3, 0, 0, 2, 1])
    loss = SoftmaxCrossEntropy("sum", smoothing=smoothing)

    def theirs(logits):
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot(labels, 4), smoothing)).sum()

    E, residuals = loss.forward(logits, labels)
    assert float(E) == pytest.approx(float(theirs(logits)), rel=1e-6)
    np.testing.assert_allclose(loss.backward(residuals), jax.grad(theirs)(logits), atol=1e-6)
    targets = one_hot(labels, 4)  # which are left as they are
    np.testing.assert_array_equal(loss.apply(logits, targets), SoftmaxCrossEntropy("sum").apply(logits, targets))


def test_a_smoothing_out_of_range_gets_one_sentence():
    for value in (1, -0.1, "a", jnp.nan):
        with pytest.raises(InputError, match="SoftmaxCrossEntropy: smoothing is .* but must be a number of at least 0"):
            SoftmaxCrossEntropy(smoothing=value)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import InputError, Loss, SoftmaxCrossEntropy, SquaredError, one_hot, softmax_cross_entropy, squared_error


def test_the_example_of_d3():
    """[L2]: scores [2, 3, 4], true class 1: dE/du = p - t = [0.0900, -0.7553, 0.6652]."""
    E, residuals = softmax_cross_entropy.forward(jnp.array([[2.0, 3, 4]]), jnp.array([1]))
    dlogits, dlabels, dweights = softmax_cross_entropy.backward(residuals, 1.0)
    assert float(E) == pytest.approx(-np.log(0.24472847), rel=1e-6)
    np.testing.assert_allclose(dlogits, [[0.0900, -0.7553, 0.6652]], atol=5e-5)
    assert dlabels is dweights is None


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


def test_labels_of_a_small_dtype_are_not_wrapped():
    """300 is 44 in uint8, and 156 is -100."""
    logits, labels = jnp.zeros((2, 300)).at[:, 156].set(1.0), jnp.array([156, 200], jnp.uint8)
    wide = labels.astype(jnp.int32)
    np.testing.assert_array_equal(one_hot(labels, 300), one_hot(wide, 300))
    for loss in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy(ignore=-100), SoftmaxCrossEntropy(ignore=2**40)):
        E, residuals = loss.forward(logits, labels)
        expected, expected_residuals = SoftmaxCrossEntropy().forward(logits, wide)
        assert float(E) == float(expected)
        np.testing.assert_array_equal(loss.backward(residuals), SoftmaxCrossEntropy().backward(expected_residuals))


TORCH = [
    (shape, class_weights, smoothing, ignore, reduction)
    for shape in ((9, 4), (2, 3, 5, 4))
    for class_weights in (None, (0.3, 2.0, 1.0, 0.7))
    for smoothing in (0.0, 0.2)
    for ignore in (None, 255, 1)
    for reduction in ("mean", "sum")
]


@pytest.mark.parametrize(("shape", "class_weights", "smoothing", "ignore", "reduction"), TORCH)
@pytest.mark.usefixtures("float64")
def test_cross_entropy_is_torchs(rng, shape, class_weights, smoothing, ignore, reduction):
    """[N17]: weights of the classes, smoothing and a label to ignore, in every combination, for images, too."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    u, labels = rng.standard_normal(shape), rng.integers(0, 4, shape[:-1])
    if ignore == 255:
        labels[rng.random(labels.shape) < 0.3] = 255
    theirs = torch.nn.CrossEntropyLoss(
        weight=None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64),
        label_smoothing=smoothing,
        ignore_index=-100 if ignore is None else ignore,
        reduction=reduction,
    )
    tensor = torch.tensor(u, requires_grad=True)
    expected = theirs(tensor.movedim(-1, 1), torch.tensor(labels))
    expected.backward()
    loss = SoftmaxCrossEntropy(reduction, smoothing=smoothing, class_weights=class_weights, ignore=ignore)
    E, residuals = loss.forward(u, labels)
    assert float(E) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(loss.backward(residuals), tensor.grad.numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(jax.grad(loss.apply)(jnp.asarray(u), labels), tensor.grad.numpy(), rtol=0, atol=1e-13)
    mean = SoftmaxCrossEntropy("mean", smoothing, class_weights, ignore).apply(u, labels)
    assert float(loss.mean(E, loss.count(u, labels))) == pytest.approx(float(mean), rel=1e-12)


@pytest.mark.usefixtures("float64")
def test_weights_and_targets_are_torchs(rng):
    """All three gradients against automatic differentiation, with weights that PyTorch's own loss has not."""
    arrays = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3))

    def theirs(u, t, w):
        return -(w[..., None] * t * u.log_softmax(-1)).sum() / w.sum()

    assert_same_as_torch(softmax_cross_entropy, theirs, arrays)
    assert_same_as_torch(softmax_cross_entropy, lambda *a: theirs(*a) * a[2].sum(), arrays, reduction="sum")
    assert_same_as_torch(squared_error, lambda y, t: ((y - t) ** 2).sum() / 4, arrays[:2])


def test_pixels_are_rows(rng):
    """The loss of (N, H, W, K) is that of its N H W rows, whose number a mean divides by."""
    u, labels = jnp.asarray(rng.standard_normal((2, 3, 5, 4)), jnp.float32), jnp.asarray(rng.integers(0, 4, (2, 3, 5)))
    for t in (labels, one_hot(labels, 4), jnp.asarray(rng.random((2, 3, 5, 4)), jnp.float32)):
        value, grad = jax.value_and_grad(softmax_cross_entropy)(u, t)
        rows = t.reshape(30, *t.shape[3:])
        expected, expected_grad = jax.value_and_grad(softmax_cross_entropy)(u.reshape(30, 4), rows)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad.reshape(u.shape), atol=1e-7)
    assert SoftmaxCrossEntropy().count(u, labels) == 30
    np.testing.assert_array_equal(one_hot(labels, 4).argmax(axis=-1), labels)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.usefixtures("float64")
def test_what_is_masked_out_spoils_nothing(rng, reduction):
    """A label out of range, logits that are infinite or NaN, a term that overflows: nor the second derivative."""
    u, w = jnp.asarray(rng.standard_normal((6, 4))), jnp.asarray(rng.random((6,)) + 0.5)
    labels, t = jnp.array([0, 3, 1, 2, 2, 0]), jnp.asarray(rng.random((6, 4)))
    bad = [
        (u.at[2].set(value), labels, t)
        for value in (jnp.nan, jnp.inf, -jnp.inf, jnp.array([0, -jnp.inf, 0, 0]), jnp.array([1e308, -1e308, 0, 0]))
    ]
    bad += [(u, labels.at[2].set(255), t.at[2].set(jnp.nan)), (u, labels.at[2].set(-1), t.at[2].set(jnp.inf))]
    left = jnp.array([0, 1, 3, 4, 5])

    def value(u, t, w):
        return softmax_cross_entropy(u, t, w, reduction=reduction)

    def second(u, t, w):
        return jax.grad(lambda u, w: jnp.sin(jax.grad(value)(u, t, w)).sum(), (0, 1))(u, w)

    for logits, integers, targets in bad:
        for given in (integers, targets):
            found, rest = (logits, given, w.at[2].set(0)), (logits[left], given[left], w[left])
            np.testing.assert_allclose(value(*found), value(*rest), rtol=1e-14)
            for derivative in (jax.grad(value, (0, 2)), second):
                for grad, expected in zip(derivative(*found), derivative(*rest), strict=True):
                    np.testing.assert_allclose(grad[left], expected, atol=1e-14)
                    np.testing.assert_array_equal(grad[2], 0)
            if given is targets:
                np.testing.assert_array_equal(jax.grad(value, 1)(*found)[2], 0)
    assert jnp.isnan(value(u, labels.at[2].set(255), w))
    assert jnp.isnan(value(u.at[2].set(jnp.nan), labels, w))
    assert jnp.isnan(value(u, labels, w.at[2].set(jnp.nan)))


def test_a_mean_of_weights_whose_sum_is_zero_is_zero(rng):
    u, labels = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32), jnp.array([0, 3, 1])
    for w in (jnp.zeros(3), jnp.array([1.0, -2.0, 1.0])):
        value, grads = jax.value_and_grad(softmax_cross_entropy, (0, 2))(u, labels, w)
        assert value == 0
        for grad in grads:
            np.testing.assert_array_equal(grad, 0)
    for reduction in ("mean", "sum"):
        loss = SoftmaxCrossEntropy(reduction, ignore=0)
        E, residuals = loss.forward(u, jnp.zeros(3, int))
        assert E == loss.mean(E, loss.count(u, jnp.zeros(3, int))) == 0
        np.testing.assert_array_equal(loss.backward(residuals), 0)


def test_the_mean_over_batches_is_weighted_by_their_counts(rng):
    u, labels = jnp.asarray(rng.standard_normal((4, 3, 2)), jnp.float32), jnp.asarray(rng.integers(0, 2, (4, 3)))
    for loss in (
        SoftmaxCrossEntropy(class_weights=(1.0, 5.0)),
        SoftmaxCrossEntropy("sum", ignore=1),
        SoftmaxCrossEntropy("sum"),
        SoftmaxCrossEntropy(smoothing=0.1),
        SquaredError("sum"),
    ):
        parts = [(u[:1], labels[:1]), (u[1:], labels[1:])]
        means = [loss.mean(loss.apply(*part), loss.count(*part)) for part in parts]
        counts = [loss.count(*part) for part in parts]
        whole = loss.mean(loss.apply(u, labels), loss.count(u, labels))
        assert float(np.average(means, weights=counts)) == pytest.approx(float(whole), rel=1e-5)
        assert float(sum(counts)) == pytest.approx(float(loss.count(u, labels)))
    assert SquaredError().count(u, labels) == 4


def test_a_class_of_weight_zero_is_left_out_although_labels_are_smoothed(rng):
    """PyTorch keeps its smoothed part in the sum, although its weight is in no divisor."""
    u, labels = jnp.asarray(rng.standard_normal((6, 3)), jnp.float32), jnp.array([0, 1, 2, 1, 0, 2])
    loss = SoftmaxCrossEntropy(smoothing=0.3, class_weights=(2.0, 0.0, 1.0))
    E, residuals = loss.forward(u, labels)
    left = jnp.array([0, 2, 4, 5])
    assert float(E) == pytest.approx(float(loss.apply(u[left], labels[left])), rel=1e-6)
    np.testing.assert_array_equal(loss.backward(residuals)[jnp.array([1, 3])], 0)


def test_a_label_out_of_range_is_loud_beside_weights_and_a_label_to_ignore():
    u = jnp.zeros((2, 3))
    for loss in (
        SoftmaxCrossEntropy(class_weights=(0.0, 1.0, 0.0)),
        SoftmaxCrossEntropy(ignore=255),
        SoftmaxCrossEntropy(smoothing=0.1, class_weights=(0.0, 1.0, 0.0), ignore=255),
    ):
        for label in (3, -1):
            E, residuals = loss.forward(u, jnp.array([label, 1]))
            assert jnp.isnan(E)
            assert jnp.isnan(loss.backward(residuals)).all()


def test_squared_error_of_any_shape_divides_by_n(rng):
    y, labels = jnp.asarray(rng.standard_normal((2, 3, 4)), jnp.float32), jnp.asarray(rng.integers(0, 4, (2, 3)))
    t = one_hot(labels, 4)
    expected = ((y - t) ** 2).sum() / 2 / 2
    np.testing.assert_allclose([squared_error(y, t), SquaredError().apply(y, labels)], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(squared_error)(y, t), (y - t) / 2, rtol=1e-6)


def test_what_does_not_fit_pixels_or_weights_gets_one_sentence():
    u, labels = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int)
    for call, message in (
        (
            lambda: softmax_cross_entropy(u, labels[0]),
            "softmax_cross_entropy: labels has shape (3,) but must have shape (2, 3)",
        ),
        (
            lambda: softmax_cross_entropy(u, labels, jnp.ones(2)),
            "softmax_cross_entropy: weights has shape (2,) but must have shape (2, 3)",
        ),
        (
            lambda: softmax_cross_entropy(u, labels, labels),
            "softmax_cross_entropy: weights is of type int32 but must be a floating-point array",
        ),
        (
            lambda: softmax_cross_entropy(u[0, 0], labels[0, 0]),
            "softmax_cross_entropy: logits has shape (4,) but must have at least 2 dimensions",
        ),
        (
            lambda: squared_error(u[0, 0], u[0, 0]),
            "squared_error: outputs has shape (4,) but must have at least 2 dimensions",
        ),
        (
            lambda: SoftmaxCrossEntropy(class_weights=(1, 2)).apply(u, labels),
            "SoftmaxCrossEntropy: class_weights has 2 weights but must have one for each of the 4 classes",
        ),
        (
            lambda: SoftmaxCrossEntropy(ignore=0).apply(u, u),
            "SoftmaxCrossEntropy: labels is of type float32 but must be integers where class_weights or ignore is "
            "given",
        ),
        (
            lambda: SoftmaxCrossEntropy(class_weights=(1, -1)),
            "SoftmaxCrossEntropy: class_weights is (1, -1) but must be a tuple of finite numbers of at least 0",
        ),
        (
            lambda: SoftmaxCrossEntropy(class_weights=[1, 1]),
            "SoftmaxCrossEntropy: class_weights is [1, 1] but must be a tuple of finite numbers of at least 0",
        ),
        (
            lambda: SoftmaxCrossEntropy(ignore=255.0),
            "SoftmaxCrossEntropy: ignore is 255.0 but must be an int or None",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message

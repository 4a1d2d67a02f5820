import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    CombineMaps,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
    combine_maps,
    conv2d,
    effective_inputs,
    gradients,
    init_state,
    spec_from_json,
    spec_to_json,
    summary,
    train_epoch,
)
from jaxcnn.kernels import quick_jit
from jaxcnn.verify import check_network


@pytest.mark.usefixtures("float64")
def test_the_gradients_are_b10_as_written(rng):
    x, kernels, c, bias = (rng.standard_normal(shape) for shape in ((2, 5, 4, 3), (2, 3, 3), (3, 2), (2,)))
    delta = jnp.asarray(rng.standard_normal((2, 4, 2, 2)))
    alpha = np.exp(c) / np.exp(c).sum(axis=0)
    z = np.concatenate([conv2d(x[..., i : i + 1], jnp.asarray(kernels[:, :, i, None, None])) for i in range(3)], -1)
    y, residuals = combine_maps.forward(x, kernels, jnp.asarray(c), bias)
    np.testing.assert_allclose(y, z @ alpha + bias, rtol=1e-12)
    dx, dkernels, dc, dbias = combine_maps.backward(residuals, delta)
    dalpha = np.einsum("npqi,npqj->ij", z, delta)
    np.testing.assert_allclose(dc, alpha * (dalpha - (dalpha * alpha).sum(axis=0)), rtol=1e-10)
    np.testing.assert_allclose(dc.sum(axis=0), 0, atol=1e-13)  # alpha_.j sums to 1 whatever c is
    np.testing.assert_allclose(dbias, delta.sum(axis=(0, 1, 2)), rtol=1e-12)
    combined = jnp.asarray(delta @ alpha.T)  # sum_j alpha_ij delta_j
    for i in range(3):
        of_one = jax.vjp(lambda a, k: conv2d(a, k), x[..., i : i + 1], jnp.asarray(kernels[:, :, i, None, None]))[1]
        of_x, of_k = of_one(combined[..., i : i + 1])
        np.testing.assert_allclose(dx[..., i], of_x[..., 0], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(dkernels[..., i], of_k[..., 0, 0], rtol=1e-10)


def test_the_layer_counts_and_comes_back_from_json():
    layer = CombineMaps(16, (5, 3), entropy=0.1)
    total = summary(layer, (14, 14, 6)).total
    assert total.parameters == 5 * 3 * 6 + 6 * 16 + 16
    assert total.multiply_adds == 10 * 12 * 6 * (15 + 16)
    assert total.output_shape == (10, 12, 16)
    assert spec_from_json(spec_to_json(layer)) == layer


def problem():
    """Images whose label is the sign of the mean of one of their four maps."""
    x = np.random.default_rng(0).standard_normal((128, 5, 5, 4)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray((x[..., 1].mean(axis=(1, 2)) > 0).astype(np.int32))


def network(entropy):
    return Sequential((CombineMaps(3, 2, entropy=entropy), Tanh(), Flatten(), Dense(2)))


def test_the_entropy_penalty_makes_the_weights_of_a_trained_network_sparse():
    """[B11]: the effective number of inputs of each map, exp H, falls, and the network still learns."""
    (x, labels), loss, optimizer, counts = problem(), SoftmaxCrossEntropy(), SGD(0.1, momentum=0.9), {}
    for entropy in (0.0, 0.2):
        state = init_state(network(entropy), optimizer, jax.random.key(0), x.shape[1:])
        before = effective_inputs(state.params["combinemaps1"]["c"])
        for _ in range(30):
            state, metrics = train_epoch(network(entropy), loss, optimizer, state, x, labels, 32)
        counts[entropy] = np.asarray(effective_inputs(state.params["combinemaps1"]["c"]))
        assert metrics["correct"].mean() > 0.95 * 32
    assert (before > 1.8).all()
    assert (counts[0.0] > 1.5).any()
    assert (counts[0.2] < 1.1).all()


def test_the_penalty_is_added_once_to_the_loss_and_to_the_gradient_of_c():
    (x, labels), loss = problem(), SoftmaxCrossEntropy()
    params = network(0.0).init(jax.random.key(0), x.shape[1:])
    jitted = quick_jit(gradients, static_argnums=(0, 1))
    plain, E, *_ = jitted(network(0.0), loss, params, x, labels)
    penalised, more, *_ = jitted(network(0.5), loss, params, x, labels)
    H = jnp.log(effective_inputs(params["combinemaps1"]["c"])).sum()
    assert float(more - E) == pytest.approx(float(H) / 2, rel=1e-4)
    for name, grad in plain["combinemaps1"].items():
        assert (name != "c") == bool((grad == penalised["combinemaps1"][name]).all())
    nested = Sequential((Sequential(network(0.5).layers[:2]), *network(0.5).layers[2:]))
    renamed = {"sequential1": {"combinemaps1": params["combinemaps1"]}, "dense1": params["dense1"]}
    inside, *_ = jitted(nested, loss, renamed, x, labels)
    np.testing.assert_allclose(inside["sequential1"]["combinemaps1"]["c"], penalised["combinemaps1"]["c"], rtol=1e-6)
    block = Residual(CombineMaps(4, 1, entropy=0.5), Conv2d(4, 1, connections=((0,), (1,), (2,), (3,))))
    params_of_block = block.init(jax.random.key(0), x.shape[1:])
    assert block.parameter_count(params_of_block) == (4 + 4 * 4 + 4) + (4 + 4)
    H, grads = block.penalty(params_of_block)
    assert float(H) == pytest.approx(float(jnp.log(effective_inputs(params_of_block["body"]["c"])).sum()) / 2, rel=1e-5)
    assert set(grads) == {"body"}
    assert check_network(network(0.5), loss, params, x[:4], labels[:4], jax.random.key(0)) < 1e-12


def test_errors_are_one_sentence():
    ones = jnp.ones
    x = ones((1, 4, 4, 3))
    for call, message in (
        (
            lambda: combine_maps(x, ones((2, 2, 2)), ones((3, 2)), ones(2)),
            "combine_maps: kernels has shape (2, 2, 2) but must have shape (height, width, 3) for x of shape "
            "(1, 4, 4, 3)",
        ),
        (
            lambda: combine_maps(x, ones((2, 2, 3)), ones((2, 3)), ones(3)),
            "combine_maps: c has shape (2, 3) but must have shape (3, out_channels)",
        ),
        (
            lambda: combine_maps(x, ones((2, 2, 3)), ones((3, 2)), ones(3)),
            "combine_maps: bias has shape (3,) but must have shape (2,)",
        ),
        (
            lambda: CombineMaps(2, 3, entropy=-1.0),
            "combine_maps: entropy is -1.0 but must be a finite number of at least 0",
        ),
        (
            lambda: CombineMaps(2, 3).init(jax.random.key(0), (12,)),
            "combine_maps: the input has shape (12,) but must have shape (height, width, channels)",
        ),
        (
            lambda: combine_maps.backward(combine_maps.forward(x, ones((2, 2, 3)), ones((3, 2)), ones(2))[1], x),
            "combine_maps.backward: dy has shape (1, 4, 4, 3) but must have shape (1, 3, 3, 2)",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import LENET5_C3, SGD, Conv2d, InputError, conv2d, spec_from_json, spec_to_json, summary
from jaxcnn.initializers import INITIALIZERS


@pytest.mark.usefixtures("float64")
def test_the_nine_equations_of_d3(rng):
    """[B3]: P 3x3, K 2x2, C 2x2, written out entry by entry."""
    P, K, dC = rng.standard_normal((3, 3)), rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    (K1, K2), (K3, K4) = K
    (C1, C2), (C3, C4) = dC
    expected = [
        [C1 * K1, C1 * K2 + C2 * K1, C2 * K2],
        [C1 * K3 + C3 * K1, C1 * K4 + C2 * K3 + C3 * K2 + C4 * K1, C2 * K4 + C4 * K2],
        [C3 * K3, C3 * K4 + C4 * K3, C4 * K4],
    ]
    _, residuals = conv2d.forward(P.reshape(1, 3, 3, 1), K.reshape(2, 2, 1, 1))
    dP, _, dbias = conv2d.backward(residuals, jnp.asarray(dC).reshape(1, 2, 2, 1))
    np.testing.assert_allclose(dP[0, :, :, 0], expected, rtol=1e-14)
    assert dbias is None


@pytest.mark.usefixtures("float64")
def test_a_colour_image_enters_as_three_matrices(rng):
    """[I2]: the convolution of a colour image is the sum of those of R, G and B, each with its own kernel."""
    image, weight = rng.standard_normal((1, 4, 5, 3)), rng.standard_normal((3, 2, 3, 2))
    parts = [conv2d.forward(image[..., c : c + 1], weight[:, :, c : c + 1])[0] for c in range(3)]
    np.testing.assert_allclose(conv2d.forward(image, weight)[0], sum(parts), rtol=1e-13)


@pytest.mark.usefixtures("float64")
def test_b3_as_written_zero_pad_and_correlate_with_the_rotated_kernel(rng):
    x, weight = rng.standard_normal((1, 5, 6, 1)), rng.standard_normal((3, 2, 1, 1))
    dy = rng.standard_normal((1, 3, 5, 1))
    padded, rotated = np.pad(dy[0, :, :, 0], ((2, 2), (1, 1))), np.rot90(weight[:, :, 0, 0], 2)
    expected = [[(padded[i : i + 3, j : j + 2] * rotated).sum() for j in range(6)] for i in range(5)]
    dx, _, _ = conv2d.backward(conv2d.forward(x, weight)[1], dy)
    np.testing.assert_allclose(dx[0, :, :, 0], expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_b7_as_written_the_error_is_the_kernel(rng):
    x, dy = rng.standard_normal((1, 5, 6, 1)), rng.standard_normal((1, 3, 5, 1))
    _, dweight, _ = conv2d.backward(conv2d.forward(x, np.ones((3, 2, 1, 1)))[1], dy)
    expected = conv2d(jnp.asarray(x), jnp.asarray(dy).transpose(1, 2, 0, 3))
    np.testing.assert_allclose(dweight[:, :, 0, 0], expected[0, :, :, 0], rtol=1e-12)


def test_the_forward_pass_is_cross_correlation():
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(conv2d(x, kernel, padding=1)[0, :, :, 0], kernel[::-1, ::-1, 0, 0])


def test_int_and_pair_arguments_agree(rng):
    x, w = rng.standard_normal((2, 7, 8, 3)).astype("f"), rng.standard_normal((3, 3, 3, 2)).astype("f")
    one = conv2d(x, w, stride=2, padding=1, dilation=2)
    two = conv2d(x, w, stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(2, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("on_cpu_alone", "without_onednn")
def test_every_convolution_has_canonical_labels_so_that_scans_are_fast():
    """XLA on CPU runs other labels naively inside loops; where oneDNN does not run them."""
    x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 6))

    def step(w):
        return jax.vjp(lambda x, w: conv2d(x, w, padding=1, groups=2), x, w)[1](jnp.ones((2, 8, 8, 6)))

    text = jax.jit(step).lower(w).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(lines) == 4  # dw and dx, for each group
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line for line in lines)


ONES = jnp.ones


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 3, 4))),
            "conv2d: weight has 3 input channels but x has 4 (x shape (2, 7, 5, 4))",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 4, 4)), groups=2),
            "conv2d: weight has 4 input channels in each of 2 groups but x has 4 (x shape (2, 7, 5, 4))",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 4, 4)), groups=3),
            "conv2d: groups is 3 but must divide the 4 input and the 4 output channels",
        ),
        (
            lambda: conv2d(ONES((7, 5, 4)), ONES((3, 2, 4, 4))),
            "conv2d: x has shape (7, 5, 4) but must have 4 dimensions",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 4))),
            "conv2d: weight has shape (3, 2, 4) but must have 4 dimensions (height, width, in, out)",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 4, 4)), ONES((3,))),
            "conv2d: bias has shape (3,) but must have shape (4,)",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4)), ONES((3, 2, 4, 4), jnp.bfloat16)),
            "conv2d: weight is bfloat16 but x is float32; they must have one dtype",
        ),
        (
            lambda: conv2d(ONES((2, 7, 5, 4), jnp.int32), ONES((3, 2, 4, 4))),
            "conv2d: x is of type int32 but must be a floating-point array",
        ),
        (
            lambda: conv2d.backward(conv2d.forward(ONES((2, 7, 5, 4)), ONES((3, 2, 4, 4)))[1], ONES((2, 5, 4, 3))),
            "conv2d.backward: dy has shape (2, 5, 4, 3) but must have shape (2, 5, 4, 4)",
        ),
        (
            lambda: Conv2d(4, 3, initializer="zeros").init(jax.random.key(0), (8, 8, 1)),
            f"initializer is 'zeros' but must be one of {', '.join(INITIALIZERS)}",
        ),
        (
            lambda: Conv2d(6, 3, groups=3).init(jax.random.key(0), (8, 8, 1)),
            "conv2d: groups is 3 but must divide the 1 input and the 6 output channels",
        ),
        (lambda: Conv2d(0, 3), "conv2d: out_channels is 0 but must be an int of at least 1"),
        (lambda: Conv2d(2, 3, groups=True), "conv2d: groups is True but must be an int of at least 1"),
        (
            lambda: Conv2d(2, [3, 3]),
            "conv2d: kernel_size is [3, 3] but must be an int or a pair of ints, each at least 1",
        ),
        (
            lambda: Conv2d(2, 3).apply({"bias": ONES(2)}, ONES((1, 5, 5, 1))),
            "Conv2d: params has ['bias'] but must have 'weight'",
        ),
        (
            lambda: Conv2d(2, 3, connections=((0,), ())),
            "conv2d: connections is ((0,), ()) but must be a tuple with one tuple of distinct input maps, at least "
            "one, for each of the 2 output maps",
        ),
        (
            lambda: Conv2d(2, 3, groups=2, connections=((0,), (1,))),
            "conv2d: groups is 2 but must be 1 where connections is given",
        ),
        (
            lambda: Conv2d(2, 3, connections=((0,), (3,))).init(jax.random.key(0), (8, 8, 3)),
            "conv2d: connections lets map 1 see input map 3 but there are 3; it must be at most 2",
        ),
        (
            lambda: Conv2d(2, 3, connections=((0,), (1,))).apply({"weight": ONES(3)}, ONES((1, 5, 5, 1))),
            "Conv2d: weight has shape (3,) but must have shape (height, width, in, 2)",
        ),
        (
            lambda: Conv2d(4, 3).init(jax.random.key(0), (64,)),
            "conv2d: the input has shape (64,) but must have shape (height, width, channels)",
        ),
    ],
)
def test_errors_are_one_sentence(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def test_the_spec_counts_and_initialises():
    layer = Conv2d(6, (5, 3), groups=2, bias=False)
    params = layer.init(jax.random.key(0), (9, 9, 4))
    assert {name: w.shape for name, w in params.items()} == {"weight": (5, 3, 2, 6)}
    assert layer.output_shape((9, 9, 4)) == (5, 7, 6)
    assert layer.multiply_adds((9, 9, 4)) == 5 * 7 * 6 * 5 * 3 * 2
    assert hash(layer) == hash(Conv2d(6, (5, 3), groups=2, bias=False))


def test_the_table_of_lenet5():
    """LeCun et al. (1998), table I: 6 maps see 3, 9 see 4, one sees all; each input map feeds 10."""
    assert [len(maps) for maps in LENET5_C3] == 6 * [3] + 9 * [4] + [6]
    assert [sum(i in maps for maps in LENET5_C3) for i in range(6)] == 6 * [10]
    layer = Conv2d(16, 5, connections=LENET5_C3)
    (row,) = summary(layer, (14, 14, 6)).rows
    assert (row.parameters, row.multiply_adds) == (1516, 1500 * 10 * 10)
    assert row.layer == "Conv2d(16, 5, connections=...)"
    assert spec_from_json(spec_to_json(layer)) == layer
    assert hash(layer) == hash(Conv2d(16, 5, connections=LENET5_C3))


@pytest.mark.usefixtures("float64")
def test_an_output_map_sees_its_chosen_input_maps_alone(rng):
    """[F2]: the sum runs over i in M_o, also where the weight of a cut connection is not zero."""
    table = ((1,), (0, 2))
    layer = Conv2d(2, (3, 2), padding=1, connections=table)
    x, weight, bias = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 2, 3, 2)), rng.standard_normal(2)
    y = layer.apply({"weight": jnp.asarray(weight), "bias": bias}, x)
    for o, maps in enumerate(table):
        expected = conv2d(x[..., maps], jnp.asarray(weight[:, :, maps, o : o + 1]), bias[o : o + 1], padding=1)
        np.testing.assert_allclose(y[..., o], expected[..., 0], rtol=1e-12)


def test_a_cut_connection_stays_zero_under_momentum_and_weight_decay(rng):
    table = ((1,), (0, 2))
    layer, optimizer = Conv2d(2, 3, connections=table), SGD(0.1, momentum=0.9, weight_decay=0.1)
    x = jnp.asarray(rng.standard_normal((2, 5, 4, 3)).astype(np.float32))
    params = start = layer.init(jax.random.key(0), x.shape[1:])
    state = optimizer.init(params)
    cut = np.array([[True, False], [False, True], [True, False]])
    for _ in range(3):
        y, residuals = layer.forward(params, x)
        _, grads = layer.backward(residuals, y)
        automatic = jax.grad(lambda p: (layer.apply(p, x) ** 2).sum() / 2)(params)
        np.testing.assert_allclose(grads["weight"], automatic["weight"], rtol=1e-4, atol=1e-5)
        assert not np.asarray(grads["weight"])[:, :, cut].any()
        params, state = optimizer.update(grads, state, params)
    assert not np.asarray(params["weight"])[:, :, cut].any()
    assert (np.asarray(params["weight"]) != np.asarray(start["weight"]))[:, :, ~cut].all()


def test_the_fans_of_a_restricted_convolution_are_its_own():
    """U(-2.4 / fan_in, 2.4 / fan_in): maps that see 1 and 3 of 3 input maps through 20x20 taps."""
    layer = Conv2d(2, 20, connections=((1,), (0, 1, 2)), initializer="lenet_uniform")
    weight = np.asarray(layer.init(jax.random.key(0), (20, 20, 3))["weight"])
    for o, fan_in in ((0, 400), (1, 1200)):
        largest = abs(weight[..., o]).max()
        assert 0.95 * 2.4 / fan_in < largest <= 2.4 / fan_in * (1 + 1e-6)

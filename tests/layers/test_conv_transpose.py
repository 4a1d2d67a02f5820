import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import Conv2d, ConvTranspose2d, InputError, conv2d, conv_transpose2d, spec_from_json, spec_to_json, summary

GEOMETRIES = [  # (U, V, O / groups, I), x's size, the rest
    ((3, 2, 3, 4), (4, 5), {}),
    ((3, 3, 2, 4), (5, 3), {"stride": 3, "padding": 1}),
    ((2, 1, 3, 4), (3, 4), {"stride": (3, 2), "output_padding": (2, 1)}),
    ((4, 5, 2, 2), (3, 4), {"stride": (2, 3), "padding": 2, "output_padding": (1, 0)}),
    ((3, 2, 1, 4), (3, 4), {"stride": 2, "padding": 1, "output_padding": 1, "dilation": (2, 3), "groups": 2}),
    ((2, 3, 1, 3), (1, 1), {"stride": 5, "padding": 0, "output_padding": 4, "groups": 3}),
    ((2, 3, 2, 1), (9, 5), {"padding": (3, 1)}),  # padding beyond the kernel's reach
    ((2, 2, 1, 3), (5, 4), {"padding": (3, 2), "stride": 2, "groups": 3}),
]


def pairs(padding):
    """PyTorch's (height, width) as both sides of each."""
    return padding if isinstance(padding, int) else tuple((p, p) if isinstance(p, int) else p for p in padding)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("weight", "size", "more"),
    [*GEOMETRIES, ((3, 4, 2, 3), (4, 3), {"stride": (2, 3), "padding": ((2, 0), (1, 3)), "output_padding": 1})],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_it_is_the_transpose_of_the_convolution_bit_for_bit(weight, size, more, dtype, rng):
    """[N24]: y is conv2d.backward's dx, dx conv2d, dweight its dweight with what moves and the kernel exchanged."""
    x, weight = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((2, *size, weight[3]), weight))
    more = more | {"padding": pairs(more.get("padding", 0))}
    y, residuals = conv_transpose2d.forward(x, weight, **more)
    dy = jnp.asarray(rng.standard_normal(y.shape), dtype)
    geometry = {name: value for name, value in more.items() if name != "output_padding"}
    z, of_conv = conv2d.forward(dy, weight, **geometry)
    assert z.shape == x.shape
    dx_of_conv, dweight_of_conv, _ = conv2d.backward(of_conv, x, **geometry)
    np.testing.assert_array_equal(y, dx_of_conv)
    dx, dweight, dbias = conv_transpose2d.backward(residuals, dy, **more)
    np.testing.assert_array_equal(dx, z)
    np.testing.assert_array_equal(dweight, dweight_of_conv)
    assert dbias is None


@pytest.mark.parametrize(("weight", "size", "more"), GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_pytorchs(weight, size, more, bias, rng):
    def theirs(x, weight, bias):
        from torch.nn.functional import conv_transpose2d

        of_theirs = weight.permute(3, 2, 0, 1).contiguous()
        return conv_transpose2d(x.permute(0, 3, 1, 2), of_theirs, bias, **more).permute(0, 2, 3, 1)

    shapes = [(2, *size, weight[3]), weight, (weight[2] * more.get("groups", 1),)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    ours = more | {"padding": pairs(more.get("padding", 0))}
    assert_same_as_torch(conv_transpose2d, theirs, arrays if bias else [*arrays[:2], None], **ours)


@pytest.mark.usefixtures("float64")
def test_it_undoes_the_shape_of_the_convolution_and_is_its_adjoint(rng):
    """<conv(y), x> = <y, transposed(x)>, of asymmetric padding and a size that the stride does not divide."""
    y, weight, x = (rng.standard_normal(shape) for shape in ((2, 9, 11, 3), (3, 2, 3, 4), (2, 4, 4, 4)))
    geometry = {"stride": (2, 3), "padding": ((1, 0), (0, 2))}
    found = conv_transpose2d(x, weight, **geometry, output_padding=(1, 2))
    assert found.shape == (2, 9, 11, 3)
    np.testing.assert_allclose((conv2d(y, weight, **geometry) * x).sum(), (y * found).sum(), rtol=1e-12)


def test_output_padding_says_which_of_the_sizes_with_one_convolution_is_meant():
    weight = jnp.ones((3, 3, 1, 1))
    for extra, rows in ((0, 7), (1, 8), (2, 9)):
        y = conv_transpose2d(jnp.ones((1, 3, 3, 1)), weight, stride=3, padding=1, output_padding=(extra, 0))
        assert y.shape == (1, rows, 7, 1)
        assert conv2d(jnp.ones((1, rows, 7, 1)), weight, stride=3, padding=1).shape == (1, 3, 3, 1)


def test_the_rows_of_output_padding_that_no_tap_reaches_hold_the_bias():
    y = conv_transpose2d(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)), jnp.array([5.0]), stride=3, output_padding=2)
    np.testing.assert_array_equal(y[0, :, :, 0], np.where(np.add.outer([0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1]), 5, 6))


def test_the_spec_has_the_weight_of_the_convolution_back(rng):
    layer, back = ConvTranspose2d(6, (4, 3), stride=2, padding=1, groups=2), Conv2d(8, (4, 3), stride=2, groups=2)
    params = layer.init(jax.random.key(0), (5, 4, 8))
    assert {name: leaf.shape for name, leaf in params.items()} == {"weight": (4, 3, 3, 8), "bias": (6,)}
    assert params["weight"].shape == back.init(jax.random.key(0), (10, 9, 6))["weight"].shape
    x = jnp.asarray(rng.standard_normal((2, 5, 4, 8)), jnp.float32)
    expected = conv_transpose2d(x, params["weight"], params["bias"], stride=2, padding=1, groups=2)
    np.testing.assert_array_equal(layer.apply(params, x), expected)
    y, residuals = layer.forward(params, x)
    _, grads = layer.backward(residuals, y)
    assert {name: leaf.shape for name, leaf in grads.items()} == {"weight": (4, 3, 3, 8), "bias": (6,)}
    assert sorted(ConvTranspose2d(6, 3, bias=False).init(jax.random.key(0), (5, 4, 8))) == ["weight"]
    assert spec_from_json(spec_to_json(layer)) == layer


def test_the_multiply_adds_are_those_of_the_convolution_back():
    layer = ConvTranspose2d(6, 4, stride=2, padding=1, groups=2)
    total = summary(layer, (7, 7, 8)).total
    assert (total.output_shape, total.parameters) == ((14, 14, 6), 4 * 4 * 3 * 8 + 6)
    assert total.multiply_adds == Conv2d(8, 4, stride=2, padding=1, groups=2).multiply_adds((14, 14, 6))
    assert total.multiply_adds == 7 * 7 * 4 * 4 * 3 * 8


def test_the_output_keeps_the_variance_that_the_initializer_is_for():
    """lecun_normal, whose outputs have the variance of the inputs: a stride of 2 leaves a quarter of the products."""
    layer = ConvTranspose2d(32, 4, stride=2, padding=1, initializer="lecun_normal", bias=False)
    params = layer.init(jax.random.key(0), (16, 16, 64))
    y = layer.apply(params, jax.random.normal(jax.random.key(1), (4, 16, 16, 64)))
    assert float(y[:, 2:-2, 2:-2].std()) == pytest.approx(1, abs=0.03)


ONES = jnp.ones
X, WEIGHT = ONES((2, 4, 3, 4)), ONES((3, 2, 5, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_transpose2d(X[0], WEIGHT), "x has shape (4, 3, 4) but must have 4 dimensions"),
        (
            lambda: conv_transpose2d(X, WEIGHT[0]),
            "weight has shape (2, 5, 4) but must have 4 dimensions (height, width, out, in)",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT.swapaxes(2, 3)),
            "weight has 5 input channels, its last dimension, but must have 4, as x (x shape (2, 4, 3, 4))",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, groups=3),
            "groups is 3 but must divide the 4 input and the 15 output channels",
        ),
        (lambda: conv_transpose2d(X, WEIGHT, groups=0), "groups is 0 but must be an int of at least 1"),
        (lambda: conv_transpose2d(X, WEIGHT, ONES(4)), "bias has shape (4,) but must have shape (5,)"),
        (
            lambda: conv_transpose2d(X, WEIGHT, ONES(5), groups=2),
            "bias has shape (5,) but must have shape (10,)",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, padding="SAME"),
            "padding is 'SAME' but must be an int >= 0 or ((top, bottom), (left, right)) of such ints",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, stride=0),
            "stride is 0 but must be an int or a pair of ints, each at least 1",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, output_padding=-1),
            "output_padding is -1 but must be an int or a pair of ints, each at least 0",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, stride=(3, 2), output_padding=2),
            "output_padding is 2 but must be below the stride, which is (3, 2)",
        ),
        (
            lambda: conv_transpose2d(X, WEIGHT, padding=2),
            "of an input of 4x3 the output is 2x0 but both must be at least 1x1",
        ),
        (
            lambda: conv_transpose2d(X[:, :0], WEIGHT),
            "of an input of 0x3 the output is 2x4 but both must be at least 1x1",
        ),
        (
            lambda: conv_transpose2d.backward(conv_transpose2d.forward(X, WEIGHT)[1], X),
            "dy has shape (2, 4, 3, 4) but must have shape (2, 6, 4, 5)",
        ),
        (lambda: ConvTranspose2d(0, 3), "out_channels is 0 but must be an int of at least 1"),
        (
            lambda: ConvTranspose2d(4, 3, padding="VALID"),
            "padding is 'VALID' but must be an int >= 0 or ((top, bottom), (left, right)) of such ints",
        ),
        (
            lambda: ConvTranspose2d(4, 3, stride=2, output_padding=2),
            "output_padding is 2 but must be below the stride, which is (2, 2)",
        ),
        (
            lambda: ConvTranspose2d(4, 0),
            "kernel_size is 0 but must be an int or a pair of ints, each at least 1",
        ),
        (lambda: ConvTranspose2d(4, 3, bias=1), "bias is 1 but must be True or False"),
        (
            lambda: ConvTranspose2d(4, 3, groups=3).init(jax.random.key(0), (5, 5, 6)),
            "groups is 3 but must divide the 6 input and the 4 output channels",
        ),
        (
            lambda: ConvTranspose2d(4, 3).init(jax.random.key(0), (5, 5)),
            "the input has shape (5, 5) but must have shape (height, width, channels)",
        ),
    ],
)
def test_errors_are_one_sentence(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).removeprefix("conv_transpose2d").removeprefix(".backward") == f": {message}"

import itertools

import numpy as np
import pytest
from jax import lax

from jaxcnn.errors import InputError
from jaxcnn.geometry import output_size, resolve, resolve_pool, resolve_transposed


def test_the_worked_example_of_d2():
    """[G1]: 200 -> conv 5, p 1, s 2 -> 99 -> pool 3, s 1 -> 97 -> conv 3, p 1 -> 97."""
    assert output_size(200, 5, padding=1, stride=2) == 99
    assert output_size(99, 3, stride=1) == 97
    assert output_size(97, 3, padding=1, stride=1) == 97


def test_odd_kernels_keep_the_size_with_even_padding():
    """[G3]: p = (k - 1) / 2."""
    for k in (1, 3, 5, 7):
        assert output_size(20, k, padding=(k - 1) // 2) == 20
        assert resolve("conv2d", (20, 20), k, padding="SAME").padding == (((k - 1) // 2,) * 2,) * 2


GEOMETRIES = list(itertools.product((1, 4, 7), (1, 2, 3), (1, 2, 3), (0, 1, "SAME", "VALID"), (1, 2)))


def test_output_size_is_the_number_of_windows_that_fit():
    checked = 0
    for n, k, s, padding, d in GEOMETRIES:
        extent = d * (k - 1) + 1
        if padding in (0, 1):
            if extent > n + 2 * padding:
                continue
            starts = [start for start in range(0, n + 2 * padding, s) if start + extent <= n + 2 * padding]
            assert output_size(n, k, padding=padding, stride=s, dilation=d) == len(starts)
            checked += 1
    assert checked > 50


def test_same_and_valid_are_xlas():
    for n, k, s, padding, d in GEOMETRIES:
        if padding in ("SAME", "VALID") and (padding == "SAME" or d * (k - 1) + 1 <= n):
            window = resolve("conv2d", (n, n + 1), k, stride=s, padding=padding, dilation=d)
            extent = (d * (k - 1) + 1,) * 2
            assert list(window.padding) == lax.padtype_to_pads((n, n + 1), extent, (s, s), padding)


def test_numpy_integers_are_integers():
    assert resolve("conv2d", (8, 8), np.int64(3)) == resolve("conv2d", (8, 8), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": (1, 2)}, "padding is (1, 2) but must be an int >= 0, ((top, bottom), (left, right)) of such ints"),
        ({"padding": -1}, "padding is -1 but must be"),
        ({"padding": "FULL"}, "padding is 'FULL' but must be"),
        ({"padding": ((1, 1), (-1, 0))}, "padding is ((1, 1), (-1, 0)) but must be"),
        ({"stride": 0}, "stride is 0 but must be an int or a pair of ints, each at least 1"),
        ({"stride": (1, 2, 3)}, "stride is (1, 2, 3) but must be"),
        ({"stride": 1.5}, "stride is 1.5 but must be"),
        ({"dilation": True}, "dilation is True but must be"),
        ({"padding": [1, 1]}, "padding is [1, 1] but must be an int >= 0"),
        ({"padding": np.array([1, 1])}, "padding is array([1, 1]) but must be an int >= 0"),
        ({"stride": np.array([1, 2])}, "stride is array([1, 2]) but must be an int or a pair of ints"),
        ({"stride": 50_000}, "stride is 50000 but height times width must be below 2**31"),
        ({"dilation": (1, 10**20)}, "dilation is (1, 100000000000000000000) but height times width must be below"),
        ({"padding": 10**12}, "the padded input is 2000000000008x2000000000009 but must have fewer than 2**31 entries"),
        ({"padding": 30_000}, "the padded input is 60008x60009 but must have fewer than 2**31 entries in a map"),
        ({"dilation": 4}, "a window of height 9 does not fit the input of height 8 with padding (0, 0)"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(InputError) as error:
        resolve("conv2d", (8, 9), 3, **arguments)
    assert message in str(error.value)
    assert str(error.value).startswith("conv2d: ")
    assert "\n" not in str(error.value)


def test_a_pooling_window_wholly_in_the_padding_is_refused():
    with pytest.raises(InputError, match=r"max_pool2d: with padding \(2, 2\) a window of height 2 lies wholly in"):
        resolve_pool("max_pool2d", (8, 8), 2, padding=2)
    with pytest.raises(InputError, match="lies wholly in the padding"):
        resolve_pool("max_pool2d", (8, 8), 2, padding=((0, 2), (0, 0)))
    assert resolve_pool("max_pool2d", (8, 8), 2, padding=((0, 1), (0, 0))).output == (4, 4)


def test_a_transposed_window_has_the_size_that_it_was_made_for():
    """[N24]: every size of image is found again from that of the output, with what the stride left over."""
    for n, k, s, lo, hi, d in itertools.product(range(5, 12), (1, 2, 3), (1, 2, 3, 5), (0, 2), (0, 1), (1, 2)):
        window = resolve("conv2d", (n, 12), (k, 2), stride=(s, 2), padding=((lo, hi), (1, 0)), dilation=(d, 1))
        extra = (n + lo + hi - (d * (k - 1) + 1)) % s
        more = {"stride": (s, 2), "padding": ((lo, hi), (1, 0)), "dilation": (d, 1), "output_padding": (extra, 1)}
        assert resolve_transposed("conv_transpose2d", window.output, (k, 2), **more) == window


def test_output_size_accepts_the_forms_of_padding():
    assert output_size(7, 3, padding=(2, 0)) == 7
    assert output_size(7, 3, padding="SAME", stride=2) == 4
    assert output_size(7, 3, padding="VALID") == 5
    assert output_size(np.int64(7), 3, padding=np.int64(1)) == 7
    assert output_size(10**6, 3) == 10**6 - 2


def test_a_stride_and_a_dilation_that_move_nothing_are_cut_to_the_padded_input():
    window = resolve("conv2d", (8, 9), (3, 1), stride=(20_000, 2), padding=1, dilation=(1, 20_000))
    assert (window.stride, window.dilation, window.output) == ((10, 2), (1, 11), (1, 6))
    assert resolve("conv2d", (8, 9), (3, 1), stride=(10, 2), padding=1).output == (1, 6)

r"""Window arithmetic on Python ints: output size, padding, and the paddings of both backward convolutions.

A window of k taps, dilated by d and moved by s, slides over n entries with lo zeros before and hi after them:

(1)  output size       p = floor((n + lo + hi - (d (k - 1) + 1)) / s) + 1                       [G1]
(2)  entry of tap u    i = p s + u d - lo
(3)  "SAME"            p = ceil(n / s); lo + hi is what (1) then needs, hi the larger by one     [G3]
(4)  padding of dx     (d (k - 1) - lo,  n + lo - s (p - 1) - 1)                                [B3]
(5)  padding of dw     (lo,  s (p - 1) + 1 + d (k - 1) - n - lo)                                [B7]
(6)  transposed        n = (p - 1) s - lo - hi + d (k - 1) + 1 + extra,  0 <= extra < s        [N24]

(4) is the padding of dy, spread by the stride, under the rotated kernel; (5) the padding of x under dy used as a
kernel dilated by s. Both may be negative: a negative padding crops. (6) is (1) solved for n, which s values of n have
in common: extra says which of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from .errors import InputError, is_int, shown

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Padding = int | str | Pads

LIMIT = 2**31  # entries of a map: as many as 32 bits count; far beyond it XLA ends the process


@dataclass(frozen=True)
class Window:
    """A window resolved against an input of height and width `size`; every field is a pair (height, width).

    Made by `resolve`; then the `spread` is 1. Hashable, so that it can be a static argument.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pads
    dilation: Pair
    spread: Pair = (1, 1)

    @property
    def output(self) -> Pair:
        """Height and width of the output, (1) with n spread to (n - 1) spread + 1 entries."""
        return replace(self, size=self.spread_size)._per_axis(_output_size)

    @property
    def spread_size(self) -> Pair:
        """Height and width of the input with spread - 1 zeros between its entries."""
        (h, w), (a, b) = self.size, self.spread
        return (h - 1) * a + 1, (w - 1) * b + 1

    @property
    def tiles(self) -> bool:
        """Whether the windows stand side by side, without padding: each entry of the input belongs to one at most."""
        return self.stride == self.kernel and not any(map(any, self.padding))

    @property
    def backward(self) -> "Window":
        """The window of dx over dy: dy spread by the stride and padded by (4), the same taps at the same distances."""
        return Window(self.output, self.kernel, (1, 1), self.dx_padding, self.dilation, spread=self.stride)

    @property
    def dx_padding(self) -> Pads:
        """Padding of the strided dy that, correlated with rot180 of the kernel, gives dx, (4)."""
        return self._per_axis(lambda n, k, s, pad, d: (d * (k - 1) - pad[0], n + pad[0] - _reach(n, k, s, pad, d)))

    @property
    def dweight_padding(self) -> Pads:
        """Padding of x that, correlated with dy dilated by the stride, gives the gradient of the kernel, (5)."""
        return self._per_axis(lambda n, k, s, pad, d: (pad[0], _reach(n, k, s, pad, d) + d * (k - 1) - n - pad[0]))

    @property
    def taps(self) -> Iterator[Pair]:
        """The positions (u, v) of the taps, in row-major order."""
        return ((u, v) for u in range(self.kernel[0]) for v in range(self.kernel[1]))

    def _per_axis(self, formula: Callable) -> Any:
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(formula(*axis) for axis in axes)


def output_size(
    size: int, kernel_size: int, *, padding: int | Pair | str = 0, stride: int = 1, dilation: int = 1
) -> int:
    """Output size of a convolution or a pooling along one axis [G1].

    Args:
        size: entries of the input along this axis.
        kernel_size: taps of the kernel or window.
        padding: zeros on each side, (before, after), "SAME" or "VALID".
        stride: step of the window.
        dilation: distance between two taps; 1 means none.

    Raises:
        InputError: an argument is out of range, or the window does not fit the padded input.

    The worked example of D2, 200 -> 99 -> 97 -> 97:

    >>> output_size(200, 5, padding=1, stride=2)
    99
    >>> output_size(99, 3), output_size(97, 3, padding=1)
    (97, 97)
    """
    pads = padding if is_int(padding) or isinstance(padding, str) else (padding, padding)
    window = _resolve(
        "output_size", (size, size), (kernel_size, kernel_size), stride=stride, padding=pads, dilation=dilation
    )
    return window.output[0]


def resolve(
    op: str,
    size: Pair,
    kernel_size: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
) -> Window:
    """Check the window arguments of operation `op` once and turn them into a `Window` of plain ints.

    Args:
        op: the operation's name, for the error messages.
        size: height and width of the input.
        kernel_size, stride, dilation: an int, or a pair (height, width), each at least 1.
        padding: an int >= 0, ((top, bottom), (left, right)), "SAME" (as XLA defines it) or "VALID".

    Raises:
        InputError: an argument has another form, the window does not fit the padded input, or that has 2**31 entries in
            a map.

    >>> resolve("conv2d", (8, 6), (3, 2), stride=2, padding="SAME").padding
    ((0, 1), (0, 0))
    """
    window = _resolve(op, size, kernel_size, stride=stride, padding=padding, dilation=dilation)
    height, width = (n + sum(pad) for n, pad in zip(size, window.padding, strict=True))
    if height * width >= LIMIT:
        raise InputError(f"{op}: the padded input is {height}x{width} but must have fewer than 2**31 entries in a map")
    return window


def _resolve(op, size, kernel_size, *, stride, padding, dilation) -> Window:
    kernel = pair(op, "kernel_size", kernel_size)
    strides = pair(op, "stride", stride)
    dilations = pair(op, "dilation", dilation)
    pads = _pads(op, padding, size, kernel, strides, dilations)
    for axis, n, k, (lo, hi), d in zip(("height", "width"), size, kernel, pads, dilations, strict=True):
        extent = d * (k - 1) + 1
        if n < 1:
            raise InputError(f"{op}: the input {axis} is {n} but must be at least 1")
        if extent > n + lo + hi:
            raise InputError(
                f"{op}: a window of {axis} {extent} does not fit the input of {axis} {n} with padding ({lo}, {hi}); "
                f"it must be at most {n + lo + hi}"
            )
    # what moves nothing is cut to the padded input: spread by a huge stride, one entry would fill the memory
    padded = [n + sum(pad) for n, pad in zip(size, pads, strict=True)]
    strides = min(strides[0], padded[0]), min(strides[1], padded[1])
    dilations = min(dilations[0], padded[0]), min(dilations[1], padded[1])
    return Window(size, kernel, strides, pads, dilations)


def resolve_pool(
    op: str, size: Pair, window_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0
) -> Window:
    """`resolve` for a pooling: `stride=None` is the window's size, and no window may lie wholly in the padding.

    >>> resolve_pool("max_pool2d", (8, 6), 2).output
    (4, 3)
    """
    kernel = pair(op, "window_size", window_size)
    window = resolve(op, size, kernel, stride=kernel if stride is None else stride, padding=padding)
    axes = zip(("height", "width"), size, window.kernel, window.stride, window.padding, window.output, strict=True)
    for axis, n, k, s, (lo, hi), p in axes:
        if lo >= k or (p - 1) * s - lo >= n:
            raise InputError(
                f"{op}: with padding ({lo}, {hi}) a window of {axis} {k} lies wholly in the padding; "
                f"every window must cover at least one entry of the input of {axis} {n}"
            )
    return window


def resolve_transposed(
    op: str,
    size: Pair,
    kernel_size: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: int | Pads = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Window:
    """The window whose output is `size`, over the image of a transposed convolution, which its `size` is by (6).

    Args:
        op, stride, dilation: as for `resolve`.
        size: height and width of the input of the transposed convolution.
        padding: an int >= 0 or ((top, bottom), (left, right)): what the window has around the image.
        output_padding: extra rows and columns, an int or (height, width), each at least 0 and below the stride.

    Raises:
        InputError: an argument has another form, or nothing is left of the image.

    >>> resolve_transposed("conv_transpose2d", (4, 3), 3, stride=2, padding=1, output_padding=(1, 0)).size
    (8, 5)
    """
    check_transposed(op, kernel_size, stride, padding, output_padding, dilation)
    kernel, strides, dilations = (pair(op, "", value) for value in (kernel_size, stride, dilation))
    pads, extras = fixed_pads(op, padding), _extras(op, output_padding)
    axes = zip(size, kernel, strides, pads, dilations, extras, strict=True)
    height, width = ((p - 1) * s - sum(pad) + d * (k - 1) + 1 + extra for p, k, s, pad, d, extra in axes)  # (6)
    if min(*size, height, width) < 1:
        raise InputError(
            f"{op}: of an input of {size[0]}x{size[1]} the output is {height}x{width} but both must be at least 1x1"
        )
    return resolve(op, (height, width), kernel, stride=strides, padding=pads, dilation=dilations)


def check_transposed(
    op: str,
    kernel_size: int | Pair,
    stride: int | Pair,
    padding: int | Pads,
    output_padding: int | Pair,
    dilation: int | Pair,
) -> None:
    """`check_window` for a transposed convolution, whose padding has no names."""
    fixed_pads(op, padding)
    check_window(op, kernel_size=kernel_size, stride=stride, dilation=dilation)
    strides, extras = pair(op, "stride", stride), _extras(op, output_padding)
    if any(extra >= s for extra, s in zip(extras, strides, strict=True)):
        raise InputError(
            f"{op}: output_padding is {shown(output_padding)} but must be below the stride, which is {strides}"
        )


def check_window(op: str, *, padding: Padding = 0, **sizes: int | Pair) -> None:
    """Refuse window arguments that fit no input: a layer's, when it is made.

    >>> check_window("conv2d", kernel_size=3, stride=0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: conv2d: stride is 0 but must be an int or a pair of ints, each at least 1
    """
    for name, value in sizes.items():
        pair(op, name, value)
    _given_pads(op, padding)


def check_pool(op: str, window_size: int | Pair, stride: int | Pair | None, padding: Padding = 0) -> None:
    """`check_window` for a pooling, whose stride may be None."""
    check_window(op, window_size=window_size, stride=window_size if stride is None else stride, padding=padding)


def _output_size(n: int, k: int, s: int, pad: Pair, d: int) -> int:
    return (n + sum(pad) - (d * (k - 1) + 1)) // s + 1  # (1)


def _reach(n: int, k: int, s: int, pad: Pair, d: int) -> int:
    """From the first tap of the first window to the first tap of the last one, both counted: s (p - 1) + 1."""
    return s * (_output_size(n, k, s, pad, d) - 1) + 1


def pair(op: str, name: str, value: int | Pair) -> Pair:
    """`value` as (height, width), each at least 1, their product below 2**31.

    >>> pair("conv2d", "stride", 2)
    (2, 2)
    """
    both = (value, value) if is_int(value) else value
    if not _is_pair(both) or min(both) < 1:
        raise InputError(f"{op}: {name} is {shown(value)} but must be an int or a pair of ints, each at least 1")
    if both[0] * both[1] >= LIMIT:
        raise InputError(f"{op}: {name} is {shown(value)} but height times width must be below 2**31")
    return int(both[0]), int(both[1])


def _pads(op: str, padding: Padding, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
    if (pads := _given_pads(op, padding)) is not None:
        return pads
    axes = zip(size, kernel, stride, dilation, strict=True)
    totals = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in axes]  # (3)
    return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)


def _given_pads(op: str, padding: Padding) -> Pads | None:
    """The padding where it does not depend on the input; None for "SAME"."""
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return None if padding == "SAME" else ((0, 0), (0, 0))
    return fixed_pads(op, padding, '{0}, {1} of such ints, "SAME" or "VALID"')


def fixed_pads(op: str, padding: Padding, forms: str = "{0} or {1} of such ints") -> Pads:
    """A padding in numbers as ((top, bottom), (left, right)).

    >>> fixed_pads("pad2d", 2)
    ((2, 2), (2, 2))
    """
    pads = ((padding, padding), (padding, padding)) if is_int(padding) else padding
    if not _are_pads(pads):
        must = forms.format("an int >= 0", "((top, bottom), (left, right))")
        raise InputError(f"{op}: padding is {shown(padding)} but must be {must}")
    return (int(pads[0][0]), int(pads[0][1])), (int(pads[1][0]), int(pads[1][1]))


def _extras(op: str, output_padding: int | Pair) -> Pair:
    both = (output_padding, output_padding) if is_int(output_padding) else output_padding
    if not _is_pair(both) or min(both) < 0:
        raise InputError(
            f"{op}: output_padding is {shown(output_padding)} but must be an int or a pair of ints, each at least 0"
        )
    return int(both[0]), int(both[1])


def _is_pair(value) -> TypeGuard[Pair]:
    return isinstance(value, tuple) and len(value) == 2 and all(is_int(v) for v in value)


def _are_pads(value) -> TypeGuard[Pads]:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_pair(v) and min(v) >= 0 for v in value)

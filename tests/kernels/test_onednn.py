"""oneDNN's convolutions: exact on whole numbers, called where they can be, and nowhere else."""

import ctypes
import os
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_kernels import GEOMETRIES, correlations

from jaxcnn import conv2d, kernels
from jaxcnn.geometry import resolve
from jaxcnn.kernels import onednn

CALL = "jaxcnn_correlate"
built = pytest.mark.skipif(onednn.why_not() is not None, reason=str(onednn.why_not()))
SHAPES = [
    ((3, 2), 3, 5, 1), ((2, 3), 7, 9, 1), ((1, 1), 3, 2, 1), ((3, 2), 4, 4, 4), ((3, 2), 3, 6, 3), ((3, 2), 12, 8, 2),
    ((3, 3), 16, 32, 1), ((3, 3), 32, 32, 32), ((3, 3), 1, 1, 1),
]  # fmt: skip


def whole(rng, *shape, largest=3, dtype=jnp.float32):
    return jnp.asarray(rng.integers(-largest, largest + 1, shape), dtype)


def drawn(rng, shape, kernel, in_channels, out_channels, groups, hyper, **numbers):
    """The window, and x, weight, bias and dy."""
    window = resolve("conv2d", shape[1:], kernel, **hyper)
    x, weight = (
        whole(rng, *shape, in_channels, **numbers),
        whole(rng, *kernel, in_channels // groups, out_channels, **numbers),
    )
    dy = whole(rng, shape[0], *window.output, out_channels, **numbers)
    return window, (x, weight, whole(rng, out_channels, **numbers), dy)


def is_called(f, *args):
    return "jaxcnn_" in jax.jit(f).lower(*args).as_text()


@built
@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("kernel", "in_channels", "out_channels", "groups"), SHAPES)
def test_the_correlations_are_exact(rng, hyper, kernel, in_channels, out_channels, groups):
    window, args = drawn(rng, (5, 9, 11), kernel, in_channels, out_channels, groups, hyper)
    found, expected = correlations(window, groups)
    jax.tree.map(np.testing.assert_array_equal, found(*args), expected(*args))
    text = found.lower(*args).as_text()
    assert all(name in text for name in (CALL, "jaxcnn_input_gradient", "jaxcnn_kernel_gradient"))


@built
@pytest.mark.parametrize(
    ("shape", "kernel", "in_channels", "out_channels", "groups", "hyper"),
    [
        ((1, 1, 1), (1, 1), 6, 4, 2, {}),
        ((2, 5, 4), (5, 4), 7, 3, 1, {}),
        ((1, 5, 5), (3, 3), 8, 4, 1, {"padding": 4, "stride": 11}),
        ((2, 5, 6), (3, 3), 8, 4, 1, {"padding": 3, "stride": 9}),
        ((2, 5, 6), (3, 3), 8, 4, 1, {"padding": ((3, 0), (0, 0)), "stride": 6}),
        ((3, 9, 7), (3, 3), 8, 4, 1, {"padding": ((0, 5), (7, 0)), "dilation": 2}),
        ((301, 4, 5), (3, 3), 16, 16, 1, {"padding": 1}),
        ((7, 40, 41), (3, 3), 16, 24, 2, {"padding": 1, "stride": 2}),
    ],
)
def test_the_correlations_are_exact_at_the_edge(rng, shape, kernel, in_channels, out_channels, groups, hyper):
    """One pixel, a kernel as large as the image, windows that see nothing of x, pieces of unequal size."""
    window, args = drawn(rng, shape, kernel, in_channels, out_channels, groups, hyper, largest=2)
    found, expected = correlations(window, groups)
    jax.tree.map(np.testing.assert_array_equal, found(*args), expected(*args))


@built
@pytest.mark.parametrize(("kernel", "in_channels", "out_channels", "groups"), SHAPES[:6])
def test_bfloat16_is_summed_in_float32_and_rounded_once(rng, kernel, in_channels, out_channels, groups):
    if not onednn._native()[0].bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    hyper = {"padding": ((1, 0), (0, 2)), "stride": (1, 2)}
    window, args = drawn(rng, (6, 9, 11), kernel, in_channels, out_channels, groups, hyper)
    found, expected = correlations(window, groups)
    truth = [a.astype(jnp.bfloat16) for a in expected(*args)]  # exact in float32, then rounded to even
    results = found(*(a.astype(jnp.bfloat16) for a in args))
    assert is_called(found, *(a.astype(jnp.bfloat16) for a in args))
    jax.tree.map(np.testing.assert_array_equal, list(results), truth)


@built
@pytest.mark.parametrize("kind", ["correlate", "input_gradient", "kernel_gradient"])
@pytest.mark.parametrize("axes", [(0, None), (None, 1), (0, 3), (2, 0)])
def test_a_batch_of_correlations_is_a_loop(rng, kind, axes):
    window, (x, weight, bias, dy) = drawn(rng, (3, 6, 7), (3, 2), 4, 6, 2, {"stride": (1, 2), "padding": 1})
    arrays = {"correlate": (x, weight), "input_gradient": (dy, weight), "kernel_gradient": (x, dy)}[kind]

    def f(first, second):
        if kind == "correlate":
            return kernels.correlate(first, second, bias, window, 2)
        if kind == "kernel_gradient":
            return kernels.kernel_gradient(first, second, window, 2, bias=True)
        return kernels.input_gradient(first, second, window, 2)

    stacked = [
        a if axis is None else whole(rng, *a.shape[:axis], 4, *a.shape[axis:])
        for a, axis in zip(arrays, axes, strict=True)
    ]
    batched = jax.vmap(f, axes)
    assert is_called(batched, *stacked)
    found = jax.jit(batched)(*stacked)
    for i in range(4):
        one = f(*(a if axis is None else jnp.take(a, i, axis) for a, axis in zip(stacked, axes, strict=True)))
        jax.tree.map(lambda many, one, i=i: np.testing.assert_array_equal(many[i], one), found, one)
    twice = jax.vmap(batched)(*(jnp.stack([a, 2 * a]) for a in stacked))
    jax.tree.map(lambda both, once: np.testing.assert_array_equal(both[0], once), twice, found)


@built
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_without_a_bias_the_gradient_of_the_kernel_is_the_same(rng, dtype):
    if dtype not in onednn.TYPES[: 1 + onednn._native()[0].bfloat16()]:
        pytest.skip("this processor does not multiply bfloat16")
    window, arrays = drawn(rng, (3, 6, 7), (3, 2), 4, 6, 2, {"stride": (1, 2), "padding": 1})
    x, dy = arrays[0].astype(dtype), arrays[3].astype(dtype)
    for arrays, f in (((x, dy), lambda f: f), ((jnp.stack([x, -x]), jnp.stack([dy, 2 * dy])), jax.vmap)):
        both, alone = (
            jax.jit(f(lambda x, dy, bias=bias: kernels.kernel_gradient(x, dy, window, 2, bias=bias)))
            for bias in (True, False)
        )
        assert is_called(alone, *arrays)
        dweight, nothing = alone(*arrays)
        assert nothing is None
        np.testing.assert_array_equal(dweight, both(*arrays)[0])


@built
def test_gradients_of_single_samples_sum_to_that_of_the_batch(rng):
    """One call of as many correlations as there are samples, none with a loop."""
    x, weight, bias = whole(rng, 6, 7, 8, 3), whole(rng, 3, 3, 3, 5), whole(rng, 5)

    def loss(params, x):
        return (conv2d(x, *params, padding=1) ** 2).sum()

    single = jax.jit(jax.vmap(jax.grad(lambda params, x: loss(params, x[None])), (None, 0)))
    text = single.lower((weight, bias), x).as_text()
    assert text.count("jaxcnn_kernel_gradient") == 1
    assert "while" not in text
    found, expected = single((weight, bias), x), jax.grad(loss)((weight, bias), x)
    jax.tree.map(lambda each, whole: np.testing.assert_array_equal(each.sum(axis=0), whole), found, expected)


@built
def test_it_is_called_with_what_it_takes_alone(rng):
    window, (x, weight, bias, _) = drawn(rng, (2, 5, 6), (3, 3), 4, 6, 1, {})

    def f(x, weight, bias):
        return kernels.correlate(x, weight, bias, window, 1)

    assert is_called(f, x, weight, bias)
    assert not is_called(f, x[:0], weight, bias)
    assert not is_called(f, *(a.astype(jnp.float16) for a in (x, weight, bias)))
    with jax.enable_x64(True):
        assert not is_called(f, *(np.asarray(a, np.float64) for a in (x, weight, bias)))
    assert CALL not in export.export(jax.jit(f))(x, weight, bias).mlir_module()


@built
def test_no_thread_is_kept_from_a_processor(rng):
    """A thread that stood aside for the caller may run anywhere again."""
    x, weight = jnp.ones((64, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
    f = jax.jit(lambda x, weight: conv2d(x, weight))
    for _ in range(20):
        time.sleep(0.01)
        f(x, weight).block_until_ready()
    own = os.sched_getaffinity(0)
    assert all(os.sched_getaffinity(int(thread)) == own for thread in os.listdir("/proc/self/task"))


@built
def test_the_same_program_gives_the_same_bits(rng):
    """However the pieces fall to the threads, their sums are made in one order."""
    arrays = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((64, 16, 16, 8), (64, 16, 16, 8))]
    window = resolve("conv2d", (16, 16), (3, 3), padding=1)
    gradient = jax.jit(lambda x, dy: kernels.kernel_gradient(x, dy, window, 1, bias=True))
    first = gradient(*arrays)
    for _ in range(20):
        jax.tree.map(np.testing.assert_array_equal, gradient(*arrays), first)


@built
@pytest.mark.parametrize(
    ("shapes", "facts", "sentence"),
    [
        (((2, 5, 5, 3), (3, 3, 4, 6), (2, 3, 3, 6)), (1, 1, 0, 0, 0, 0, 1, 1, 1), "do not fit together"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 5, 3, 6)), (1, 1, 0, 0, 0, 0, 1, 1, 1), "do not fit together"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (1, 1, 0, 0, 0, 0, 1, 1, 2), "do not fit together"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (0, 1, 0, 0, 0, 0, 1, 1, 1), "do not fit together"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (1, 1, 0, 0, 0, 0, 1, 1), "must have 9 entries"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (1, 1, -1, 0, 0, 0, 1, 1, 1), "must be from 0 to"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (1, 1, 2**62, 2**62, 0, 0, 1, 1, 1), "must be from 0 to"),
        (((5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6)), (1, 1, 0, 0, 0, 0, 1, 1, 1), "must have 4 dimensions, or 5 each"),
        (((2, 5, 5, 3), (3, 3, 3, 6), (2, 3, 3, 6), (5,)), (1, 1, 0, 0, 0, 0, 1, 1, 1), "bias must have an entry"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_an_error_with_a_sentence(shapes, facts, sentence):
    x, weight, y, *bias = shapes
    arrays = [jnp.zeros(shape, jnp.float32) for shape in (x, weight, *bias)]
    call = jax.ffi.ffi_call(CALL, jax.ShapeDtypeStruct(y, jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match=sentence):
        jax.block_until_ready(jax.jit(lambda *arrays: call(*arrays, window=np.array(facts, np.int64)))(*arrays))


@pytest.fixture
def anew():
    """What is found out about the library is found out again, before and after."""
    onednn._native.cache_clear()
    yield
    onednn._native.cache_clear()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("handlers", [None, {"jaxcnn_correlate": "no handler"}])
def test_a_library_that_cannot_run_is_warned_of_once_and_not_called(monkeypatch, handlers):
    """As where libgomp is missing, or where it was built for another XLA."""
    broken = types.ModuleType("jaxcnn_onednn")
    if handlers is not None:
        broken.handlers = lambda: handlers
    monkeypatch.setitem(sys.modules, "jaxcnn_onednn", broken)
    with pytest.warns(RuntimeWarning, match=r"^jaxcnn-onednn is installed but cannot run: .*; convolutions are XLA's$"):
        assert onednn.why_not().startswith("jaxcnn-onednn is installed but cannot run: ")
    assert onednn.why_not() is not None  # a second warning would be an error here
    assert onednn.version() is None
    x = jnp.ones((1, 4, 4, 2))
    assert not is_called(lambda x: conv2d(x, jnp.ones((3, 3, 2, 2))), x)


@pytest.mark.usefixtures("anew")
def test_without_the_library_nothing_is_warned_of(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxcnn_onednn", None)
    assert onednn.why_not() is not None


@built
def test_the_callers_own_threads_are_left_as_they_were(rng):
    """OpenMP's number of threads belongs to the user's thread, too, in which XLA runs small programs."""
    openmp = ctypes.CDLL("libgomp.so.1")
    before = openmp.omp_get_max_threads()
    window, (x, weight, _, _) = drawn(rng, (4, 9, 9), (3, 3), 8, 8, 1, {})
    jax.block_until_ready(jax.jit(lambda x, weight: kernels.correlate(x, weight, None, window, 1))(x, weight))
    assert openmp.omp_get_max_threads() == before


@built
def test_many_threads_at_once_come_to_an_end_and_are_right(rng):
    window, args = drawn(rng, (16, 12, 12), (3, 3), 16, 16, 1, {"padding": 1})
    found, expected = correlations(window, 1)
    truth, wrong = expected(*args), []

    def work():
        for _ in range(10):
            if not all(jax.tree.leaves(jax.tree.map(np.array_equal, found(*args), truth))):
                wrong.append(threading.current_thread())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong

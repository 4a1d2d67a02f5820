"""The gradient of a kernel with each sample's squared norm: against the gradients of single samples, in every form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_kernels import GEOMETRIES
from test_onednn import SHAPES, built, drawn, is_called, whole

from jaxcnn import kernels
from jaxcnn.geometry import resolve
from jaxcnn.kernels import onednn, squares
from jaxcnn.verify.cases import CONV_CASES
from jaxcnn.verify.tolerances import relative_error, tolerance

CALL = "jaxcnn_kernel_gradient_and_squares"
PADDED = {"stride": (1, 2), "padding": 1}


def by_primitive(x, dy, window, groups, *, bias):
    return kernels.kernel_gradient_and_squares(x, dy, window, groups, bias=bias)


def in_jax(x, dy, window, groups, *, bias, on_cpu):
    """What is lowered without oneDNN."""
    facts = {"window": window, "groups": groups, "bias": bias, "on_cpu": on_cpu}
    dweight, norms, *dbias = squares.gradient_and_squares(kernels.kernel_gradient, x, dy, **facts)
    return dweight, dbias[0] if bias else None, norms


on_cpu, elsewhere = partial(in_jax, on_cpu=True), partial(in_jax, on_cpu=False)


def of_single_samples(x, dy, window, groups, *, bias):
    """The gradient of each sample, all of them held: in float64 (N, entries)."""

    def gradient(x, dy):
        return [g for g in kernels.kernel_gradient(x[None], dy[None], window, groups, bias=bias) if g is not None]

    with jax.enable_x64(True):
        each = jax.vmap(gradient)(*(jnp.asarray(np.asarray(a, np.float64)) for a in (x, dy)))
        return np.concatenate([np.asarray(g).reshape(len(x), -1) for g in each], axis=1)


def assert_fits(found, each, of_sums=1e-12, of_squares=1e-12):
    """The results are the sum of the gradients and their squared norms, to these relative errors."""
    dweight, dbias, norms = found
    sums = np.concatenate([np.asarray(g, np.float64).reshape(-1) for g in (dweight, dbias) if g is not None])
    assert relative_error(sums, each.sum(axis=0)) <= of_sums
    truth = (each**2).sum(axis=1)
    assert norms.shape == truth.shape
    assert (np.abs(np.asarray(norms, np.float64) - truth) <= of_squares * truth).all()


def is_ghost(form, *args):
    """Whether no sample's own gradient is computed: that of the batch is another primitive's."""
    return "= kernel_gradient[" in str(jax.make_jaxpr(form)(*args))


def normal(rng, *shape, dtype=None):
    return jnp.asarray(rng.standard_normal(shape), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("form", [by_primitive, elsewhere], ids=["on CPU", "elsewhere"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
@pytest.mark.usefixtures("float64")
def test_in_every_geometry_the_squares_are_those_of_single_samples(rng, case, form):
    shape, (U, V, _, O) = case.args[0].shape, case.args[1].shape
    groups = case.hyper.get("groups", 1)
    window = resolve("conv2d", shape[1:3], (U, V), **{k: v for k, v in case.hyper.items() if k != "groups"})
    x, dy = normal(rng, 5, *shape[1:]), normal(rng, 5, *window.output, O)
    for bias in (True, False):
        facts = {"window": window, "groups": groups, "bias": bias}
        found = jax.jit(partial(form, **facts))(x, dy)
        assert found[0].shape == case.args[1].shape
        assert [None if a is None else a.dtype for a in found] == [x.dtype, x.dtype if bias else None, x.dtype]
        assert_fits(found, of_single_samples(x, dy, **facts))


@pytest.mark.slow
@pytest.mark.parametrize("held", [0, 5000, 2**24])
@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.usefixtures("float64")
def test_the_ghost_norm_is_the_norm(rng, monkeypatch, hyper, held):
    """Of one sample at a time, of some and of all."""
    window = resolve("conv2d", (4, 5), (3, 2), **hyper)
    x, dy = normal(rng, 6, 4, 5, 12), normal(rng, 6, *window.output, 16)
    monkeypatch.setattr(squares, "HELD", held)
    monkeypatch.setattr(squares, "MARGIN", 10**6)
    for bias in (True, False):
        facts = {"window": window, "groups": 1, "bias": bias}
        ghost, direct = partial(elsewhere, **facts), partial(on_cpu, **facts)
        assert is_ghost(ghost, x, dy)
        assert not is_ghost(direct, x, dy)
        each = of_single_samples(x, dy, **facts)
        for form in (ghost, direct):
            assert_fits(jax.jit(form)(x, dy), each)


@pytest.mark.parametrize(
    ("size", "maps", "groups", "on", "expected"),
    [
        (4, 64, 1, on_cpu, True),
        (8, 64, 1, on_cpu, False),
        (8, 64, 1, elsewhere, True),
        (12, 64, 1, elsewhere, False),
        (4, 64, 2, elsewhere, False),
    ],
)
def test_the_ghost_norm_is_taken_where_it_is_the_cheaper_one(size, maps, groups, on, expected):
    window = resolve("conv2d", (size, size), (3, 3), padding=1)
    x = jnp.ones((2, size, size, maps))
    assert is_ghost(partial(on, window=window, groups=groups, bias=True), x, x) == expected


def test_a_squared_norm_is_never_negative(rng):
    """Where nothing but rounding is left of it: x is constant, and dy sums to 0."""
    window = resolve("conv2d", (3, 3), (1, 1))
    dy = normal(rng, 64, 3, 3, 64, dtype=jnp.float32)
    form = partial(elsewhere, window=window, groups=1, bias=False)
    args = jnp.full((64, 3, 3, 64), 0.7, jnp.float32), dy - dy.mean(axis=(1, 2), keepdims=True)
    assert is_ghost(form, *args)
    assert (jax.jit(form)(*args)[2] >= 0).all()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "in_channels", "out_channels", "groups"), [SHAPES[1], SHAPES[4], SHAPES[5], SHAPES[6]]
)
def test_the_squares_are_summed_in_float32(rng, kernel, in_channels, out_channels, groups, dtype):
    """Also those of bfloat16, whose products are exact there.

    An entry w of a sample's gradient is off by at most `tolerance` of the largest one, the sum of the squares by at
    most 2 |w| times that for each entry, and by its own rounding.
    """
    window = resolve("conv2d", (9, 11), kernel, **PADDED)
    x, dy = normal(rng, 6, 9, 11, in_channels, dtype=dtype), normal(rng, 6, *window.output, out_channels, dtype=dtype)
    facts = {"window": window, "groups": groups, "bias": True}
    form = partial(by_primitive, **facts)
    called = onednn.why_not() is None and dtype in onednn.TYPES[: 1 + onednn._native()[0].bfloat16()]
    assert is_called(form, x, dy) == called
    found, each = jax.jit(form)(x, dy), of_single_samples(x, dy, **facts)
    assert [a.dtype for a in found] == [dtype, dtype, jnp.float32]
    T, sizes = int(np.prod(window.output)), np.abs(each)
    of_entries = tolerance(jnp.float32, T) * sizes.max(axis=1)
    bound = 2 * of_entries * sizes.sum(axis=1) / (each**2).sum(axis=1) + tolerance(jnp.float32, each.shape[1])
    assert_fits(found, each, tolerance(dtype, 6 * T), bound)


@built
@pytest.mark.slow
@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("kernel", "in_channels", "out_channels", "groups"), SHAPES)
def test_the_calls_squares_are_exact(rng, hyper, kernel, in_channels, out_channels, groups):
    """Of whole numbers: what oneDNN adds to fill up its blocks of maps does not count."""
    window, (x, _, _, dy) = drawn(rng, (5, 9, 11), kernel, in_channels, out_channels, groups, hyper, largest=1)
    for bias in (True, False):
        facts = {"window": window, "groups": groups, "bias": bias}
        found = jax.jit(partial(by_primitive, **facts))
        assert CALL in found.lower(x, dy).as_text()
        assert_fits(found(x, dy), of_single_samples(x, dy, **facts), 0, 0)


@built
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pieces_of_unequal_size_are_exact(rng, dtype):
    if dtype not in onednn.TYPES[: 1 + onednn._native()[0].bfloat16()]:
        pytest.skip("this processor does not multiply bfloat16")
    window, (x, _, _, dy) = drawn(rng, (301, 4, 5), (3, 3), 17, 19, 1, {"padding": 1}, largest=1)
    facts = {"window": window, "groups": 1, "bias": True}
    found = jax.jit(partial(by_primitive, **facts))(x.astype(dtype), dy.astype(dtype))
    each = of_single_samples(x, dy, **facts)
    np.testing.assert_array_equal(found[2], (each**2).sum(axis=1))
    both = kernels.kernel_gradient(x.astype(dtype), dy.astype(dtype), window, 1, bias=True)
    jax.tree.map(np.testing.assert_array_equal, found[:2], both)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 1), (3, 2)])
def test_a_batch_of_them_is_a_loop(rng, axes):
    window, (x, _, _, dy) = drawn(rng, (3, 6, 7), (3, 2), 4, 6, 2, PADDED)
    f = partial(by_primitive, window=window, groups=2, bias=True)
    stacked = [
        a if axis is None else whole(rng, *a.shape[:axis], 4, *a.shape[axis:])
        for a, axis in zip((x, dy), axes, strict=True)
    ]
    batched = jax.vmap(f, axes)
    assert is_called(batched, *stacked) == (onednn.why_not() is None)
    found = jax.jit(batched)(*stacked)
    assert found[2].shape == (4, 3)
    for i in range(4):
        one = f(*(a if axis is None else jnp.take(a, i, axis) for a, axis in zip(stacked, axes, strict=True)))
        jax.tree.map(lambda many, one, i=i: np.testing.assert_array_equal(many[i], one), found, one)
    twice = jax.vmap(batched)(*(jnp.stack([a, 2 * a]) for a in stacked))
    for i, once in enumerate((found, batched(*(2 * a for a in stacked)))):
        jax.tree.map(lambda both, once, i=i: np.testing.assert_array_equal(both[i], once), twice, once)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("held", [0, 2**24])
@pytest.mark.parametrize("maps", [3, 32])
def test_an_empty_batch_has_a_gradient_of_zero(monkeypatch, held, maps):
    monkeypatch.setattr(squares, "HELD", held)
    window = resolve("conv2d", (3, 4), (3, 2))
    x, dy = jnp.zeros((0, 3, 4, maps)), jnp.zeros((0, *window.output, 32))
    for form in (by_primitive, elsewhere):
        dweight, dbias, norms = form(x, dy, window, 1, bias=True)
        np.testing.assert_array_equal(dweight, np.zeros((3, 2, maps, 32)))
        np.testing.assert_array_equal(dbias, np.zeros(32))
        assert norms.shape == (0,)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("result", [0, 2])
def test_it_has_no_derivative(derivative, result):
    window = resolve("conv2d", (3, 4), (3, 2))
    dy = jnp.ones((2, *window.output, 4))

    def f(x):
        return by_primitive(x, dy, window, 1, bias=True)[result].sum()

    with pytest.raises(NotImplementedError, match="'kernel_gradient_and_squares' not implemented"):
        derivative(f)(jnp.ones((2, 3, 4, 5)))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("maps", [3, 96])
def test_inside_shard_map_each_device_has_its_samples(rng, on_cpu_alone, maps):
    """Also where x does not vary over the devices and dy does; with 96 maps the norms are ghosts without oneDNN."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    window, (x, _, _, dy) = drawn(rng, (6, 4, 4), (3, 3), maps, 32, 1, {"padding": ((0, 1), (0, 0))}, largest=1)
    facts = {"window": window, "groups": 1, "bias": True}
    assert is_ghost(partial(on_cpu, **facts), x, dy) == (maps == 96)

    def of_a_part(x, dy):
        dweight, dbias, norms = by_primitive(x, dy, **facts)
        return *jax.lax.psum((dweight, dbias), "d"), norms

    for some_x, spec in ((x, P("d")), (x[:3], P())):
        mapped = jax.shard_map(of_a_part, mesh=mesh, in_specs=(spec, P("d")), out_specs=(P(), P(), P("d")))
        assert is_called(mapped, some_x, dy) == (onednn.why_not() is None)
        whole_x = jnp.concatenate([some_x] * (6 // len(some_x)))
        assert_fits(jax.jit(mapped)(some_x, dy), of_single_samples(whole_x, dy, **facts), 0, 0)


@pytest.mark.parametrize(("maps", "held"), [(1, 2**24), (1, 500), (96, 2**24), (96, 25000)])
def test_a_batch_that_is_divided_among_devices_stays_there(rng, on_cpu_alone, monkeypatch, maps, held):
    """Samples that are computed at once lie on all devices, those of different turns do not meet."""
    monkeypatch.setattr(squares, "HELD", held)
    window, (x, _, _, dy) = drawn(rng, (8, 4, 4), (3, 3), maps, 7, 1, {"padding": ((0, 1), (0, 0))}, largest=1)
    facts = {"window": window, "groups": 1, "bias": True}
    assert is_ghost(partial(elsewhere, **facts), x, dy) == (maps == 96)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    divided = [jax.device_put(a, NamedSharding(mesh, P("d"))) for a in (x, dy)]
    compiled = jax.jit(partial(by_primitive, **facts)).lower(*divided).compile()
    assert "all-gather" not in compiled.as_text()
    assert "jaxcnn_" not in compiled.as_text()
    assert_fits(compiled(*divided), of_single_samples(x, dy, **facts), 0, 0)


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize(("form", "size", "ghost"), [(on_cpu, 8, False), (elsewhere, 12, False), (elsewhere, 8, True)])
def test_the_gradients_of_all_samples_are_never_held(monkeypatch, form, size, ghost):
    monkeypatch.setattr(squares, "HELD", 2**18)
    window = resolve("conv2d", (size, size), (3, 3), padding=1)
    x = jax.ShapeDtypeStruct((64, size, size, 64), jnp.float32)
    f = partial(form, window=window, groups=1, bias=True)
    assert is_ghost(f, x, x) == ghost
    temporary = jax.jit(f).lower(x, x).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 64 * (3 * 3 * 64 * 64) * 4 / 4


@built
def test_the_same_call_gives_the_same_bits(rng):
    """However the pieces fall to the threads."""
    x = normal(rng, 64, 16, 16, 8, dtype=jnp.float32)
    window = resolve("conv2d", (16, 16), (3, 3), padding=1)
    f = jax.jit(lambda x, dy: by_primitive(x, dy, window, 1, bias=True))
    first = f(x, x[::-1])
    for _ in range(20):
        jax.tree.map(np.testing.assert_array_equal, f(x, x[::-1]), first)


@built
def test_a_library_that_was_built_without_the_call_is_not_asked(monkeypatch):
    window, x = resolve("conv2d", (5, 5), (3, 3), padding=1), jnp.ones((2, 5, 5, 3))
    library, _ = onednn._native()
    others = {name: handler for name, handler in library.handlers().items() if name != CALL}
    monkeypatch.setattr(library, "handlers", lambda: others)
    assert not is_called(lambda x: by_primitive(x, x, window, 1, bias=True), x)
    assert is_called(lambda x: kernels.kernel_gradient(x, x, window, 1, bias=True), x)


@built
@pytest.mark.parametrize(("shape", "dtype"), [((3,), jnp.float32), ((2,), jnp.int32)])
def test_squares_that_do_not_fit_are_an_error_with_a_sentence(shape, dtype):
    x, dy = jnp.zeros((2, 5, 5, 3)), jnp.zeros((2, 3, 3, 6))
    results = jax.ShapeDtypeStruct((3, 3, 3, 6), jnp.float32), jax.ShapeDtypeStruct(shape, dtype)
    call = jax.ffi.ffi_call(CALL, results)
    with pytest.raises(jax.errors.JaxRuntimeError, match="squares must have an entry for each sample, of float32"):
        jax.block_until_ready(jax.jit(lambda *a: call(*a, window=np.array((1, 1, 0, 0, 0, 0, 1, 1, 1))))(x, dy))

"""The verifier's parts: the words for an error, arguments from the command line, the pages, the plugin, the soak."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.verify import arguments, cases, html, registry
from jaxcnn.verify.explain import explain
from jaxcnn.verify.soak import soak
from jaxcnn.verify.tolerances import rounding_terms, scales

T = np.random.default_rng(5).standard_normal((4, 3, 5))
X = np.random.default_rng(6).standard_normal(T.shape)
DY = np.random.default_rng(7).standard_normal((6, 4, 3, 5))


def at(index, factor=1.5):
    changed = T.copy()
    changed[index] *= factor
    return changed


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (T, ""),
        (-T, "scaled by -1: the sign is wrong"),
        (2 * T, "scaled by 2"),
        (T / 6, "scaled by 1/6, the size of axis 0 of dy"),
        (0.37 * T, "scaled by 0.37"),
        (0 * T, "zero: no gradient arrives"),
        (T[::-1, ::-1], "flipped along axes (0, 1) (rot180)"),
        (T.transpose(2, 1, 0).reshape(T.shape), "in the order of axes (2, 1, 0), not of (0, 1, 2)"),
        (np.roll(T, 1, 0), "shifted by 1 along axis 0"),
        (np.broadcast_to(T.sum(1, keepdims=True), T.shape), "summed over axis 1, which it must not be"),
        (DY[0], "dy is not summed over its axis 0"),
        (T * np.arange(1, 6), "scaled by a factor that changes along axis 2 alone"),
        (at((0,)), "wrong only where the index along axis 0 is 0, at the border; wrong in 15 of 60 entries"),
        (at((slice(None), slice(None), 2)), "wrong only where the index along axis 2 is 2"),
        (np.where(X < 0, 0, T), "wrong only where the input is negative"),
        (np.where(np.arange(60).reshape(T.shape) == 31, np.nan, T), "not finite in 1 of 60 entries"),
        (T.astype(np.float32), "rounded to float32"),
        (T[0], "the shape is (3, 5) but must be (4, 3, 5)"),
    ],
)
def test_an_error_in_words(found, words):
    truth = DY.sum(0) if found is DY[0] or np.shares_memory(found, DY) else T
    note = explain(found, truth, X, [DY])
    assert note.startswith(words) if words else note == ""


def test_ties_are_named():
    x = np.array([1.0, 1.0, 2.0, 3.0, 4.0, 2.5])
    t = np.array([1.0, 0.0, 2.0, 3.0, 4.0, 7.0])
    assert explain([1.0, 1.0, 2.0, 3.0, 4.0, 7.0], t, x, []).startswith("wrong only where the input ties")


@pytest.mark.parametrize(
    "text", ["", "f32", "f33[2]", "f32[2,]x", "f32[2],", "i32[3]:0", "f32[-1]", "f32[2 3]", "i32[3]+", "f32[3]:4"]
)
def test_arguments_that_cannot_be_read(text):
    with pytest.raises(InputError, match="args is "):
        arguments.draw(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("f32[100000,100000]", "which has 10,000,000,000 entries but must have at most 2,097,152"),
        ("f32[2000000], i32[2000000]", "which has 4,000,000 entries but must have at most 2,097,152"),
        ("i8[3]:1000", "where int8 is below 1000 but must be below 128 at most"),
    ],
)
def test_arguments_that_cannot_be_drawn(text, sentence):
    with pytest.raises(InputError, match=sentence):
        arguments.draw(text)


def test_arguments_are_drawn():
    x, labels, positive, key = arguments.draw("bf16[2, 3], i64[50]:4 , f32[9]+, key")
    assert (x.shape, labels.dtype, key.shape) == ((2, 3), np.int64, ())
    assert set(labels) == {0, 1, 2, 3}
    assert (positive >= 0.1).all()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("relu", "must be module:function"),
        ("nosuch_module:f", "cannot be imported: ModuleNotFoundError"),
        ("math:nosuch", "cannot be imported: AttributeError"),
        ("math:pi", "is float but must be a function"),
    ],
)
def test_functions_that_cannot_be_imported(name, sentence):
    with pytest.raises(InputError, match=sentence):
        arguments.import_function(name)


def test_reduction_lengths_are_counted(rng):
    import jax

    def f(x, w):
        return jax.lax.scan(lambda c, _: (c, (x @ w).sum()), 0.0, None, length=3)

    assert rounding_terms(jax.make_jaxpr(f)(jnp.ones((2, 7)), jnp.ones((7, 5)))) == 3 * (7 + 10)
    assert scales([np.array([1e-20]), np.array([2.0])]) == [2.0, 2.0]


def test_a_large_map_is_shown_in_blocks():
    error = np.zeros((200, 300))
    error[123, 45] = 0.5
    text = html._map("error", "x", "autodiff", error, np.zeros_like(error), 1.0)
    assert "Each cell is the worst of 4 x 4 entries" in text
    assert "(120, 44): 5.0e-01" in text


def test_the_plugin_shows_the_table_in_place_of_a_traceback(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["jaxcnn.verify.pytest_plugin"]\n')
    (tmp_path / "test_rule.py").write_text(
        "import jax, numpy as np\n"
        "f = jax.custom_vjp(lambda x: x * x)\n"
        "f.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))\n"
        "def test_wrong(check_rule):\n    check_rule(f, np.ones(2), dtypes=('float64',))\n"
        "def test_changed(check_rule):\n    check_rule(f, np.ones(2), dtypes=('float64',), expect='changed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "test_rule.py::test_wrong: the backward rule is wrong" in done.stdout
    assert "scaled by 1/2" in done.stdout
    assert "Traceback" not in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_the_soak_finds_no_false_alarm_and_can_find_one(monkeypatch):
    seen = []
    assert soak(2, seed=3, on_report=seen.append) == []
    assert len(seen) == 2
    with pytest.raises(InputError, match="soak is 0 but must be at least 1"):
        soak(0)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(InputError, match="soak needs hypothesis"):
        soak(1)


@pytest.mark.usefixtures("on_cpu_alone")  # elsewhere the rule has the convolution that ends the process
def test_a_derivative_at_which_xlas_simplifier_ends_the_process_is_verified():
    """docs/others.md: a failure here would end the worker."""
    geometry = {"stride": (1, 2), "padding": ((2, 0), (1, 2)), "dilation": (3, 1), "groups": 1}
    case = cases.conv_case((3, 9, 6, 2), (4, 2, 2, 3), bias=True, **geometry)
    assert registry.check_case(cases.OPERATIONS["conv2d"].op, case, 0).passed

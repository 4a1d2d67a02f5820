import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Averaged,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    MaxPool2d,
    Optax,
    Progress,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    init_state,
    train_step,
)
from jaxcnn.store.checkpoint import load_checkpoint, load_progress, load_state, save_checkpoint

NETWORK = Sequential((Sequential((Dense(4), ReLU())), Dense(3)))
X, LABELS = jnp.arange(10.0).reshape(2, 5) / 10, jnp.array([0, 2])


def trained(optimizer, dtype=None):
    state = init_state(NETWORK, optimizer, jax.random.key(7), (5,), dtype=dtype)
    x = X.astype(dtype or float)
    return train_step(NETWORK, SoftmaxCrossEntropy(), optimizer, state, x, LABELS)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_parameters_and_spec_come_back_bit_for_bit(tmp_path, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        state = trained(SGD(0.1, momentum=0.9), dtype)
        save_checkpoint(tmp_path / "a.safetensors", NETWORK, (5,), state, {"classes": ["a", "b"]})
    saved = load_checkpoint(tmp_path / "a.safetensors")
    assert saved.network == NETWORK
    assert saved.in_shape == (5,)
    assert saved.info == {"classes": ["a", "b"]}
    assert jax.tree.structure(saved.params) == jax.tree.structure(state.params)
    for a, b in zip(jax.tree.leaves(saved.params), jax.tree.leaves(state.params), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, np.asarray(b))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_training_goes_on_where_it_stopped(tmp_path):
    optax = pytest.importorskip("optax")
    for optimizer in (SGD(0.1, momentum=0.9), Optax(optax.adam(1e-2))):
        state = trained(optimizer)
        save_checkpoint(tmp_path / "a.safetensors", NETWORK, (5,), state, {})
        fresh = init_state(NETWORK, optimizer, jax.random.key(0), (5,))
        again = load_state(tmp_path / "a.safetensors", like=fresh)
        assert int(again.step) == 1
        one, _ = train_step(NETWORK, SoftmaxCrossEntropy(), optimizer, state, X, LABELS)
        two, _ = train_step(NETWORK, SoftmaxCrossEntropy(), optimizer, again, X, LABELS)
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
        assert jax.random.key_data(one.key).tolist() == jax.random.key_data(two.key).tolist()


def test_a_file_of_another_optimizer_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", NETWORK, (5,), trained(SGD(0.1)), {})
    other = init_state(NETWORK, SGD(0.1, momentum=0.9), jax.random.key(0), (5,))
    with pytest.raises(
        InputError,
        match="has no array as optimizer/velocity/dense1/bias but must have float32 of shape \\(3,\\), as this network",
    ):
        load_state(tmp_path / "a.safetensors", like=other)


def test_bad_files_get_one_sentence(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"a.safetensors: cannot be read \(No such file or directory\)"):
        load_checkpoint(path)
    save_checkpoint(path, NETWORK, (5,), trained(SGD(0.1)), {})
    whole = path.read_bytes()
    for content in (b"", b"junk" * 20, whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a.safetensors: is corrupt"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "arrays"),
    [
        ({"network": "no JSON"}, {}),
        ({"network": None}, {}),
        ({"network": "[1]"}, {}),
        ({"network": '{"layer": "Sequential"}'}, {}),
        ({"network": '{"layer": "Dense", "out_features": 0}'}, {}),
        ({"info": "[1]"}, {}),
        ({"info": None}, {}),
        ({"in_shape": "5"}, {}),
        ({"in_shape": "[6]"}, {}),
        ({}, {"params/dense1/weight": None}),
        ({}, {"params/dense1/weight": np.ones((4, 4), np.float32)}),
        ({}, {"params": np.ones(3, np.float32)}),
        ({}, {"params/extra": np.ones(3, np.int64)}),
    ],
)
def test_every_damage_gets_one_sentence(tmp_path, metadata, arrays):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "a.safetensors"
    save_checkpoint(path, NETWORK, (5,), trained(SGD(0.1)), {})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    kept = {name: value for name, value in (header | metadata).items() if value is not None}
    save_file({n: a for n, a in (load_file(path) | arrays).items() if a is not None}, path, metadata=kept)
    with pytest.raises(
        InputError, match="a.safetensors: (is corrupt|has .* but must have .*, as the network has)"
    ) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_file_of_somebody_else_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="has the format None but must have 'jaxcnn 1' or 'jaxcnn 2'"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_the_info_must_be_json(tmp_path):
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "c.safetensors", NETWORK, (5,), trained(SGD(0.1)), {"a": object()})
    assert not list(tmp_path.iterdir())


def test_a_path_may_be_a_string(tmp_path):
    path, state = str(tmp_path / "a.safetensors"), trained(SGD(0.1))
    save_checkpoint(path, NETWORK, (5,), state, {})
    assert load_checkpoint(path).network == NETWORK
    assert int(load_state(path, like=state).step) == 1
    with pytest.raises(InputError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        load_checkpoint("nowhere")


def test_what_does_not_belong_together_is_not_written_nor_read(tmp_path):
    network, optimizer = Sequential((Dense(3),)), SGD(0.1)
    state = init_state(network, optimizer, jax.random.key(0), (2,))
    file = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="state is of type dict but must be a TrainState, from init_state"):
        save_checkpoint(file, network, (2,), state.params)
    with pytest.raises(InputError, match=r"state has .*\(2, 3\).* but must have .*\(5, 3\).* in_shape \(5,\)"):
        save_checkpoint(file, network, (5,), state)
    assert not file.exists()
    save_checkpoint(file, network, (2,), state)
    assert load_checkpoint(file).info == {}
    with pytest.raises(InputError, match="state is of type Sequential but must be a TrainState, from init_state"):
        load_state(file, network)


def test_a_file_of_the_first_format_is_read():
    """Written by the version before `Progress`, after one step."""
    path = Path(__file__).parent / "format-1.safetensors"
    saved = load_checkpoint(path)
    assert saved.network == Sequential((Conv2d(2, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(10)))
    like = init_state(saved.network, SGD(0.1, momentum=0.9), jax.random.key(0), saved.in_shape)
    progress = load_progress(path, like)
    assert (int(progress.state.step), progress.history, len(progress.losses)) == (1, (), 0)
    assert float(progress.state.params["conv1"]["weight"].sum()) == pytest.approx(1.281401, abs=1e-6)


def test_progress_comes_back_whole(tmp_path):
    state = trained(SGD(0.1))
    epoch = {"epoch": 1, "step": 3, "loss": 0.5, "accuracy": 0.25, "seconds": 0.125}
    progress = Progress(state, (epoch,), np.array([1.5, np.pi]), np.array([3, 4], np.int32), 2.5)
    save_checkpoint(tmp_path / "a.safetensors", NETWORK, (5,), progress)
    again = load_progress(tmp_path / "a.safetensors", like=trained(SGD(0.2)))
    assert again.history == progress.history
    assert again.seconds == 2.5
    np.testing.assert_array_equal(again.losses, progress.losses)
    np.testing.assert_array_equal(again.correct, progress.correct)
    jax.tree.map(np.testing.assert_array_equal, again.state.params, state.params)


def test_the_parameters_to_predict_with_are_their_average(tmp_path):
    state = trained(Averaged(SGD(0.1), 0.5))
    save_checkpoint(tmp_path / "a.safetensors", NETWORK, (5,), state)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(tmp_path / "a.safetensors").params, state.averaged)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"format": "jaxcnn 3"},
            "has the format 'jaxcnn 3' but must have 'jaxcnn 1' or 'jaxcnn 2'; a newer jaxcnn reads",
        ),
        ({"history": "[1]"}, "is corrupt"),
        ({"history": '[{"epoch": 1}]'}, "is corrupt (an epoch of its history lacks a number)"),
        (
            {"params/dense1/bias": np.ones(3, np.float64)},
            "has float64 of shape (3,) as params/dense1/bias but must have",
        ),
        (
            {"progress/losses": np.ones(2)},
            "has int32 of shape (0,) as progress/correct but must have int32 of shape (2,)",
        ),
        ({"progress/losses": None}, None),
        ({"step": None}, "has no array as step but must have int32 of shape ()"),
        ({"more": np.ones(1)}, "has float64 of shape (1,) as more but must have no array"),
    ],
)
def test_what_a_fit_cannot_go_on_from_gets_one_sentence(tmp_path, change, sentence):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "a.safetensors"
    save_checkpoint(path, NETWORK, (5,), trained(SGD(0.1)), {})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    arrays = load_file(path) | {name: value for name, value in change.items() if not isinstance(value, str)}
    metadata = header | {name: value for name, value in change.items() if isinstance(value, str)}
    save_file({name: array for name, array in arrays.items() if array is not None}, path, metadata=metadata)
    if sentence is None:
        load_progress(path, like=trained(SGD(0.1)))
        return
    with pytest.raises(InputError) as error:
        load_progress(path, like=trained(SGD(0.1)))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)

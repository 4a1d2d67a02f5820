"""The commands as a user meets them: what they print, what they write, how they fail."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import InputError, cli, commands, runs, training
from jaxcnn.data import Dataset, Normalization, load_digits

UNIT = {"mean": 0, "std": 1, "padding": 0}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_digits():
    """96 digits to train on and 40 to test, for what does not depend on how well it is learnt."""
    digits = load_digits()
    cut = {
        f"{split}_{part}": getattr(digits, f"{split}_{part}")[:size]
        for split, size in (("train", 96), ("test", 40))
        for part in ("images", "labels")
    }
    return dataclasses.replace(digits, **cut)


def run(*arguments):
    """The exit status of `jaxcnn ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    return stopped.value.code


def test_train_then_evaluate(capsys):
    assert run("train", "--epochs", 3, "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["run"] == "runs/digits-0001"
    assert result["accuracy"] > 0.8
    assert result["steps"] == 3 * (1437 // 32)
    assert result["gradient_check"] < 1e-10
    assert "gradient check: hand-written backward = jax.grad of the plain forward" in err
    assert "Confusion: rows are the true class" in err
    assert "misclassified" in err

    folder = Path("runs/digits-0001")
    files = {"model.safetensors", "metrics.jsonl", "config.json", "curves.png", "kernels.png"}
    assert {file.name for file in folder.iterdir()} == files
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["test_accuracy"] == result["accuracy"]
    config = json.loads((folder / "config.json").read_text())
    assert config["learning_rate"] == 0.02
    assert config["network"]["layer"] == "Sequential"
    for name in ("curves.png", "kernels.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")

    model_file = runs.load(folder)  # which reads model.safetensors alone
    assert model_file.normalization == Normalization.of(load_digits().train_images)

    assert run("evaluate", folder, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == result["accuracy"]
    assert again["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert again["confusion"] == result["confusion"]
    assert np.array(again["confusion"]).sum() == 360

    assert run("diagnose", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 512
    assert {layer["name"] for layer in found["layers"]} == {"relu1", "relu2", "relu3"}
    for layer in found["layers"]:
        assert layer["share"] == pytest.approx(lines[-1][f"{layer['name']}_dead"], abs=1e-6)

    assert run("evaluate", folder) == 0
    assert f"test accuracy {result['accuracy']:.2%}" in capsys.readouterr().out


def test_the_next_run_gets_the_next_folder_and_options_reach_the_run(capsys):
    Path("runs/digits-0001").mkdir(parents=True)
    arguments = ("--epochs", 50, "--batch-size", 64, "--target-error", 2.2, "--optimizer", "nesterov")
    assert run("train", *arguments, "--seed", 3, "--loss", "squared-error", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == "runs/digits-0002"
    assert result["epochs"] < 50
    assert result["train_loss"] <= 2.2
    config = json.loads(Path("runs/digits-0002/config.json").read_text())
    assert (config["seed"], config["batch_size"], config["loss"]) == (3, 64, "squared-error")


@pytest.mark.parametrize(("dtype", "optimizer"), [("bfloat16", "adamw"), ("float64", "adam")])
def test_dtypes_and_optax_optimizers(capsys, monkeypatch, few_digits, dtype, optimizer):
    monkeypatch.setattr(commands.data, "load", lambda source: few_digits)
    arguments = ("--epochs", 2, "--batch-size", 16, "--learning-rate", 0.002, "--out", "a/b", "--json")
    assert run("train", *arguments, "--dtype", dtype, "--optimizer", optimizer) == 0
    result = json.loads(capsys.readouterr().out)
    first, last = (json.loads(line)["loss"] for line in Path("a/b/metrics.jsonl").read_text().splitlines())
    assert last < first
    with jax.enable_x64(True):
        params = runs.load(Path("a/b")).checkpoint.params
    assert {array.dtype for array in jax.tree.leaves(params)} == {jax.numpy.dtype(dtype)}
    assert run("evaluate", "a/b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["accuracy"]


def test_a_diverging_run_says_so_and_keeps_the_last_good_parameters(capsys):
    assert run("train", "--learning-rate", 1e9, "--loss", "squared-error", "--epochs", 2, "--out", "wild") == 1
    err = capsys.readouterr().err
    assert "jaxcnn: the loss became" in err
    assert "at step" in err
    assert "they are in wild/model.safetensors" in err
    assert run("evaluate", "wild", "--json") == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["loss"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", 0], "epochs is 0 but must be at least 1"),
        (["--batch-size", 0], "batch_size is 0 but must be at least 1"),
        (["--batch-size", 1438], "batch_size is 1438 but must be at most 1437, the number of training images"),
        (["--learning-rate", -1], "learning_rate is -1.0 but must be finite, at least 0"),
        (["--learning-rate", "nan"], "learning_rate is nan but must be finite, at least 0"),
        (["--learning-rate", "inf"], "learning_rate is inf but must be finite, at least 0"),
        (["--momentum", 1], "momentum is 1.0 but must be at least 0 and below 1"),
        (["--weight-decay", -0.1], "weight_decay is -0.1 but must be finite, at least 0"),
        (["--target-error", "nan"], "target_error is nan but must be finite, at least 0"),
        (["--seed", -1], "seed is -1 but must be at least 0"),
        (["--model", "resnet"], "model is 'resnet' but must be one of digits, lenet28, cnn28, vgg32"),
        (["--model", "lenet28"], "layer 'conv2' with input shape (4, 4, 6): conv2d: a window of height 5 does not fit"),
        (["--data", "nowhere"], "data is 'nowhere' but must be \"digits\" or a folder"),
        (["--out", "."], "out is '.', which exists; it must be a new folder"),
        (["--out", "file/run"], "out is 'file/run', which cannot be created"),
        (["--out", "dangling/run"], "out is 'dangling/run', which cannot be created"),
        (["--out", 300 * "x"], "File name too long"),
        (["--data", ""], "data is '' but must be"),
        (["--data", 5000 * "x"], "File name too long"),
        (["--seed", 2**32], "seed is 4294967296 but must be at least 0 and below 2**32"),
        (["--optimizer", "adam", "--momentum", 0.9], "momentum is 0.9 but adam has none; it must be left out"),
        (["--optimizer", "adam", "--weight-decay", 0.1], "weight_decay is 0.1 but adam has none"),
        (["--optimizer", "nesterov", "--momentum", 0], "SGD: nesterov is True but momentum is 0"),
        (["--optimizer", "lbfgs"], "lbfgs"),
        (["--epochs", "many"], "'--epochs'"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_to_train_gets_one_sentence(capsys, arguments, sentence):
    Path("file").write_text("")
    Path("dangling").symlink_to("nowhere")
    assert run("train", *arguments) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("jaxcnn: ")]
    assert len(lines) == 1
    assert err.splitlines()[-1] == lines[0]
    assert sentence in lines[0]
    assert "Traceback" not in err
    assert sorted(path.name for path in Path().iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "nowhere"], "run is 'nowhere', which holds no model.safetensors; it must be a folder of jaxcnn"),
        (["evaluate", "broken"], "broken/model.safetensors: is corrupt"),
        (["evaluate"], "'run'"),
        (["diagnose", "nowhere"], "run is 'nowhere', which holds no model.safetensors"),
        (["summary", "--model", "x"], "model is 'x' but must be one of digits"),
        (["summary", "--batch-size", 0], "batch_size is 0 but must be at least 1"),
        (["verify", "jax.nn:relu"], "args is not given; jax.nn:relu needs some"),
        (["verify", "relu", "--args", "f32[2]"], "function is 'relu' but must be module:function"),
        (["verify", "jax.nn:relu", "--args", "f32(2)"], "args is 'f32(2)', which cannot be read"),
        (["verify", "jax.nn:relu", "--op", "relu"], "a function and op are both given"),
        (["verify", "--plain", "jax.nn:relu"], "plain is given but no function"),
        (["verify", "jax.nn:relu", "--args", "f32[2]", "--html", "no/page.html"], "its folder must exist"),
        (["verify", "--mutants", "--thorough"], "thorough is given with mutants"),
        (["verify", "--soak", "0"], "soak is 0 but must be at least 1"),
        (["verify", "--op", "conv3d"], "op is 'conv3d' but must be one of conv2d, max_pool2d"),
        (["tarin"], "tarin"),
    ],
)
def test_bad_input_to_the_other_commands_gets_one_sentence(capsys, arguments, sentence):
    Path("broken").mkdir()
    Path("broken/model.safetensors").write_bytes(b"nothing of the kind")
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcnn: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_summary(capsys):
    assert run("summary", "--model", "lenet28", "--batch-size", 4) == 0
    assert "conv2      Conv2d(16, 5)" in capsys.readouterr().out
    assert run("summary", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    assert sum(row["parameters"] for row in rows) == 53_002


def test_verify_prints_the_table_and_exits_by_the_verdict(capsys, monkeypatch):
    assert run("verify", "--op", "tanh", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert {row["oracle"] for row in result["checks"]} >= {"autodiff", "differences"}

    import dataclasses

    from jaxcnn.verify import OPERATIONS

    wrong = dataclasses.replace(OPERATIONS["tanh"], backward=lambda y, dy: (dy * (1 - y),))
    monkeypatch.setitem(OPERATIONS, "tanh", wrong)
    assert run("verify", "--op", "tanh") == 1
    assert "FAILED  tanh(" in capsys.readouterr().out


def test_verify_checks_somebody_elses_rule(capsys, monkeypatch):
    Path("rules.py").write_text(
        "import jax\nplain = lambda x: x * x\nf = jax.custom_vjp(plain)\n"
        "f.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))\n"
    )
    monkeypatch.syspath_prepend("")
    arguments = ("verify", "rules:f", "--plain", "rules:plain", "--args", "f32[3]", "--html", "page.html")
    assert run(*arguments, "--json") == 1
    out, _ = capsys.readouterr()
    result = json.loads(out)
    assert result["failed"] is True
    assert "scaled by 1/2" in {check["note"] for check in result["checks"]}
    assert "scaled by 1/2" in Path("page.html").read_text()


def test_verify_shows_the_mutants_and_the_soak(capsys, monkeypatch):
    from jaxcnn.verify import mutants

    one = [mutant for mutant in mutants.MUTANTS if mutant.fault == "dx stopped"]
    monkeypatch.setattr(mutants, "MUTANTS", one)
    monkeypatch.setattr(mutants, "false_alarms", lambda: {"check_grads": (1, 2), "chex": None})
    assert run("verify", "--mutants", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["mutants"]
    assert row["fault"] == "dx stopped"
    assert row["checks"] == ["autodiff", "differences"]
    assert run("verify", "--soak", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["false_alarms"] == 0


def test_help_teaches(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "diagnose", "summary", "verify"))
    assert run("train", "--help") == 0
    out = capsys.readouterr().out
    for flag in ("data", "model", "epochs", "batch-size", "learning-rate", "momentum", "weight-decay", "seed", "loss",
                 "optimizer", "dtype", "target-error", "out", "json"):  # fmt: skip
        assert f"--{flag}" in out


def test_without_the_extra_the_command_says_what_to_install(tmp_path):
    script = "import sys; sys.modules['typer'] = None\nfrom jaxcnn.cli import main\nmain(['train'])\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "jaxcnn: the command line needs more packages: pip install 'jaxcnn[cli]'"


def test_data_of_another_shape_is_refused_by_evaluate(capsys, monkeypatch):
    assert run("train", "--epochs", 1, "--out", "r", "--json") == 0
    rng = np.random.default_rng(0)
    other = Dataset(
        "other", *(a for n in (20, 10) for a in (rng.random((n, 9, 8, 1), np.float32), np.arange(n) % 10)),
        classes=tuple("0123456789"),
    )  # fmt: skip
    monkeypatch.setattr(commands.data, "load", lambda source: other)
    assert run("evaluate", "r", "--data", "other") == 2
    assert (
        "other has images of shape (9, 8, 1) but the network of r was trained on (8, 8, 1)" in capsys.readouterr().err
    )


def test_an_interrupted_run_keeps_what_it_has(capsys, monkeypatch):
    def interrupted(*args, on_epoch, **kwargs):
        state = args[3]
        on_epoch(state, {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "test_loss": 1.0, "test_accuracy": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", interrupted)
    assert run("train", "--out", "half") == 130
    assert capsys.readouterr().err.strip().endswith("jaxcnn: interrupted")
    assert run("evaluate", "half", "--json") == 0
    assert len(Path("half/metrics.jsonl").read_text().splitlines()) == 1


def test_the_default_model_is_the_one_made_for_the_images():
    for in_shape, name in (((8, 8, 1), "digits"), ((28, 28, 1), "lenet28"), ((32, 32, 3), "vgg32")):
        assert commands._model_for(in_shape) == name
    with pytest.raises(InputError, match="model is not given and none is made for images of shape"):
        commands._model_for((9, 9, 1))


def test_a_failed_gradient_check_trains_nothing(capsys, monkeypatch):
    monkeypatch.setattr(commands.verify, "check_network", lambda *arguments: 0.5)
    assert run("train") == 1
    assert "jaxcnn: the hand-written gradient differs from jax.grad by 5.0e-01" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_dangling_default_folder_is_refused(capsys):
    Path("runs").symlink_to("nowhere")
    assert run("train") == 2
    assert "out is 'runs', which cannot be created" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys):
    assert run() == 2
    out, err = capsys.readouterr()
    assert "Start with: jaxcnn train" in out + err
    assert "jaxcnn: " not in err


def test_dead_units_are_named_by_diagnose(capsys):
    import jax.numpy as jnp

    from jaxcnn import SGD, Dense, Flatten, ReLU, Sequential, checkpoint, init_state

    network = Sequential((Flatten(), Dense(4), ReLU(), Dense(10)))
    state = init_state(network, SGD(0.1), jax.random.key(0), (8, 8, 1))
    state.params["dense1"]["bias"] = jnp.array([-1e3, 1e3, -1e3, -1e3])
    info = {
        "data": "digits",
        "loss": "cross-entropy",
        "dtype": "float32",
        "normalization": {"mean": 0, "std": 1, "padding": 0},
    }
    Path("r").mkdir()
    checkpoint.save(Path("r/model.safetensors"), network, (8, 8, 1), state, info)
    assert run("diagnose", "r") == 0
    out = capsys.readouterr().out
    assert "75.0%" in out
    assert "relu1: 3 of 4 units are dead: zero for every sample" in out


def test_a_corrupt_configuration_gets_one_sentence(tmp_path, capsys):
    from jaxcnn import SGD, Dense, Sequential, checkpoint, init_state

    state = init_state(Sequential((Dense(3),)), SGD(0.1), jax.random.key(0), (4,))
    good = {
        "data": "digits",
        "loss": "cross-entropy",
        "dtype": "float32",
        "normalization": {"mean": 0, "std": 1, "padding": 0},
    }
    for change in ({"data": None}, {"dtype": "float8"}, {"loss": "zip"}, {"normalization": {"mean": "x"}}):
        Path("r").mkdir(exist_ok=True)
        info = {name: value for name, value in (good | change).items() if value is not None}
        checkpoint.save(Path("r/model.safetensors"), Sequential((Dense(3),)), (8, 8, 1), state, info)
        assert run("evaluate", "r") == 2
        err = capsys.readouterr().err
        assert "corrupt" in err
        assert err.count("\n") == 1

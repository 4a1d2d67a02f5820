"""`jaxcnn train` as a user meets it."""

import errno
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command import run
from rich.console import Console

from jaxcnn import Flatten, experiment
from jaxcnn.cli import show
from jaxcnn.cli.printed import Printed
from jaxcnn.data import Normalization, load_digits
from jaxcnn.progress import Progress
from jaxcnn.recipe import Recipe
from jaxcnn.store.runs import load_run

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


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
    files = {"model.safetensors", "metrics.jsonl", "recipe.toml", "curves.png", "kernels.png", "flow.png"}
    assert {file.name for file in folder.iterdir()} == files
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert Recipe.read(folder / "recipe.toml") == Recipe(
        model="digits", epochs=3, learning_rate=0.02, momentum=0.9, weight_decay=5e-4
    )
    for name in ("curves.png", "kernels.png", "flow.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")

    model_file = load_run(folder)  # which reads model.safetensors alone
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
    recipe = Recipe.read("runs/digits-0002/recipe.toml")
    assert (recipe.seed, recipe.batch_size, recipe.loss) == (3, 64, "squared-error")


@pytest.mark.parametrize(("dtype", "optimizer"), [("bfloat16", "adamw"), ("float64", "adam")])
def test_dtypes_and_optax_optimizers(capsys, monkeypatch, few_digits, dtype, optimizer):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    monkeypatch.setattr(show, "load_dataset", lambda source, resize: few_digits)
    arguments = ("--epochs", 2, "--batch-size", 16, "--learning-rate", 0.002, "--out", "a/b", "--json")
    assert run("train", *arguments, "--dtype", dtype, "--optimizer", optimizer) == 0
    result = json.loads(capsys.readouterr().out)
    first, last = (json.loads(line)["loss"] for line in Path("a/b/metrics.jsonl").read_text().splitlines())
    assert last < first
    with jax.enable_x64(True):
        params = load_run(Path("a/b")).checkpoint.params
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
        (["--epochs", 2**31], "epochs is 2147483648 but must be at most 48806446: updates are counted in int32"),
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
        (["--model", "resnet32"], "model is 'resnet32', which images of shape (8, 8, 1) do not fit (layer"),
        (["--model", "resnet32"], "it must be one of digits (8x8x1); lenet28, cnn28"),
        (["--data", "nowhere"], "data is 'nowhere', which does not exist, but must be \"digits\" or a folder"),
        (["--out", "."], "out is '.', which exists; it must be a new folder"),
        (["--out", "file/run"], "out is 'file/run', which cannot be created"),
        (["--out", "dangling/run"], "out is 'dangling/run', which cannot be created"),
        (["--out", 300 * "x"], "File name too long"),
        (["--data", ""], "data is '' but must be"),
        (["--data", "\udcff"], "data is '\\udcff' but must be a name in UTF-8"),
        (["--data", 5000 * "x"], "File name too long"),
        (["--seed", 2**32], "seed is 4294967296 but must be at least 0 and below 2**32"),
        (["--optimizer", "adam", "--momentum", 0.9], "momentum is 0.9 but adam has none; it must be left out"),
        (["--optimizer", "adam", "--weight-decay", 0.1], "weight_decay is 0.1 but adam has none"),
        (["--optimizer", "nesterov", "--momentum", 0], "SGD: nesterov is True but momentum is 0"),
        (["--optimizer", "lbfgs"], "optimizer is 'lbfgs' but must be one of sgd, nesterov, adam, adamw"),
        (["--dtype", "float8"], "dtype is 'float8' but must be one of float32, bfloat16, float64"),
        (["--devices", 0], "devices is 0 but must be at least 1"),
        (["--devices", 99], "devices is 99 but must be at most 8, those of JAX; a CPU is one device, unless XLA_FLAGS"),
        (["--devices", 3], "batch_size is 32 but must be a multiple of 3: 3 devices times 1 parts"),
        (["--accumulate", 5], "batch_size is 32 but must be a multiple of 5: 1 devices times 5 parts"),
        (["--sharded"], "sharded is True but mesh is None; it must be a mesh of several devices"),
        (["--precision", "float16"], "precision is 'float16' but must be one of full, mixed"),
        (["--precision", "mixed", "--dtype", "float64"], "precision is 'mixed' but dtype is 'float64'; it must be"),
        (["--processes", 2], "processes is 2 but coordinator is None; it must be HOST:PORT"),
        (["--coordinator", "auto", "--process", 0], "process is 0 but coordinator is auto; it must be HOST:PORT"),
        (["--coordinator", "here", "--processes", 2], "coordinator is 'here' but must be HOST:PORT, the address of"),
        (["--coordinator", "a:1", "--processes", 2], "coordinator is 'a:1' but process is missing; it must be given"),
        (
            ["--coordinator", "a:1", "--processes", 2, "--process", 2],
            "process is 2 but must be from 0 to 1, one less than processes",
        ),
        (["--config", "none.toml"], "none.toml: cannot be read (No such file or directory); it must be a TOML file"),
        (["--config", "file", "--preset", "lenet5"], "preset and config are both given"),
        (["--resume", "nowhere"], "resume is 'nowhere' but must be the folder of a run"),
        (["--resume", "."], "run is 'model.safetensors', which holds no model.safetensors"),
        (
            ["--resume", ".", "--seed", 3],
            "resume is given with seed but must be given with data, epochs, patience",
        ),
        (["--resume", ".", "--out", "x"], "resume is given with out but must be given with data, epochs"),
        (["--resume", ".", "--config", "file"], "config and resume are both given; they must be given one at a time"),
        (["--patience", 3], "patience is 3 but validation is 0; it must be above 0"),
        (["--patience", 0, "--validation", 0.1], "patience is 0 but must be at least 1"),
        (["--validation", 1], "validation is 1.0 but must be at least 0 and below 1"),
        (["--resize", "3x"], "resize is '3x' but must be a size such as 32, or 32x48 for height x width"),
        (["--resize", "0"], "resize is (0, 0) but must be a height and a width from 1 to 16383"),
        (["--augment", "flip,spin"], "augment is 'spin' but must be one of crop:PIXELS, shift:PIXELS, flip"),
        (["--warmup", 60], "warmup is 60 but must be below epochs, 60"),
        (["--schedule", "linear"], "schedule is 'linear' but must be one of constant, cosine, step"),
        (["--clip", 0], "clip is 0.0 but must be above 0"),
        (["--average", 1], "average is 1.0 but must be at least 0 and below 1"),
        (["--smoothing", 0.1, "--loss", "squared-error"], "smoothing is 0.1 but squared-error has none"),
        (["--save-every", 0], "save_every is 0.0 but must be above 0 minutes"),
        (["--keep", -1], "keep is -1 but must be at least 0"),
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


def test_memory_that_is_not_there_is_one_sentence(capsys):
    lends = Path("/proc/sys/vm/overcommit_memory")
    if lends.exists() and lends.read_text().strip() == "1":
        pytest.skip("this system lends any amount, and ends the process that uses it")
    Path("padded.toml").write_text("padding = 16000")
    assert run("train", "--config", "padded.toml", "--out", "run") == 2
    assert capsys.readouterr().err.startswith("jaxcnn: there is not enough memory: Unable to allocate")
    assert not Path("run").exists()


def test_a_full_disk_names_the_file(capsys, monkeypatch, few_digits):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    monkeypatch.setattr(os, "fsync", full)
    assert run("train", "--epochs", 1, "--out", "r") == 2
    assert capsys.readouterr().err == "jaxcnn: r/recipe.toml: No space left on device\n"
    assert list(Path("r").iterdir()) == []


def test_a_disk_that_is_full_later_says_how_to_go_on(capsys, monkeypatch, few_digits):
    fsync, calls = os.fsync, []

    def full_at_last(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    monkeypatch.setattr(os, "fsync", full_at_last)
    assert run("train", "--epochs", 9, "--out", "r", "--quiet") == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"jaxcnn: r/\S+: No space left on device; what was kept .* go on with: .* --resume r\n", err)
    monkeypatch.setattr(os, "fsync", fsync)
    assert run("train", "--resume", "r", "--quiet") == 0


def test_the_progress_fits_80_columns_from_the_first_second(few_digits):
    terminal = io.StringIO()
    printed = Printed(Console(file=terminal, width=80, force_terminal=True, force_jupyter=False))
    recipe = SimpleNamespace(epochs=1000)
    trained = SimpleNamespace(recipe=recipe, steps=12345, validation=None, network=Flatten())
    with printed.bar:
        for stage in (
            lambda: printed.on_stage("checking the gradient"),
            lambda: printed.on_checked(trained, 1e-16, Progress(SimpleNamespace(step=0))),
            lambda: printed.on_stage("compiling the training step"),
            lambda: printed.on_steps(
                trained, Progress(SimpleNamespace(step=999), ({},) * 99, np.full(9, 12.5), seconds=0.01)
            ),
        ):
            stage()
            printed.bar.refresh()
    drawn = [re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", terminal.getvalue())]
    assert max(map(len, drawn)) <= 80
    for shown in ("checking the gradient ━", "compiling the training step ━", "epoch 100/1000  loss 12.5000 ━"):
        assert any(line.startswith(shown) for line in drawn)
    assert any(re.search(r" 900 steps/s +[\d:-]+$", line) for line in drawn)


def test_output_that_is_no_terminal_gets_lines(capsys, monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    assert run("train", "--epochs", 20, "--batch-size", 32, "--out", "r") == 0
    out, err = capsys.readouterr()
    assert re.findall(r"^epoch +(\d+) ", out, re.M) == [str(n) for n in range(2, 21, 2)]
    assert "\x1b" not in out + err


def test_quiet_prints_nothing_and_json_alone(capsys, monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    assert run("train", "--epochs", 1, "--batch-size", 32, "--out", "r", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert run("train", "--epochs", 1, "--batch-size", 32, "--out", "s", "--quiet", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["run"] == "s"
    assert err == ""


def test_an_interrupted_run_keeps_what_it_has(capsys, monkeypatch):
    def interrupted(*args, on_epoch, **kwargs):
        on_epoch(Progress(args[3], ({"epoch": 1, "step": 9, "loss": 1.0, "accuracy": 0.5},)))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "fit", interrupted)
    assert run("train", "--out", "half") == 130
    assert capsys.readouterr().err.strip().endswith("jaxcnn: interrupted")
    assert run("evaluate", "half", "--json") == 0
    assert len(Path("half/metrics.jsonl").read_text().splitlines()) == 1
    assert Path("half/curves.png").exists()


def test_a_failed_gradient_check_trains_nothing(capsys, monkeypatch):
    monkeypatch.setattr(experiment.verify, "check_network", lambda *arguments: 0.5)
    assert run("train") == 1
    assert "jaxcnn: the hand-written gradient differs from jax.grad by 5.0e-01" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_dangling_default_folder_is_refused(capsys):
    Path("runs").symlink_to("nowhere")
    assert run("train") == 2
    assert "out is 'runs', which cannot be created" in capsys.readouterr().err


@pytest.mark.usefixtures("on_cpu_alone")  # on a GPU it is not
def test_the_recipe_of_a_run_repeats_it_bit_for_bit(capsys, monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    options = ("--epochs", 2, "--batch-size", 16, "--seed", 5, "--optimizer", "nesterov", "--loss", "squared-error")
    assert run("train", *options, "--out", "one", "--json") == 0
    assert run("train", "--config", "one/recipe.toml", "--out", "two", "--json") == 0
    assert run("train", "--config", "one/recipe.toml", "--seed", 6, "--out", "three", "--json") == 0
    capsys.readouterr()
    assert Path("one/recipe.toml").read_bytes() == Path("two/recipe.toml").read_bytes()
    one, two, three = (load_run(Path(name)).checkpoint for name in ("one", "two", "three"))
    assert one.info == two.info != three.info
    same = [jax.tree.map(np.array_equal, one.params, other.params) for other in (two, three)]
    assert all(jax.tree.leaves(same[0]))
    assert not any(same[1][name]["weight"] for name in same[1])


def test_a_run_is_resumed_and_its_options_are_its_own(capsys, monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)
    options = (
        "--batch-size",
        16,
        "--schedule",
        "step",
        "--warmup",
        1,
        "--clip",
        1,
        "--smoothing",
        0.1,
        "--average",
        0.9,
    )
    changes = ("--augment", "shift:1,cutout:2", "--validation", 0.2, "--optimizer", "adamw")
    assert run("train", "--epochs", 4, *options, *changes, "--out", "r", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert run("train", "--resume", "r", "--json") == 0  # there is nothing left to do
    again, err = capsys.readouterr()
    assert "going on after 4 epochs, 16 updates" in err
    assert json.loads(again)["accuracy"] == first["accuracy"]
    assert run("train", "--resume", "r", "--epochs", 6, "--patience", 9, "--json") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 6
    recipe = Recipe.read("r/recipe.toml")
    assert (recipe.schedule, recipe.warmup, recipe.clip, recipe.smoothing, recipe.average) == ("step", 1, 1.0, 0.1, 0.9)
    assert (recipe.augment, recipe.epochs, recipe.patience) == (("shift:1", "cutout:2"), 6, 9)


def test_a_folder_of_photographs_is_resized_trained_and_its_classes_named(capsys, rng):
    import PIL.Image

    for label in ("cat & dog", "frog"):
        Path("photos", label).mkdir(parents=True)
        for i in range(20):
            size = rng.integers(30, 50, 2)
            gray = PIL.Image.fromarray((rng.random(size) * 100 + 100 * (label == "frog")).astype(np.uint8))
            gray.convert("RGB").save(f"photos/{label}/{i}.jpg")
    assert run("train", "--data", "photos", "--epochs", 1) == 2
    assert "or be resized to one (--resize)" in capsys.readouterr().err
    arguments = ("--data", "photos", "--resize", "28x28", "--model", "lenet28", "--epochs", 12, "--batch-size", 8)
    assert run("train", *arguments, "--validation", 0.2, "--out", "r", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["accuracy"] == 1
    assert "photos: 26 images of 28x28x3 to train, 6 held out, 8 to test; 2 classes" in err
    assert run("predict", "r", "photos/cat & dog/0.jpg", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["images"]
    assert found["class"] == "cat & dog"
    assert run("evaluate", "r", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1
    Path("photos/frog/more.jpg").write_bytes(Path("photos/frog/0.jpg").read_bytes())  # the split is another now
    for command in (("evaluate", "r"), ("plot", "r"), ("train", "--resume", "r", "--epochs", 13)):
        assert run(*command) == 2
        assert "whose images are not those that this run was trained on" in capsys.readouterr().err
    assert run("evaluate", "r", "--data", "photos") == 0

"""The commands as a user meets them: what they print, what they write, how they fail."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

UNIT = {"mean": 0, "std": 1, "padding": 0}


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
        (["verify", "jax.nn:relu", "--args", "f32[0]"], "check_rule: x has shape (0,) but must have an entry"),
        (["verify", "jax.nn:relu", "--args", "f32[100000,100000]"], "must have at most 2,097,152"),
        (
            ["verify", "jax.nn:relu", "--args", "f32[3]", "--plain", "jax.numpy:add"],
            "plain of relu(float64[3]) cannot be called: TypeError",
        ),
        (
            ["verify", "jax.nn:relu", "--args", "f32[3]", "--plain", "jax.numpy:sum"],
            "plain of relu(float64[3]) returns arrays of shapes [()] but must return [(3,)]",
        ),
        (["verify", "--plain", "jax.nn:relu"], "plain is given but no function"),
        (["verify", "jax.nn:relu", "--args", "f32[2]", "--html", "no/page.html"], "its folder must exist"),
        (["verify", "jax.nn:relu", "--args", "f32[2]", "--html", "."], "html is '.' but must be a file"),
        (["verify", "--mutants", "--thorough"], "thorough is given with mutants"),
        (["verify", "--soak", "0"], "soak is 0 but must be at least 1"),
        (["verify", "--op", "conv3d"], "op is 'conv3d' but must be one of conv2d, conv_transpose2d, max_pool2d"),
        (["tarin"], "tarin"),
        (["--nonsense"], "; see jaxcnn --help\n"),
        (["train", "--lr", 0.1], "; see jaxcnn train --help\n"),
        (["train", "--epochs"], "; see jaxcnn train --help\n"),
        (["diagnose"], "; see jaxcnn diagnose --help\n"),
        (["summary", "lenet28"], "lenet28 must come after its option, --model lenet28; see jaxcnn summary --help\n"),
        (["train", "adam"], "adam must come after its option, --optimizer adam;"),
        (["train", "digits"], "digits must come after its option, --data digits;"),
        (["train", "broken", 2], "broken must come after its option, --data broken;"),
        (["train", 5000 * "x"], "; see jaxcnn train --help\n"),
        (["summary", "broken"], "(broken); see jaxcnn summary --help\n"),
        (["verify", "conv2d"], "must be module:function; the operation is --op conv2d"),
        (["train", "\u2014epochs", 2], "an option must begin with two hyphens: --epochs\n"),
        (["verify", "\u2014\u2014op=relu"], "an option must begin with two hyphens: --op\n"),
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


def test_help_teaches(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "diagnose", "summary", "verify"))
    assert run("train", "--help") == 0
    out = capsys.readouterr().out
    for flag in ("data", "model", "epochs", "batch-size", "learning-rate", "momentum", "weight-decay", "seed", "loss",
                 "optimizer", "dtype", "target-error", "out", "json"):  # fmt: skip
        assert f"--{flag}" in out
    assert "(32x32x3)" in out
    assert set(re.findall(r"--data (\w+)", out)) == {"FOLDER"}


def test_what_a_terminal_cannot_show_is_spelled():
    assert "a· ±█ é n\udcff".encode("ascii", "jaxcnn") == b"a. +-# ? n\xff"


@pytest.mark.parametrize("arguments", [("summary",), ("--help",)])
def test_a_full_disk_under_stdout_gets_one_sentence(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "jaxcnn", *arguments], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"jaxcnn: stdout: No space left on device\n"


def test_a_closed_stdout_is_no_fault(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run("summary") == 0


def test_without_the_extra_the_command_says_what_to_install(tmp_path):
    script = "import sys; sys.modules['typer'] = None\nfrom jaxcnn.cli import main\nmain(['train'])\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "jaxcnn: the command line needs more packages: pip install '.[cli]' in a checkout"


def test_no_command_shows_the_help(capsys):
    assert run() == 2
    out, err = capsys.readouterr()
    assert "Start with: jaxcnn train" in out + err
    assert "jaxcnn: " not in err

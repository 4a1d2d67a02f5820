"""The measurement on a GPU, part by part on what is here: small sizes, no figure is looked at."""

import json
import time

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed import gpu, operations, text, wrong
from benchmarks.speed.precision import FLOAT32
from jaxcnn import InputError


def part(name, log):
    log.append(name)
    yield {"table": name}


def test_parts_are_done_in_order_and_what_fails_or_comes_too_late_is_left_out():
    def failing():
        yield {"table": "half"}
        raise ValueError("out of memory\nat once")

    def endless():
        yield {"table": "begun"}
        try:
            time.sleep(1000)
        except Exception:  # as careless code would
            time.sleep(1000)

    log, saved, said, result = [], [], [], {"rows": [], "left_out": {}}
    parts = {"first": part("first", log), "bad": failing(), "second": part("second", log), "long": endless()}
    parts["last"] = part("last", log)
    gpu.do(iter(parts.items()), 0.5, result, said.append, lambda result: saved.append(len(result["rows"])))
    assert [row["table"] for row in result["rows"]] == ["first", "half", "second", "begun"]
    late = "the time was over"
    assert result["left_out"] == {"bad": "ValueError: out of memory", "long": late, "last": late}
    assert (log, said, saved) == (["first", "second"], ["first", "bad", "second", "long"], [1, 2, 3, 4])


def test_the_alarm_is_off_behind_its_block():
    with gpu.alarm(0.05):
        pass
    time.sleep(0.1)


def test_the_gradient_of_max_pooling_is_the_same_in_every_run_and_what_is_refused_is_recorded():
    rows = list(gpu.determinism((2, 8, 8, 3), 3, ({}, {"xla_no_such_option": True})))
    assert [(row["precision"], row["options"], row["variant"]) for row in rows] == [
        (precision, options, variant)
        for precision in ("float32", "bfloat16")
        for options in ("", "xla_no_such_option=True")
        for variant in ("ours", "jax.grad")
    ]
    for row in rows:
        if row["options"]:
            assert "xla_no_such_option" in row["refused"]
            assert "equal" not in row
        else:
            assert row["runs"] == 3
            assert row["equal"] == 3 or (row["variant"] == "jax.grad" and gpu.jax.default_backend() != "cpu")


def test_runs_that_differ_are_counted(monkeypatch):
    real, calls = gpu.jax.jit, []

    def jit(f, compiler_options=None):
        program = real(f)
        if compiler_options is None:  # what leads to the gradient
            return program

        def restless(*args):
            calls.append(f)
            return program(*args) + (len(calls) % 3 == 2)

        return restless

    monkeypatch.setattr(gpu.jax, "jit", jit)
    rows = list(gpu.determinism((1, 4, 4, 1), 3, ({},)))
    assert [row["equal"] for row in rows] == [2, 2, 2, 2]


def test_the_verifier_is_counted_and_its_failures_told():
    (row,) = gpu.verifications(["relu"])
    assert row["checks"] > 10
    assert row["failures"] == []


def test_everything_is_measured_shown_and_saved(monkeypatch):
    small = operations.Workload("avg_pool2d", 4, (3, 3), 2)
    monkeypatch.setattr(gpu, "precisions", lambda: (FLOAT32,))
    for name, value in (
        ("BATCH", 4),
        ("LARGE", 4),
        ("STEP_SECONDS", 0.01),
        ("OPERATION_SECONDS", 0.01),
        ("SHAPE", (1, 4, 4, 1)),
    ):
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(operations, "CASES", (small,))
    monkeypatch.setattr(operations, "SIZE", 8)
    monkeypatch.setattr(gpu, "determinism", lambda: part("determinism", []))
    saved, said = [], []
    result = gpu.measure_gpu(
        ["lenet28"],
        "avg_pool2d",
        peer_names=[],
        verified=["relu"],
        report=said.append,
        save=lambda result: saved.append(json.dumps(result)),
    )
    expected = ["determinism", "step of lenet28, float32", "verify", "dispatch", "matrix product, float32"]
    assert said == [*expected, "avg_pool2d 2x2, 4x4x3, stride 2, float32"]
    assert result["left_out"] == {}
    tables = [row["table"] for row in result["rows"]]
    steps, verified, forward_and_dx = ["step"] * 4, ["verify"], ["operation"] * 4
    assert tables == ["determinism", *steps, *verified, "dispatch", "product", *forward_and_dx]
    assert all(row["milliseconds"] > 0 for row in result["rows"] if row["table"] in ("step", "operation"))
    assert json.loads(saved[-1]) == result
    assert len(saved) == len(said)
    result["rows"] = result["rows"][1:]
    assert wrong(result["rows"]) == []
    assert "checks of the hand-written backwards" in text(result)


def test_peers_that_are_absent_are_left_out_and_the_rest_goes_on(tmp_path, monkeypatch):
    for name in ("torch", "flax"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu, "determinism", lambda: part("determinism", []))
    result = gpu.measure_gpu([], None, peer_names=["torch", "flax"], verified=[])
    assert set(result["left_out"]) == {"torch", "flax"}
    assert result["rows"] == [{"table": "determinism"}]


@pytest.mark.parametrize(
    ("nets", "op", "peers", "sentence"),
    [
        (["lenet5"], None, [], "net is 'lenet5' but must be one of lenet28, cnn28, vgg32, resnet32, resnet20"),
        ([], "pool", [], "op is 'pool' but must be one of conv2d, max_pool2d, avg_pool2d, all"),
        ([], None, ["jacks"], "peers has 'jacks' but must be some of torch, flax, equinox"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_is_measured(nets, op, peers, sentence):
    with pytest.raises(InputError, match=f"^{sentence}$"):
        gpu.measure_gpu(nets, op, peer_names=peers)


def test_without_a_gpu_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(command, "measure_gpu", None)
    out = tmp_path / "gpu.json"
    assert command.main(["--gpu", "--out", str(out)]) == 2
    assert capsys.readouterr() == ("", "speed: gpu is given but the device of JAX is a cpu; it must be a GPU\n")
    assert not out.exists()


def test_the_command_writes_after_every_part(tmp_path, monkeypatch, capsys):
    asked = {}

    def measure_gpu(names, op, *, peer_names, report, save):
        asked.update(names=names, op=op, peer_names=peer_names)
        result = {"device": "a GPU", "cores": 2, "versions": {}, "left_out": {}, "rows": []}
        save(result)
        assert json.loads(out.read_text()) == result
        return result | {"left_out": {"flax": "no time"}}

    monkeypatch.setattr(command.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(command, "measure_gpu", measure_gpu)
    monkeypatch.setattr(command, "GPU_RESULT", out := tmp_path / "gpu.json")
    assert command.main(["--gpu"]) == 0
    assert asked == {"names": list(command.NETS), "op": "all", "peer_names": ("torch", "flax")}
    assert "left out: flax: no time" in capsys.readouterr().out
    out = tmp_path / "other.json"
    assert command.main(["--gpu", "--net", "lenet28", "--peers", "torch", "--out", str(out)]) == 0
    assert asked == {"names": ["lenet28"], "op": None, "peer_names": ["torch"]}

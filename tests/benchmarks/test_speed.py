"""The benchmark as a product: what it refuses, what it shows; a wrong answer has no time. Nothing here is timed."""

import dataclasses
import json
import math
import re
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import others, speed
from benchmarks.speed import lax_nets, nets, numerics, operations, peers, precision, timing
from benchmarks.speed.__main__ import main
from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    InputError,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Softmax,
    relu_after_pool,
)

SMALL = Sequential(
    (
        Conv2d(3, 3, padding=1),
        ReLU(),
        MaxPool2d(2),
        Residual(Sequential((Conv2d(4, 3, stride=2, padding=1), ReLU())), Conv2d(4, 1, stride=2)),
        ReLU(),
        AvgPool2d((1, 2)),
        Flatten(),
        Dense(5),
    )
)
NORMED = Sequential(
    (
        Conv2d(3, 3, padding=1, bias=False),
        BatchNorm(),
        ReLU(),
        Residual(
            Sequential((Conv2d(4, 3, stride=2, padding=1, bias=False), BatchNorm(), ReLU())),
            Sequential((Conv2d(4, 1, stride=2, bias=False), BatchNorm(0.5))),
        ),
        Residual(Sequential((Conv2d(4, 3, padding=1, bias=False), BatchNorm()))),
        ReLU(),
        GlobalAvgPool2d(),
        Dense(5),
    )
)
IN_SHAPE, SAMPLES = (8, 12, 2), 4
FEWEST = SAMPLES * 4 * 6  # entries that a batch norm of NORMED has of a channel
ALLOWED = 2e-6  # for rounding alone: no decision of these flips


@cache
def drawn(network, samples=SAMPLES):
    """A task whose scales are not all 1 and whose biases are not all 0."""
    task = nets.Task.draw(network, IN_SHAPE, samples, precision.FLOAT32)
    moved = [w + 0.1 * np.cos(np.arange(w.size)).reshape(w.shape) for w in jax.tree.leaves(task.params)]
    params = jax.tree.unflatten(jax.tree.structure(task.params), [jnp.float32(w) for w in moved])
    return dataclasses.replace(task, params=params)


@pytest.fixture(scope="module", params=[SMALL, NORMED], ids=["small", "normed"])
def task(request):
    return drawn(request.param)


@cache
def truth_of(network):
    return nets.step_in_float64(network)(drawn(network))


@pytest.fixture(scope="module")
def truth(task):
    return truth_of(task.network)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--net", "lenet5"), "net is 'lenet5' but must be one of lenet28, cnn28, vgg32, resnet32, resnet20"),
        (("--op", "pool"), "op is 'pool' but must be one of conv2d, max_pool2d, avg_pool2d, all"),
        (("--peers", "torch,jacks"), "peers has 'jacks' but must be some of torch, flax, equinox"),
        (
            ("--out", "nowhere/a.json"),
            "out is 'nowhere/a.json', which cannot be written: it must be a file, its folder must exist",
        ),
        (("--batch", "32"), "batch is given but no op; it must be given with --op"),
        (("--op", "all", "--batch", "32,0"), "batch is '32,0' but must be integers of at least 1, by commas"),
        (("--op", "all", "--batch", "32,a"), "batch is '32,a' but must be integers of at least 1, by commas"),
        (("--gpu", "--busy"), "busy is given with gpu; it must be left out"),
        (("--out", "."), "out is '.', which cannot be written: it must be a file, its folder must exist"),
    ],
)
def test_what_is_unknown_is_refused_in_a_sentence(arguments, sentence, capsys):
    assert main(list(arguments)) == 2
    assert capsys.readouterr() == ("", f"speed: {sentence}\n")


def test_an_option_that_does_not_exist_is_refused_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--nets", "lenet28"])
    assert stopped.value.code == 2
    sentence = "unrecognized arguments: --nets lenet28; see python -m benchmarks.speed --help"
    assert capsys.readouterr() == ("", f"speed: {sentence}\n")


def test_the_command_shows_writes_and_says_whether_ours_is_wrong(tmp_path, monkeypatch, capsys):
    asked = {}

    def measure_all(names, op, *, report, **keywords):
        asked.update(keywords, names=names, op=op)
        report("what comes next")
        rows = [{"table": "numerics", "net": "lenet28", "precision": "float32", "batch": 128, "variant": "ours"}]
        rows[0] |= {"error": 0.5, "passed": False}
        return {"device": "cpu", "cores": 2, "versions": {"jax": "1"}, "left_out": {}, "rows": rows}

    monkeypatch.setattr("benchmarks.speed.__main__.measure_all", measure_all)
    out = tmp_path / "result.json"
    assert main(["--net", "lenet28", "--peers", "torch, flax", "--growth", "--json", "--out", str(out)]) == 1
    shown, said = capsys.readouterr()
    assert said == "what comes next\nspeed: ours is wrong: lenet28, numerics: error 0.5\n"
    assert json.loads(shown)["cores"] == 2
    assert out.read_text() == shown
    names = {"names": ["lenet28"], "op": None, "peer_names": ["torch", "flax"]}
    assert asked == {**names, "batches": [128], "growth": True, "exactness": False, "beside_others": False}
    main(["--op", "conv2d", "--batch", "1, 32", "--busy"])
    assert (asked["names"], asked["op"], asked["peer_names"]) == ([], "conv2d", speed.PEERS)
    assert (asked["batches"], asked["beside_others"]) == ([1, 32], True)
    assert capsys.readouterr().out.startswith("cpu, 2 cores; jax 1\n")
    main(["--peers", ""])
    assert (asked["names"], asked["peer_names"]) == (list(speed.NETS), [])


def test_a_step_is_checked_by_the_program_that_is_timed_and_a_wrong_one_has_no_time(task, truth):
    def wrong_step(network, learned, x, labels, rate):
        good, statistics = nets.our_step(network, learned, x, labels, rate)
        return good | {"dense1": {**good["dense1"], "bias": learned[0]["dense1"]["bias"]}}, statistics

    ours = nets.step_variant("ours", nets.our_step, None, task)
    wrong = nets.step_variant("wrong", wrong_step, None, task)
    scanned = nets.scan_variant("ours, scanned", nets.our_step, None, task)
    right, refused, epoch = timing.measure([ours, wrong, scanned], truth, 1e-4, seconds=0.05)
    assert right["error"] < ALLOWED
    assert right["ratio"] == 1.0
    assert right["quartiles"][0] <= right["milliseconds"] <= right["quartiles"][1]
    assert refused["error"] > 1e-2
    assert set(refused) == {"variant", "error"}
    assert epoch["error"] < ALLOWED
    assert epoch["ratio"] == pytest.approx(right["milliseconds"] / epoch["milliseconds"])


def test_a_step_that_forgets_the_moving_statistics_or_a_scan_that_does_not_carry_them_is_wrong():
    """jax.grad's step, which does neither, is right; all have the right gradient."""
    task, truth = drawn(NORMED), truth_of(NORMED)
    assert all(np.ptp(a) > 0.1 for a in task.flat(task.statistics))

    def forgetful(network, learned, x, labels, rate):
        return nets.our_step(network, learned, x, labels, rate)[0], learned[1]

    def not_carried(network, learned, x, labels, rate):
        return nets.our_step(network, (learned[0], task.statistics), x, labels, rate)

    for variant, right in (
        (nets.step_variant("it", forgetful, None, task), False),
        (nets.scan_variant("it, scanned", not_carried, None, task), False),
        (nets.scan_variant("it, scanned", nets.autodiff_step, None, task), True),
    ):
        answer = variant.answer()
        assert timing.distance(answer["gradient"], truth["gradient"]) < ALLOWED
        error = timing.distance(answer, truth)
        assert error < ALLOWED if right else error > 0.1


def test_the_truth_of_a_batch_norm_is_that_of_the_whole_batch(monkeypatch):
    """In chunks the means would be others; the variance of copies is made unbiased by their number."""
    monkeypatch.setattr(nets, "CHUNK", 2)
    monkeypatch.setattr(nets, "BATCH", SAMPLES)
    task = drawn(NORMED, 2 * SAMPLES)
    np.testing.assert_array_equal(task.x[:SAMPLES], task.x[SAMPLES:])
    truth = nets.step_in_float64(NORMED)(task)
    assert timing.distance(nets.step_variant("ours", nets.our_step, None, task).answer(), truth) < ALLOWED


def test_an_evaluation_takes_the_given_statistics(task):
    rows = nets.evaluation(task, {}, 0.01)
    assert [row["variant"] for row in rows if row["variant"] != "ours, default options"] == ["ours", "plain lax"]
    assert all(row["error"] < ALLOWED for row in rows)
    if task.statistics:
        others = jax.tree.map(lambda a: a[::-1], task.statistics)
        others = nets.outputs_in_float64(dataclasses.replace(task, statistics=others))
        assert timing.distance(others, nets.outputs_in_float64(task)) > 1e-2


def test_plain_batch_norm_is_the_formula():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 3, 2, 5))
    params = {name: np.linspace(a, b, 5) for name, a, b in (("scale", 1, 2), ("bias", -1, 5))}
    for mean, variance, given in ((x.mean((0, 1, 2)), x.var((0, 1, 2)), False), (np.arange(5), np.arange(1, 6), True)):
        statistics = {"mean": jnp.array(mean), "variance": jnp.array(variance)}
        y, batch = lax_nets.apply(BatchNorm(0.5), params | (statistics if given else {}), jnp.array(x))
        expected = params["scale"] * (x - mean) / np.sqrt(variance + 0.5) + params["bias"]
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        assert batch == {} if given else batch["count"] == 4 * 3 * 2


def test_more_error_is_allowed_with_batch_norm_for_what_its_layers_add_up_to():
    normed = drawn(NORMED)
    assert drawn(SMALL).allowed == precision.FLOAT32.allowed == 1e-3
    # the ReLUs have 8 x 12 x 3, 4 x 6 x 4 and 4 x 6 x 4 entries of a sample
    rounding = 0.1 * 2**-23 * sum(math.sqrt(4 * positions) for positions in (96, 24, 24))
    assert normed.allowed == pytest.approx(math.sqrt(3 * 1e-3**2 + rounding + 1 / (4 * 96)))
    assert dataclasses.replace(normed, x=normed.x[:1]).allowed > 1 / math.sqrt(96)


def test_compilation_and_memory_are_those_of_both_steps(task, monkeypatch):
    """Either step has room for the first convolution's output at least, 3 maps for the input's 2."""
    monkeypatch.setattr(nets, "COMPILATIONS", 1)
    rows = list(nets.compilation(task))
    assert [(row["table"], row["variant"]) for row in rows] == [
        (table, variant) for table in ("compile", "memory") for variant in ("ours", "jax.grad")
    ]
    assert all(row["seconds"] > 0 for row in rows[:2])
    assert all(row["bytes"] >= task.x.nbytes * 3 // 2 for row in rows[2:])


def test_what_is_not_finite_or_has_another_shape_is_infinitely_wrong():
    assert timing.distance([np.array([np.nan])], [np.ones(1)]) == math.inf
    assert timing.distance([np.ones((1, 2))], [np.ones(2)]) == math.inf
    (row,) = timing.measure([timing.Variant("ours", lambda: 1.0, lambda: [np.inf])], [np.ones(())], 1e-4, 0.01)
    assert row == {"variant": "ours", "error": None}


def test_weights_come_back_from_channels_first():
    task = drawn(SMALL)
    carried = peers.weights_of(SMALL, IN_SHAPE, task.params, channels_first=True)
    assert [weights[0].shape for weights in carried] == [(3, 2, 3, 3), (4, 3, 3, 3), (4, 3, 1, 1), (5, 2 * 1 * 4)]
    back = peers.brought_back(SMALL, IN_SHAPE, task.params, carried)
    for found, true in zip(back, task.flat(task.params), strict=True):
        np.testing.assert_array_equal(found, true)
    # what a column of the flattened CHW sees
    H, W, C = 2, 1, 4
    true = np.asarray(task.params["dense1"]["weight"]).reshape(H, W, C, 5)
    np.testing.assert_array_equal(carried[-1][0].reshape(5, C, H, W)[1, 3, 1, 0], true[1, 0, 3, 1])


def evaluated_first(peer, task):
    """In the child: what a peer's network evaluates, and what it learns after that."""
    module = peers.module_of(peer)

    def answer(net):
        outputs = [net.outputs()]
        return nets._peer_answer(module, task, net) | {"outputs": outputs}

    found = nets._peer_nets(peer, task).items()
    return [timing.Variant(name, lambda: 1.0, partial(answer, net)) for name, net in found]


def test_peers_that_are_installed_compute_the_same():
    """Flax and Equinox move the biased variance, which is the share 1/n too small."""
    with peers.started(peers.PEERS) as (children, versions, left_out):
        assert set(children) | set(left_out) == set(peers.PEERS)
        assert set(children) <= set(versions)
        for network in (SMALL, NORMED):
            task = drawn(network)
            truth = truth_of(network) | {"outputs": nets.outputs_in_float64(task)}
            variants = nets.of_all(children, nets.peer_steps, task)
            assert {re.split("[,.]", variant.name)[0] for variant in variants} == set(children)
            assert all(variant.turn() > 0 for variant in variants)
            if network is NORMED:
                evaluated = nets.of_all(children, evaluated_first, task)
                assert [variant.name for variant in evaluated] == [variant.name for variant in variants]
                variants += evaluated
            for variant in variants:
                for name, answer in variant.answer().items():
                    biased = name == "statistics" and not variant.name.startswith("torch")
                    error = timing.distance(answer, truth[name])
                    assert error < ALLOWED + (1 / FEWEST if biased else 0), (variant.name, name)
        if "torch" in children:
            rows = list(operations.dispatch(children, 0.01))
            assert [(row["variant"], row["error"]) for row in rows] == [("ours", 0), ("torch", 0)]


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "run wait run wait"), ("gpu", "run wait run run run wait")])
def test_on_a_gpu_several_runs_are_begun_before_the_last_is_waited_for(monkeypatch, backend, expected):
    """By a clock on which a run takes a second; the turn's seconds are those of one run."""
    done = []
    monkeypatch.setattr(timing, "QUEUED", 3)
    monkeypatch.setattr(timing.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(done.count("run")))
    assert timing.in_turn(lambda: done.append("run"), lambda _: done.append("wait"))() == 1.0
    assert " ".join(done) == expected


def test_peers_that_are_absent_are_named(tmp_path, monkeypatch):
    for name in ("torch", "flax"):  # as if it were not installed
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')")
    (tmp_path / "equinox.py").write_text("raise RuntimeError('broken\\nfor good')")
    monkeypatch.syspath_prepend(tmp_path)
    said = []
    result = speed.measure_all([], None, report=said.append)
    reasons = {name: f"{name} is not installed (pip install '.[peers]')" for name in ("torch", "flax")}
    reasons["equinox"] = "equinox failed in its process: RuntimeError: broken"
    assert result["left_out"] == reasons
    assert said == [f"{name} is left out: {reason}" for name, reason in reasons.items()]
    assert result["rows"] == []


def test_other_peoples_rules_without_their_packages_get_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setattr(sys, "argv", ["others"])
    assert others.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "flax" in err
    assert err.endswith("; pip install '.[peers]'\n")
    assert err.count("\n") == 1


def test_imposed_decisions_are_those_of_the_gradient(task, truth):
    network = relu_after_pool(task.network)
    theirs = jax.jit(jax.grad(lambda p, decided: lax_nets.loss(network, p, task.x, task.labels, decided)[0]))
    decide = jax.jit(lambda x: numerics.decisions(network, network.forward(task.params, x, train=True)[1]))

    @jax.jit
    def ours(decided):
        outputs, residuals = network.forward(task.params, task.x, train=True)
        dy = nets.LOSS.backward(nets.LOSS.forward(outputs, task.labels)[1])
        return network.backward(numerics.imposed(network, residuals, decided), dy)[1]

    for x, right in ((task.x, True), (-task.x, False)):
        decided = decide(x)
        for grads in (ours(decided), theirs(task.params, decided)):
            assert (timing.distance(task.flat(grads), truth["gradient"]) < ALLOWED) is right


def test_an_operation_gets_a_row_for_each_variant_and_direction(monkeypatch):
    monkeypatch.setattr(operations, "SIZE", 8)
    monkeypatch.setattr(operations, "precisions", lambda: (precision.FLOAT32,))
    case = operations.Workload("max_pool2d", 4, (3, 3), 2)
    assert str(case) == "2x2, 4x4x3, stride 2"
    dispatch, product, *rows = operations.operations((case,), (1, 2), {}, 0.01, lambda line: None)
    assert (dispatch["table"], dispatch["error"]) == ("dispatch", 0)
    assert product["gigaflops"] == pytest.approx(2 * 8**3 / (product["milliseconds"] / 1e3) / 1e9)
    assert [(row["batch"], row["direction"], row["variant"]) for row in rows] == [
        (batch, direction, variant)
        for batch in (1, 2)
        for direction in ("forward", "dx")
        for variant in ("ours", "jax.grad")
    ]
    assert all(row["error"] == 0 and row["milliseconds"] > 0 for row in rows)


def test_a_batch_twice_as_large_is_worth_a_product_twice_as_long():
    case = operations.Workload("conv2d", 4, (3, 2), 3)
    given = (precision.FLOAT32, {"milliseconds": 1.0}, {}, 0.0)
    one, two = (next(operations.case_rows(case, batch, *given))["product_milliseconds"] for batch in (1, 2))
    assert one == 1 * 2 * 2 * 2 * 3 * 3 * 3 / operations.SIZE**3
    assert two == 2 * one


@pytest.mark.parametrize("network", [SMALL, NORMED], ids=["small", "normed"])
def test_residual_bytes_are_counted_for_both(network):
    ours, theirs = nets.residuals("it", network, IN_SHAPE)
    assert ours["bytes"] < theirs["bytes"]
    # the plain pooling keeps its input and a mask of relu's
    assert theirs["bytes"] > nets.BATCH * 8 * 12 * 3 * 4


def operation(variant, direction, milliseconds, **more):
    about = {"table": "operation", "op": "conv2d", "case": "3x3", "direction": direction, "precision": "float32"}
    return (
        about
        | more
        | {
            "variant": variant,
            "milliseconds": milliseconds,
            "product_milliseconds": 1.0,
            "error": 1e-7,
        }
    )


def test_tables_show_ratios_the_wrong_and_the_slow():
    times = {"milliseconds": 2.0, "quartiles": [1.5, 12.0], "ratio": 1.0, "ratio_quartiles": [1.0, 1.0], "rounds": 5}
    step = {"table": "step", "net": "lenet28", "precision": "float32", "batch": 128, "error": 1e-7}
    rows = [
        {**step, "variant": "ours", **times},
        {**step, "variant": "torch", **times, "ratio": 0.8, "ratio_quartiles": [0.75, 0.9]},
        {**step, "variant": "flax", "error": 0.5},
        operation("ours", "dx", 3.2),
        operation("torch", "dx", 4.0),
        operation("torch, channels last", "dx", 2.0),
        operation("ours", "dweight", 2.2),
        operation("torch", "dweight", 2.0),
    ]
    result = {"device": "cpu", "cores": 2, "versions": {"jax": "1"}, "left_out": {}, "rows": rows}
    assert json.loads(json.dumps(result)) == result
    assert speed.markdown(result).splitlines() == [
        "| ours / | torch | flax | ours, ms |",
        "|---|---|---|---|",
        "| lenet28 | 0.80 (0.75-0.90) | - | 2.00 |",
    ]
    assert speed.slower_than_torch(rows) == {"conv2d, 3x3, dx": 1.6}
    shown = speed.text(result)
    assert "more than 1.15 times PyTorch: conv2d, 3x3, dx, 1.6" in shown
    (marked,) = [line for line in shown.splitlines() if line.endswith("<-")]
    assert " dx " in marked
    (refused,) = [line for line in shown.splitlines() if "flax" in line]
    assert "wrong" in refused
    assert speed.wrong(rows) == []
    assert speed.wrong([{**step, "variant": "ours", "error": 0.5}]) == ["lenet28, step: error 0.5"]


def test_operations_of_a_millisecond_are_marked_sooner_than_short_ones_and_counted_by_batch():
    times = [(32, 1.3, 0.9), (32, 0.98, 0.7), (32, 0.8, 0.5), (128, 1.1, 1.0), (128, 2.4, 2.0)]
    rows = []
    for i, (batch, ours, torch) in enumerate(times):
        rows += [operation("ours", f"dx{i}", ours, batch=batch), operation("torch", f"dx{i}", torch, batch=batch)]
    slow = [f"conv2d, 3x3, dx{i}, batch {batch}, float32" for i, batch in ((0, 32), (2, 32), (4, 128))]
    assert list(speed.slower_than_torch(rows)) == slow
    result = {"device": "cpu", "cores": 2, "versions": {}, "left_out": {"flax": "no time"}, "rows": rows}
    shown = [line.split() for line in speed.text(result).splitlines()]
    assert ["32", "float32", "3", "1.44", "2"] in shown
    assert ["128", "float32", "2", "1.15", "1"] in shown
    assert "one operation at batch 32, 128, ms" in speed.text(result)
    assert "more than 1.15 times PyTorch: conv2d, 3x3, dx0, batch 32, float32, 1.4" in speed.text(result)
    assert "more than 1.5 times PyTorch: conv2d, 3x3, dx2, batch 32, float32, 1.6" in speed.text(result)
    assert "left out: flax: no time" in speed.text(result)


def test_what_failed_what_differs_and_what_the_verifier_found_is_shown_and_ours_is_wrong():
    about = {"op": "max_pool2d", "variant": "ours", "precision": "float32", "options": "", "runs": 20}
    rows = [
        {"table": "step", "net": "vgg32", "precision": "float32", "batch": 128, "variant": "ours", "error": None}
        | {"failed": "ours broke"},
        {"table": "determinism", **about, "equal": 19},
        {"table": "determinism", **about, "refused": "no such option"},
        {"table": "determinism", **about, "equal": 20},
        {"table": "determinism", **about, "variant": "jax.grad", "refused": "no deterministic form"},
        {"table": "verify", "op": "relu", "variant": "ours", "checks": 3, "failures": ["relu(x): dx"]},
        {"table": "dispatch", "call": "nothing", "variant": "ours", "error": 0, "milliseconds": 0.012},
    ]
    assert speed.wrong(rows) == [
        "vgg32, step: ours broke",
        "max_pool2d, determinism: the runs differ",
        "max_pool2d, determinism: no such option",
        "relu, verify: relu(x): dx",
    ]
    shown = speed.text({"device": "gpu", "cores": 2, "versions": {}, "left_out": {}, "rows": rows})
    for words in ("failed", "19 of 20 equal", "refused: no deterministic form", "12.0", "ours broke"):
        assert words in shown


def test_twice_the_channels_is_the_same_network_with_wider_convolutions():
    wider = nets._wider(SMALL)
    assert wider.output_shape(IN_SHAPE) == (5,)
    params = jax.eval_shape(lambda: wider.init(jax.random.key(0), IN_SHAPE))
    assert params["residual1"]["body"]["conv1"]["weight"].shape == (3, 3, 6, 8)
    assert params["dense1"]["weight"].shape == (16, 5)


def test_a_layer_without_a_plain_form_is_named():
    with pytest.raises(InputError, match="layer is Softmax but must be one of those that the benchmark knows"):
        lax_nets.apply(Softmax(), {}, jnp.ones((1, 2)))

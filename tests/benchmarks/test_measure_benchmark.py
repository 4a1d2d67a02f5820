"""The benchmark of the samples' measures: who finds what float64 finds, and that a wrong answer has no time."""

import json
from functools import cache

import jax
import pytest

from benchmarks import measure as benchmark
from benchmarks.measure import steps
from benchmarks.measure.__main__ import main
from benchmarks.speed import nets, peers, precision, timing

SAMPLES, ALLOWED = 4, 5e-6  # for rounding alone: no decision of so few samples flips
OF_PLAIN_STEP = "plain"


@cache
def drawn():
    network, in_shape = nets.find_net("lenet28")
    return nets.Task.draw(network, in_shape, SAMPLES, precision.FLOAT32)


@cache
def truth():
    return steps.truth_of(drawn())


def errors(variants, of):
    """Of each answer by the variant's name, in the parts that it is asked for."""
    right, _ = truth()
    parts = {name: steps.PARTS[OF_PLAIN_STEP if name == "plain step" else of] for name in (v.name for v in variants)}
    asked = [steps.checked_by(variant, parts[variant.name], right) for variant in variants]
    return {variant.name: timing.distance(variant.answer(), right) for variant in asked}


def test_in_float64_some_samples_are_clipped_and_some_are_not():
    right, limit = truth()
    assert 0 < (right["norms"][0] > limit).sum() < SAMPLES
    assert timing.distance(right["clipped"], right["gradient"]) > 1000 * ALLOWED


@pytest.mark.parametrize("of", benchmark.MEASURES)
def test_ours_and_those_by_vmap_find_what_float64_finds(of):
    variants, needed = benchmark.in_jax(of, drawn(), truth()[1])
    in_jax = ["plain step", "ours", *(["vmap(grad)"] if of in steps.PLAIN_JAX else [])]
    assert list(needed) == [variant.name for variant in variants] == in_jax
    assert all(error < ALLOWED for error in errors(variants, of).values())
    parameters = sum(w.nbytes for w in jax.tree.leaves(drawn().params))
    assert needed["ours"] > (1 + SAMPLES * (of == "samples")) * parameters


def test_libraries_that_are_installed_find_what_float64_finds():
    with peers.started(benchmark.PEERS) as (children, versions, left_out):
        assert set(children) | set(left_out) == set(benchmark.PEERS)
        assert set(children) == set(versions)
        for peer, child in children.items():
            for of in benchmark.PEERS[peer]:
                variants = child.variants(steps.peer_variants, peer, of, drawn(), truth()[1])
                found = errors(variants, of)
                assert set(found) <= set(benchmark.OTHERS)
                assert all(error < ALLOWED for error in found.values()), (of, found)


def test_a_wrong_measure_has_no_time_and_is_named(monkeypatch, capsys):
    """Norms that are the norm of the mean, and a clipped mean that clips nothing, with the right gradient."""

    def of_the_mean(network, limit, params, x, labels):
        grads, found = steps.our_norms(network, limit, params, x, labels)
        return grads, {"norms": 0 * found["norms"] + sum((g**2).sum() for g in jax.tree.leaves(grads)) ** 0.5}

    monkeypatch.setitem(steps.OURS, "norms", of_the_mean)
    monkeypatch.setitem(steps.OURS, "clipped", steps.plain)
    monkeypatch.setattr(benchmark, "BATCH", SAMPLES)
    assert main(["--net", "lenet28", "--measure", "norms", "--peers", "", "--seconds", "0.01"]) == 1
    shown, said = capsys.readouterr()
    assert said.endswith("measure: ours is wrong: lenet28 norms\n")
    assert "| lenet28 | `gradient_norms` | wrong | - | - |" in shown
    rows = list(benchmark.rows("lenet28", ["clipped"], {}, 0.01, lambda line: None))
    assert {row["variant"]: "milliseconds" in row for row in rows} == {
        "plain step": True,
        "ours": False,
        "vmap(grad)": True,
    }


def test_the_table_has_the_ratios_and_names_what_fails():
    times = {"error": 1e-7, "ratio": 1.0, "ratio_quartiles": [1.0, 1.0], "load": 0.5, "bytes": 100}
    about = {"net": "lenet28", "measure": "samples"}
    found = [
        {**about, **times, "variant": "plain step", "milliseconds": 2.0},
        {**about, **times, "variant": "ours", "milliseconds": 5.0, "ratio": 0.4, "ratio_quartiles": [0.25, 0.5]}
        | {"bytes": 130},
        {**about, **times, "variant": "fill", "milliseconds": 6.0},
        {**about, **times, "variant": "vmap(grad)", "milliseconds": 20.0},
        {**about, "load": 0.5, "variant": "Opacus", "error": 0.5},
        {**about, "load": 0.5, "variant": "BackPACK", "error": None, "failed": "BackPACK broke"},
    ]
    result = {"device": "cpu", "cores": 2, "versions": {"jax": "1"}, "left_out": {"jax_privacy": "no"}, "rows": found}
    assert json.loads(json.dumps(result)) == result
    _, _, row, _, *notes = benchmark.table(result).splitlines()
    assert row == (
        "| lenet28 | `sample_gradients` | 5.00 | 2.50 (2.00-4.00); 0.50 of two and the time to fill the memory | 1.30 "
        "| 4.0 |  | wrong |  | fails |"
    )
    assert notes == [
        "cpu, 2 cores, float32, batch 128; jax 1; load 0.5 to 0.5.",
        "Where nothing stands the library has no such measure.",
        "lenet28: BackPACK broke.",
        "jax_privacy is left out: no.",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--net", "resnet20"), "net is 'resnet20' but must be of lenet28, cnn28, vgg32, resnet32"),
        (("--measure", "norm"), "measure is 'norm' but must be of samples, norms, clipped, kfac"),
        (("--peers", "opacus,torch"), "peers is 'torch' but must be of jax_privacy, opacus, backpack"),
    ],
)
def test_what_is_unknown_is_refused_in_a_sentence(arguments, sentence, capsys):
    assert main(list(arguments)) == 2
    assert capsys.readouterr() == ("", f"measure: {sentence}\n")

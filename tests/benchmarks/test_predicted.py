"""What is predicted of many devices: its counts are those of the compiled step."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest
from test_parallel import DEVICES, KEY, NORMS, OPTIMIZER, PLAIN, collectives

from benchmarks import scale
from benchmarks.scale import Counted, Machine
from jaxcnn import Conv2d, Dense, Flatten, Sequential, SoftmaxCrossEntropy, gradients, init_state
from jaxcnn.plan import Plan
from jaxcnn.zoo.models import find_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mesh():
    if len(jax.devices()) < DEVICES:
        pytest.skip(f"needs {DEVICES} devices; there are {len(jax.devices())}")
    return jax.make_mesh((DEVICES,), ("batch",))


@pytest.mark.parametrize(
    "network", [PLAIN, NORMS, find_model("resnet20").build(10)], ids=["plain", "batch norms", "resnet20"]
)
def test_the_exchanges_are_those_of_the_compiled_step(network, mesh):
    found, _ = collectives(network, mesh)
    assert Counter(found) == Counted.of(network, (6, 8, 2)).exchanges(DEVICES)


@pytest.mark.usefixtures("without_onednn")
def test_the_operations_are_those_that_xla_counts():
    """But for what is no product: here that of 10 logits. XLA leaves out a border's zeros, of which there are none."""
    network, shape = Sequential((Conv2d(16, 3), Conv2d(32, 3), Flatten(), Dense(10))), (12, 11, 3)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))

    def step(params, x, labels):
        return gradients(network, SoftmaxCrossEntropy(), params, x, labels)[0]

    x, labels = jax.ShapeDtypeStruct((8, *shape), np.float32), jax.ShapeDtypeStruct((8,), int)
    found = jax.jit(step).lower(params, x, labels).cost_analysis()["flops"] / 8
    counted = Counted.of(network, shape).flop
    entries = 10 * 9 * 16 + 8 * 7 * 32 + 10  # of the outputs: a bias is added to each, and its gradient is their sum
    assert counted <= found <= counted + 2 * entries + 100 * 10


def test_an_exchange_takes_what_the_formulas_say():
    machine = Machine(node=8, bandwidth=1e9, latency=1e-3, network_bandwidth=1e8, network_latency=1e-2)
    assert machine.seconds("all-reduce", 8e6, 1) == 0
    assert machine.seconds("all-reduce", 8e6, 8) == pytest.approx(2 * 7 / 8 * 8e-3 + 6e-3)
    assert machine.seconds("all-gather", 8e6, 8) == pytest.approx(7 / 8 * 8e-3 + 3e-3)
    assert machine.seconds("all-reduce", 8e6, 9) == pytest.approx(2 * 8 / 9 * 8e-2 + 8e-2)
    exchanges = Counter({("all-reduce", 8e6): 2, ("all-gather", 4e6): 1})
    assert machine.exchange(exchanges, 2) == pytest.approx(2 * (8e-3 + 2e-3) + 2e-3 + 1e-3)


def test_the_kept_result_is_that_of_the_defaults():
    kept, found = json.loads(scale.RESULT.read_text()), scale.predict(Machine())
    assert kept["machine"] == asdict(Machine())
    assert kept["rows"] == found["rows"]
    for row in kept["rows"]:  # from the smallest batch on the exchange takes no longer than the images
        of_image = row["compute"] / row["batch"]
        for devices, least in row["smallest_batch"].items():
            assert (least - 1) * of_image < row["exchange"][devices] <= least * of_image


def test_the_share_that_is_reached_is_that_of_the_measurement():
    rows = json.loads((ROOT / "benchmarks/results/h100.json").read_text())["rows"]
    for net, share in (("vgg32", "0.21"), ("resnet32", "0.11")):
        (us,) = (r["queued"] / 8 for r in rows if (r["what"], r["variant"]) == (f"step {net} float32", "ours, scanned"))
        model = find_model(net)
        reached = Counted.of(model.build(10), model.in_shape).flop * 128 / us * 1e6 / Machine.flops
        assert f"{share} for {net}" in scale.OPTIONS["reached"]
        assert f"{reached:.2f}" == share


def test_a_machine_of_your_own_is_drawn(tmp_path, monkeypatch, capsys):
    arguments = ["scale", "--network-bandwidth", "4e11", "--picture", str(tmp_path / "mine.png")]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(scale, "networks", lambda: {"plain": (Counted.of(PLAIN, (6, 8, 2)), 16)})
    scale.main()
    assert capsys.readouterr().out.splitlines()[2].startswith("| plain | 0.")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("sys.argv", ["scale", "--flops", "0"])
    with pytest.raises(SystemExit, match="^flops is 0.0 but must be finite and above 0$"):
        scale.main()


def test_the_bytes_of_a_sharded_state_are_those_of_the_document(mesh):
    network = find_model("resnet18").build(1000)
    state = jax.eval_shape(lambda: init_state(network, OPTIMIZER, KEY, (224, 224, 3)))
    learned = state.params, state.optimizer
    plan = Plan(mesh, sharded=True)
    each = jax.tree.map(
        lambda leaf, of: math.prod(of.shard_shape(leaf.shape)) * leaf.dtype.itemsize, learned, plan.of_state(learned)
    )
    whole, part = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(learned)), sum(jax.tree.leaves(each))
    text = " ".join((ROOT / "docs/scale.md").read_text().split())
    assert f"{whole / 1e6:.1f} MB, and {part / 1e6:.1f} MB on each of eight" in text

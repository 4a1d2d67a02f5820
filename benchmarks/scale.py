"""What thousands of accelerators would do, by a model: `python -m benchmarks.scale --help` tells of which.

The bytes and the operations are counted in the program that is compiled here; how fast they go is assumed. Nothing is
measured. With D devices, each with a batch of b images, a step is

(1)  step = b * flop / (flops * reached) + sum of the exchanges        no part hides behind another
(2)  all-reduce of n bytes = 2 (D - 1) / D * n / bandwidth + 2 ceil(log2 D) * latency
(3)  all-gather to n bytes =   (D - 1) / D * n / bandwidth +   ceil(log2 D) * latency

Bandwidth and latency are those inside of a node, or of the network where D is larger. (2) and (3) have the bytes of a
ring, which crosses each node's border once, and the messages of recursive halving and doubling (Thakur, Rabenseifner &
Gropp, *Optimization of collective communication operations in MPICH*, 2005); no algorithm sends fewer bytes.
Tests: tests/benchmarks/test_predicted.py.
"""

import argparse
import io
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from jaxcnn import files, summary
from jaxcnn.layers.base import Layer, Shape
from jaxcnn.layers.residual import Residual
from jaxcnn.layers.sequential import Sequential
from jaxcnn.layers.statistics import init_statistics
from jaxcnn.zoo.models import find_model
from jaxcnn.zoo.presets import PRESETS

ROOT = Path(__file__).parents[1]
RESULT, PICTURE = ROOT / "benchmarks" / "results" / "scale.json", ROOT / "docs" / "scale.png"
DEVICES = (8, 64, 4096)
OPTIONS = {  # of a Machine: what is assumed, and where that comes from
    "flops": "floating-point operations a second of a device at its peak; an H100's float32",
    "reached": "the share of them that is reached; measured on an H100: 0.21 for vgg32 and 0.11 for resnet32",
    "node": "devices in a node",
    "bandwidth": "bytes a second between the devices of a node",
    "latency": "seconds a message there",
    "network_bandwidth": "bytes a second between nodes, all ports of a node together; one of 400 Gb/s",
    "network_latency": "seconds a message there",
}
OTHERS = {"resnet20": (10, 128), "resnet18": (1000, 32), "vgg11_bn": (1000, 32)}  # classes, images for each device
ALL_REDUCE, ALL_GATHER = "all-reduce", "all-gather"


@dataclass(frozen=True)
class Machine:
    """What is assumed; bandwidths in bytes a second, latencies in seconds a message.

    >>> round(Machine().seconds("all-reduce", 3e9, 8), 6)  # 1.75 times 10 ms, and six messages
    0.017512
    """

    flops: float = 6.7e13
    reached: float = 0.2
    node: int = 8
    bandwidth: float = 3e11
    latency: float = 2e-6
    network_bandwidth: float = 5e10
    network_latency: float = 5e-6

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise SystemExit(f"{name} is {value} but must be finite and above 0")

    def seconds(self, kind: str, size: float, devices: int) -> float:
        """(2) or (3)."""
        inside = devices <= self.node
        bandwidth = self.bandwidth if inside else self.network_bandwidth
        latency = self.latency if inside else self.network_latency
        ways = 2 if kind == ALL_REDUCE else 1
        return ways * ((devices - 1) / devices * size / bandwidth + math.ceil(math.log2(devices)) * latency)

    def exchange(self, exchanges: Counter, devices: int) -> float:
        """Seconds of all exchanges of a step."""
        return sum(count * self.seconds(kind, size, devices) for (kind, size), count in exchanges.items())


@dataclass(frozen=True)
class Counted:
    """What one network's step does: floating-point operations for an image, and what is exchanged, in float32."""

    flop: int
    parameters: int
    channels: tuple[int, ...]  # of each batch norm
    joined: tuple[int, ...]  # of each two that end the two ways of a residual block

    @classmethod
    def of(cls, network: Layer, in_shape: Shape) -> "Counted":
        """By the shapes alone.

        A multiply-add is two operations; there are as many in the product for dE/dw as on the way forward, and in that
        for dE/dx, which the first layer with weights does not compute.
        """
        params = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))
        statistics = init_statistics(network, params, in_shape)
        found, _ = jax.tree.flatten_with_path(statistics)
        adds = [row.multiply_adds for row in summary(network, in_shape).rows]
        flop = 2 * (3 * sum(adds) - next(filter(None, adds)))
        means = tuple(leaf.size for path, leaf in found if path[-1].key == "mean")
        return cls(flop, sum(leaf.size for leaf in jax.tree.leaves(params)), means, tuple(_joined(network, statistics)))

    def exchanges(self, devices: int) -> Counter:
        """How often each (kind, bytes) is exchanged in a step.

        All gradients, the loss and how many labels were found go at once; those of a batch norm go on the way back,
        and on the way forward every device gets the means and variances of all. Two that get the same sensitivities
        have the same dbias, and XLA sums it once, with both dscale.
        """
        found = Counter({(ALL_REDUCE, 4 * (self.parameters - 2 * sum(self.channels)) + 8): 1})
        for n in self.channels:
            found += Counter([(ALL_GATHER, 8 * n * devices), (ALL_REDUCE, 8 * n)])
        for n in self.joined:
            found = found - Counter({(ALL_REDUCE, 8 * n): 2}) + Counter([(ALL_REDUCE, 12 * n)])
        return found


def _joined(layer, statistics):
    """The channels of each two batch norms that end the two ways of a residual block."""
    children = layer.children()
    for name, child in children.items():
        yield from _joined(child, statistics.get(name, {}))
    if isinstance(layer, Residual) and all(isinstance(way, Sequential) for way in layer.branches().values()):
        ends = [statistics.get(name, {}).get(way.names[-1]) for name, way in children.items()]
        if all(end and "mean" in end for end in ends):
            yield ends[0]["mean"].size


def networks() -> dict[str, tuple[Counted, int]]:
    """What is counted, and the images in a batch: a preset's own, or what is common for each device."""
    found = {}
    named = {name: (str(recipe.model), 10, recipe.batch_size) for name, recipe in PRESETS.items()}
    named |= {name: (name, *beside) for name, beside in OTHERS.items()}
    for name, (model, classes, batch) in named.items():
        model = find_model(model)
        found[name] = Counted.of(model.build(classes), model.in_shape), batch
    return found


def row(name: str, counted: Counted, batch: int, machine: Machine) -> dict:
    """One network's line of the result; seconds."""
    of_image = counted.flop / (machine.flops * machine.reached)

    def exchange(devices):
        return machine.exchange(counted.exchanges(devices), devices)

    divided = {n: batch // n * of_image + exchange(n) for n in range(1, batch + 1) if batch % n == 0}
    best = min(divided, key=divided.__getitem__)
    return {
        "network": name,
        **asdict(counted),
        "batch": batch,
        "compute": batch * of_image,
        "exchange": {devices: exchange(devices) for devices in DEVICES},
        "smallest_batch": {devices: math.ceil(exchange(devices) / of_image) for devices in DEVICES},
        "divided": {"devices": best, "speedup": divided[1] / divided[best]},
    }


def predict(machine: Machine) -> dict:
    """All of the result, as JSON would have it."""
    rows = [row(name, *found, machine) for name, found in networks().items()]
    return json.loads(json.dumps({"jax": jax.__version__, "machine": asdict(machine), "rows": rows}))


def table(result: dict | None = None) -> str:
    """The result as Markdown; that which is kept, unless another is given."""
    rows = (result or json.loads(RESULT.read_text()))["rows"]
    head = ["network", "MFLOP for an image", "MB of parameters", "exchanges", "images", "computing, ms"]
    head += [f"exchange on {devices:,}, ms" for devices in DEVICES]
    lines = [f"| {' | '.join([*head, 'one batch divided'])} |", "|---" * (len(head) + 1) + "|"]
    for found in rows:
        best, exchanges = found["divided"], 1 + 2 * len(found["channels"]) - len(found["joined"])
        cells = [found["network"], f"{found['flop'] / 1e6:,.1f}", f"{4 * found['parameters'] / 1e6:,.2f}", exchanges]
        cells += [found["batch"], _ms(found["compute"])]
        for devices in map(str, DEVICES):
            cells.append(f"{_ms(found['exchange'][devices])} (from {found['smallest_batch'][devices]:,})")
        gain = f"{best['speedup']:.1f}x on {best['devices']}" if best["devices"] > 1 else "no faster"
        lines.append(f"| {' | '.join(map(str, [*cells, gain]))} |")
    return "\n".join(lines)


def _ms(seconds):
    return f"{seconds * 1e3:.3f}" if seconds < 1e-3 else f"{seconds * 1e3:,.1f}"


def picture(result: dict) -> bytes:
    """Of the step's time, how much is computing; and the batch from which on that is half. As PNG."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    machine = Machine(**result["machine"])
    places = [2**i for i in range(1, 13)]
    rows = sorted(result["rows"], key=lambda found: -found["flop"])
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    share, least = figure.subplots(1, 2)
    for i, found in enumerate(rows):
        counted = Counted(found["flop"], found["parameters"], tuple(found["channels"]), tuple(found["joined"]))
        exchange = [machine.exchange(counted.exchanges(n), n) for n in places]
        look = {"color": colormaps["viridis"](i / len(rows)), "marker": "os^Dv<>Ph"[i % 9], "markersize": 4}
        label = f"{found['network']}, {found['batch']}"
        share.plot(places, [found["compute"] / (found["compute"] + s) for s in exchange], label=label, **look)
        least.plot(places, [max(1, s * found["batch"] / found["compute"]) for s in exchange], **look)
    share.set(title="Share of a step that is computing", ylim=(0, 1.02))
    share.yaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
    least.set(title="Images for each device at which it is half", yscale="log")
    least.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    for axes, height in ((share, 0.02), (least, 0.95)):
        axes.set(xscale="log", xlabel="devices")
        axes.set_xticks([2, 8, 64, 512, 4096], labels=["2", "8", "64", "512", "4,096"])
        axes.minorticks_off()
        axes.axvspan(places[0], machine.node, color="0.93", zorder=0)
        where = {"xytext": (3, 0), "textcoords": "offset points", "xycoords": ("data", "axes fraction")}
        axes.annotate("one node", (places[0], height), color="0.4", fontsize=8, **where)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, title="images for each device")
    figure.suptitle("Predicted by a model, not measured", fontsize=10, color="0.4")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def main() -> None:
    """Predict, print, and draw or keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Your own cluster, eight ports of 400 Gb/s in each node and bfloat16:\n"
        "  python -m benchmarks.scale --network-bandwidth 4e11 --flops 9.9e14 --reached 0.03 --picture mine.png",
    )
    for name, default in asdict(Machine()).items():
        option, told = f"--{name.replace('_', '-')}", f"{OPTIONS[name]} [{default:g}]"
        parser.add_argument(option, type=type(default), default=default, metavar="N", help=told)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw a picture, too, as PNG")
    parser.add_argument("--keep", action="store_true", help="replace what docs/scale.md shows")
    given = vars(parser.parse_args())
    drawn, keep = given.pop("picture"), given.pop("keep")
    result = predict(Machine(**given))
    print(table(result))
    if drawn:
        files.write(drawn, picture(result))
    if keep:
        files.write(RESULT, f"{json.dumps(result, indent=2)}\n".encode())
        files.write(PICTURE, picture(result))


if __name__ == "__main__":
    main()

"""Presets compared without the test images: `python -m benchmarks.held_out FOLDER PRESET:EPOCHS ...`.

FOLDER has the four IDX files. The last 5,000 training images take the place of the test images, which are not read.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxcnn.data.idx import find_idx, read_idx

from . import presets

RESULT = presets.RESULT.with_name("held_out.json")
COUNT = 5_000


def split(data: Path, out: Path) -> None:
    """Write the training images and labels in `data` to the folder `out`: all but the last, and the last for a test."""
    out.mkdir()
    for kind, ndim in (("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1)):
        array = read_idx(find_idx(data, f"train-{kind}"), ndim)
        for prefix, part in (("train", array[:-COUNT]), ("t10k", array[-COUNT:])):
            header = bytes((0, 0, 8, ndim)) + np.array(part.shape, ">u4").tobytes()
            (out / f"{prefix}-{kind}").write_bytes(header + part.tobytes())


def table(entries: list[dict]) -> str:
    """The result as a Markdown table."""
    lines = ["| preset | epochs | accuracy on the images held out |", "|---|---|---|"]
    lines += [f"| {found['preset']} | {found['epochs']} | {found['test_accuracy']:.2%} |" for found in entries]
    return "\n".join(lines)


def main(data: str, *runs: str) -> None:
    """Train each and record what it reached."""
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / f"{Path(data).resolve().name}-held-out"
        split(Path(data), held_out)
        for run in runs:
            presets.record(presets.train(held_out, run), RESULT)
    print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])

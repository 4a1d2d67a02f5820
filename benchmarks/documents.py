"""Put what was measured, and what the code says, into the documents: `python -m benchmarks.documents`.

A part of a document stands between `<!-- where it comes from -->` and `<!-- end -->`. What a block of Python
prints stands in the block of text behind it.
"""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxcnn import experiment, files
from jaxcnn.measuring import Measuring
from jaxcnn.recipe import Recipe
from jaxcnn.recorder import Recorder

from . import (
    cifar,
    feedback,
    held_out,
    measure,
    mixed,
    norm_relu,
    one_device,
    presets,
    private,
    recompute,
    scale,
    speed,
    streaming,
)

ROOT = Path(__file__).parents[1]


def parts() -> Iterator[tuple[str, str, str]]:
    """Each document's name, what its mark says, and the text that must stand between this mark and the end."""
    steps, operations = _result("steps"), _result("operations")
    beside = [row for row in steps["rows"] if row["table"] not in ("step", "evaluation")]
    command = "python -m benchmarks.speed"
    yield "docs/speed.md", command, speed.markdown(steps)
    yield "docs/speed.md", f"{command} --numerics --growth", _block(speed.text(steps | {"rows": beside}))
    at_128 = [row for row in operations["rows"] if row.get("batch", 128) == 128]
    yield "docs/speed.md", f"{command} --op all", _block(speed.text(operations | {"rows": at_128}))
    yield "docs/speed.md", f"{command} --op all --batch 128,32,512,1", _block(speed.by_batch(operations["rows"]))
    yield "docs/speed.md", "benchmarks/results/h100.json", _h100()
    yield "docs/presets.md", "benchmarks/presets.py", presets.table(_result("presets"))
    yield "docs/presets.md", "benchmarks/held_out.py", held_out.table(_result("held_out"))
    yield "docs/presets.md", "benchmarks/cifar.py", cifar.table()
    yield "docs/training.md", "benchmarks/streaming.py", streaming.table()
    yield "docs/scale.md", "python -m benchmarks.mixed", mixed.table()
    yield "docs/scale.md", "python -m benchmarks.one_device", one_device.table()
    yield "docs/change.md", "python -m benchmarks.feedback", feedback.table()
    yield "docs/measure.md", "python -m benchmarks.private", private.table()
    yield "docs/measure.md", "python -m benchmarks.measure", measure.table()
    yield "docs/blocks.md", "python -m benchmarks.recompute", recompute.table()
    yield "docs/blocks.md", "python -m benchmarks.norm_relu", norm_relu.table()
    yield "docs/scale.md", "python -m benchmarks.scale", scale.table()
    for name in ("slurm.sbatch", "kubernetes.yaml", "Dockerfile"):
        yield "docs/scale.md", f"docs/deploy/{name}", _block((ROOT / "docs/deploy" / name).read_text().rstrip())
    yield "docs/check_grads.md", "jaxcnn verify --mutants", _mutants()
    for document in ("README.md", "README.zh-CN.md"):
        yield document, "jaxcnn/layers/dense.py", _rule_of_dense()


PRINTING = [
    f"docs/{name}.md"
    for name in (
        "index",
        "tutorial",
        "blocks",
        "training",
        "scale",
        "change",
        "measure",
        "diagnosis",
        "verify",
        "check_grads",
    )
]


def run(text: str) -> str:
    """The document with its blocks of Python run, one after the other, and in the blocks of text what they printed.

    >>> print(run("```python\\nprint(1 + 1)\\n```\\n\\n```text\\n3\\n```"))
    ```python
    print(1 + 1)
    ```
    <BLANKLINE>
    ```text
    2
    ```
    """
    names = {}

    def replaced(match):
        code = match[1]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "a document", "exec"), names)
        block = f"```python\n{code}```"
        return f"{block}\n\n```text\n{printed.getvalue()}```" if printed.getvalue() else block

    return re.sub(r"```python\n(.*?)```(?:\n+```text\n.*?```)?", replaced, text, flags=re.S)


def main() -> None:
    """Replace what stands between the marks, what is printed, and the pictures that `jaxcnn train` draws of digits."""
    for name, said, text in parts():
        before, mark, rest = (ROOT / name).read_text().partition(f"<!-- {said} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise SystemExit(f"{name} must have a place between <!-- {said} --> and <!-- end -->")
        files.write(ROOT / name, f"{before}{mark}{text}\n{end}{after}".encode())
    for name in PRINTING:
        files.write(ROOT / name, run((ROOT / name).read_text()).encode())
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "digits-0001")
        experiment.run(Recipe(), Measuring("noise_scale"), recorder)
        for name, picture in (("flow", "flow.png"), ("noise", "curves.png")):
            files.write(ROOT / f"docs/{name}.png", (recorder.folder / picture).read_bytes())


def _result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def _h100():
    """Our step over that of jax.grad, alone and in a scan of 8, whose milliseconds for a step stand behind."""
    queued = {(row["what"], row["variant"]): row["queued"] for row in _result("h100")["rows"]}
    precisions = ("float32 (TF32)", "bfloat16", "float32")
    lines = ["| ours / jax.grad | " + " | ".join(precisions) + " |", "|---" * 4 + "|"]
    for net in (net for net in speed.NETS if (f"step {net} float32", "ours") in queued):
        cells = []
        for precision in precisions:
            what = f"step {net} {precision}"
            single, scanned = (queued[what, f"ours{how}"] / queued[what, f"jax.grad{how}"] for how in ("", ", scanned"))
            cells.append(f"{single:.2f}, {scanned:.2f} ({queued[what, 'ours, scanned'] / 8e3:.2f} ms)")
        lines.append(f"| {net} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rule_of_dense():
    """The formulas at the head of the file and the rule, in a block each; the tags of the formulas are left out."""
    text = (ROOT / "jaxcnn/layers/dense.py").read_text()
    formulas = "\n".join(re.sub(r" +\[.*\]$", "", line) for line in re.findall(r"^\(\d\) .*$", text, re.M))
    (rule,) = re.findall(r"^@dense\.rule\n.*?(?=\n\n\n)", text, re.M | re.S)
    return f"{_block(formulas)}\n\n```python\n{rule}\n```"


def _mutants():
    text = (ROOT / "docs/mutants.txt").read_text()
    (caught,) = re.findall(r"^caught: (.*)$", text, re.M)
    alarms = dict(re.findall(r"^false alarms of (\w+) on the right rules: (\d+)", text, re.M))
    (cases,) = set(re.findall(r"on the right rules: \d+ of (\d+) cases", text))
    names = {
        "jaxcnn": "`jaxcnn.verify.check_rule`",
        "check_grads": "`jax.test_util.check_grads`, float64",
        "chex": "`chex.assert_numerical_grads`",
    }
    lines = ["| | faults caught | false alarms |", "|---|---|---|"]
    for who, of in re.findall(r"(\w+) (\d+ of \d+)", caught):
        lines.append(f"| {names[who]} | {of} | {alarms[who]} of {cases} |")
    return "\n".join(lines)


def _block(text: str) -> str:
    return f"```\n{text}\n```"


if __name__ == "__main__":
    main()

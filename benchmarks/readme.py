"""Put the committed measurements of `benchmarks.speed` into the documents: `python -m benchmarks.readme`."""

import json
from collections.abc import Iterator
from pathlib import Path

from jaxcnn import files

from . import speed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def tables() -> Iterator[tuple[str, str, str]]:
    """Each document's name, the command of the mark, and what must stand between this mark and `<!-- end -->`."""
    steps, operations = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("steps", "operations"))
    beside = [row for row in steps["rows"] if row["table"] not in ("step", "evaluation")]
    command = "python -m benchmarks.speed"
    yield "README.md", command, speed.markdown(steps)
    yield "README.zh-CN.md", command, speed.markdown(steps)
    yield "docs/speed.md", f"{command} --numerics --growth", _block(speed.text(steps | {"rows": beside}))
    yield "docs/speed.md", f"{command} --op all", _block(speed.text(operations))


def main() -> None:
    """Replace what stands between the marks."""
    for name, command, table in tables():
        before, mark, rest = (ROOT / name).read_text().partition(f"<!-- {command} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise SystemExit(f"{name} must have a place between <!-- {command} --> and <!-- end -->")
        files.write(ROOT / name, f"{before}{mark}{table}\n{end}{after}".encode())


def _block(text: str) -> str:
    return f"```\n{text}\n```"


if __name__ == "__main__":
    main()

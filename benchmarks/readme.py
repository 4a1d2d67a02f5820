"""Put the committed measurement of `jaxcnn bench` into the table of both READMEs: `python -m benchmarks.readme`."""

import json
import re
from pathlib import Path

from jaxcnn import bench, files

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Replace what stands between the marks."""
    table = bench.markdown(json.loads((ROOT / "benchmarks/results/steps.json").read_text()))
    for name in ("README.md", "README.zh-CN.md"):
        readme = ROOT / name
        text, count = re.subn(
            r"(<!-- jaxcnn bench -->\n).*?(\n<!-- end -->)", rf"\g<1>{table}\g<2>", readme.read_text(), flags=re.S
        )
        if count != 1:
            raise SystemExit(f"{name} must have one place between <!-- jaxcnn bench --> and <!-- end -->")
        files.write(readme, text.encode())


if __name__ == "__main__":
    main()

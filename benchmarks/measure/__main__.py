"""The command: `python -m benchmarks.measure`; no measuring here."""

import argparse
import json
import sys

from jaxcnn import files
from jaxcnn.errors import InputError

from . import MEASURES, NETS, PEERS, RESULT, measure_all, table

DESCRIPTION = """\
Time a step of SGD with a measure of its samples beside our plain step, vmap(grad), jax_privacy, Opacus and BackPACK.

Every variant is compared with float64 before it is timed: a wrong answer has no time. All take turns, other libraries
in a process each; read the ratios. Keep the machine quiet. A run of everything is kept in
benchmarks/results/measure.json, one of a part is printed alone. Exits 1 if ours is wrong.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.measure
  python -m benchmarks.measure --net lenet28 --measure norms
  python -m benchmarks.measure --peers opacus --seconds 2
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its status: 0 done, 1 ours is wrong, 2 unusable input, 130 interrupted."""
    given = _parser().parse_args(arguments)
    peers = PEERS if given.peers is None else [word.strip() for word in given.peers.split(",") if word.strip()]
    parts = [given.net] if given.net else NETS, [given.measure] if given.measure else MEASURES, peers
    try:
        result = measure_all(*parts, seconds=given.seconds, report=_report)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    if parts == (NETS, MEASURES, PEERS):
        files.write(RESULT, f"{json.dumps(result, indent=2, allow_nan=False)}\n".encode())
    print(table(result))
    ours = [row for row in result["rows"] if row["variant"] == "ours"]
    wrong = [f"{row['net']} {row['measure']}" for row in ours if "milliseconds" not in row]
    return _fail(f"ours is wrong: {', '.join(wrong)}", 1) if wrong else 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.measure",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--net", help=f"one of {', '.join(NETS)} (default: all)")
    parser.add_argument("--measure", help=f"one of {', '.join(MEASURES)} (default: all)")
    parser.add_argument("--peers", help=f"by commas; empty: nobody (default: {','.join(PEERS)})")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="for the variants of one row together (default: 20)"
    )
    return parser


def _report(line):
    print(line, file=sys.stderr, flush=True)


def _fail(sentence, status):
    _report(f"measure: {sentence}")
    return status


if __name__ == "__main__":
    sys.exit(main())

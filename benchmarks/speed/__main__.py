"""The command of the benchmark: `python -m benchmarks.speed`; no measuring here."""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from jaxcnn import files
from jaxcnn.errors import InputError

from . import NETS, OPERATION_NAMES, PEERS, measure_all, text, wrong

DESCRIPTION = """\
Time training steps or single operations beside jax.grad, PyTorch, Flax and Equinox.

Every variant is compared with automatic differentiation in float64 before it is timed: a wrong answer has no time.
All take turns in one process; read the ratios, since milliseconds drift. Keep the machine quiet. Exits 1 if ours is
wrong.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.speed --net lenet28
  python -m benchmarks.speed --op conv2d --peers torch
  python -m benchmarks.speed --numerics --growth --json
"""


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"speed: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its status: 0 done, 1 ours is wrong, 2 unusable input, 130 interrupted."""
    try:
        return _measure(_parser().parse_args(arguments))
    except InputError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _measure(given: argparse.Namespace) -> int:
    if given.out is not None and (given.out.is_dir() or not given.out.absolute().parent.is_dir()):
        raise InputError(
            f"out is {str(given.out)!r}, which cannot be written: it must be a file, its folder must exist"
        )
    names = [given.net] if given.net is not None else list(NETS) if given.op is None else []
    result = measure_all(
        names,
        given.op,
        peer_names=[name.strip() for name in given.peers.split(",") if name.strip()],
        growth=given.growth,
        exactness=given.numerics,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    as_json = json.dumps(result, indent=2, allow_nan=False)
    if given.out is not None:
        files.write(given.out, f"{as_json}\n".encode())
    print(as_json if given.json else text(result))
    found = wrong(result["rows"])
    return _fail(f"ours is wrong: {'; '.join(found)}", 1) if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks.speed",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--net", help=f"one of {', '.join(NETS)}; all unless given, none if --op is")
    parser.add_argument("--op", help=f"one of {', '.join(OPERATION_NAMES)}, or all of them: all")
    peers = ",".join(PEERS)
    parser.add_argument(
        "--peers", default=peers, help=f"whom to compare with, by commas; empty: nobody (default: {peers})"
    )
    parser.add_argument("--growth", action="store_true", help="also twice the channels, twice the image size")
    parser.add_argument("--numerics", action="store_true", help="also the error of each net's gradient")
    parser.add_argument("--out", type=Path, help="file to write the result to, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
    return parser


def _fail(sentence: str, status: int) -> int:
    print(f"speed: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

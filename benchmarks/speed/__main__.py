"""The command of the benchmark: `python -m benchmarks.speed`; no measuring here."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax

from jaxcnn import files
from jaxcnn.errors import InputError

from . import NETS, OPERATION_NAMES, PEERS, Measurements, check_device, measure_all, measure_gpu, text, wrong
from .nets import BATCH
from .timing import Failed

DESCRIPTION = """\
Time training steps or single operations beside jax.grad, PyTorch, Flax and Equinox.

Every variant is compared with automatic differentiation in float64 before it is timed: a wrong answer has no time.
All take turns, other frameworks in a process each; read the ratios, since milliseconds drift. Keep the machine quiet.
Exits 1 if ours is wrong.
"""
EXAMPLES = """\
examples:
  python -m benchmarks.speed --net lenet28
  python -m benchmarks.speed --op conv2d --batch 1,32,128,512 --peers torch
  python -m benchmarks.speed --numerics --growth --busy --json
  python -m benchmarks.speed --gpu
"""
GPU_RESULT = Path(__file__).parents[1] / "results" / "gpu.json"
GPU_PEERS = ("torch", "flax")


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"speed: {message}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its status: 0 done, 1 ours is wrong, 2 unusable input, 130 interrupted."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share the memory of a GPU
    try:
        return _measure(_parser().parse_args(arguments))
    except InputError as error:
        return _fail(str(error), 2)
    except Failed as failed:
        return _fail(str(failed), 2)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _measure(given: argparse.Namespace) -> int:
    if given.batch is not None and given.op is None:
        raise InputError("batch is given but no op; it must be given with --op")
    if given.gpu:
        for name in ("batch", "growth", "numerics", "busy"):
            if getattr(given, name):
                raise InputError(f"{name} is given with gpu; it must be left out")
        check_device(jax.default_backend())
    out = GPU_RESULT if given.gpu and given.out is None else given.out
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"out is {str(out)!r}, which cannot be written: it must be a file, its folder must exist")

    def save(result: Measurements) -> None:
        if out is not None:
            files.write(out, f"{json.dumps(result, indent=2, allow_nan=False)}\n".encode())

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    peers = (GPU_PEERS if given.gpu else PEERS) if given.peers is None else _by_commas(given.peers)
    if given.gpu:
        whole = given.net is None and given.op is None
        names, op = (list(NETS), "all") if whole else ([given.net] if given.net else [], given.op)
        result = measure_gpu(names, op, peer_names=peers, report=report, save=save)
    else:
        names = [given.net] if given.net is not None else list(NETS) if given.op is None else []
        result = measure_all(
            names,
            given.op,
            batches=[BATCH] if given.batch is None else _batches(given.batch),
            peer_names=peers,
            growth=given.growth,
            exactness=given.numerics,
            beside_others=given.busy,
            report=report,
        )
        save(result)
    print(json.dumps(result, indent=2, allow_nan=False) if given.json else text(result))
    found = wrong(result["rows"])
    return _fail(f"ours is wrong: {'; '.join(found)}", 1) if found else 0


def _by_commas(given: str) -> list[str]:
    return [word.strip() for word in given.split(",") if word.strip()]


def _batches(given: str) -> list[int]:
    try:
        return [int(word) for word in _by_commas(given)]
    except ValueError:
        raise InputError(f"batch is {given!r} but must be integers of at least 1, by commas") from None


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
    parser.add_argument("--batch", help="with --op: batch sizes, by commas (default: 128)")
    default = f"{','.join(PEERS)}; with --gpu {','.join(GPU_PEERS)}"
    parser.add_argument("--peers", help=f"whom to compare with, by commas; empty: nobody (default: {default})")
    parser.add_argument("--growth", action="store_true", help="also twice the channels, twice the image size")
    parser.add_argument("--numerics", action="store_true", help="also the error of each net's gradient")
    parser.add_argument("--busy", action="store_true", help="also the step beside two busy processes")
    parser.add_argument(
        "--gpu", action="store_true", help="steps, operations, determinism and the verifier on a GPU, in nine minutes"
    )
    parser.add_argument(
        "--out", type=Path, help="file to write the result to, as JSON (with --gpu: benchmarks/results/gpu.json)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
    return parser


def _fail(sentence: str, status: int) -> int:
    print(f"speed: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

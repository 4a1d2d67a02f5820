"""Damaged files for every reader: `python -m benchmarks.fuzz [COUNT] [--seed N] [--only I]`.

Each file is a valid one, changed: bits, bytes, lengths, whole pieces, tokens of text; as it lies on the disk, or inside
its container (gzip, zip, the chunks of a PNG, the segments of a JPEG, the header of a safetensors file), whose
checksums are right again after. It is read by the reader of its kind, which must succeed or raise `InputError` of one
line: another exception, a warning, more than `SECONDS` or more memory than `PEAK` is a failure. A child process reads
them, with `SPACE` bytes to allocate. What fails is kept in `build/fuzz/SEED-I/`; `--seed SEED --only I` repeats it.
"""

import argparse
import contextlib
import faulthandler
import functools
import gzip
import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from jaxcnn import SGD, Conv2d, Dense, Flatten, InputError, Progress, ReLU, Sequential, TrainState, init_state
from jaxcnn.data import load_dataset
from jaxcnn.recipe import Recipe
from jaxcnn.store.checkpoint import save_checkpoint
from jaxcnn.store.runs import load_run, load_unfinished

SECONDS = 20
PEAK = 5 * 2**28  # an image of `MAX_PIXELS` takes 16 bytes for each pixel while it is read, 2**30
SPACE = 2**31  # above what the process has when it begins
KEPT = Path("build/fuzz")
NETWORK = Sequential((Conv2d(2, 3), ReLU(), Flatten(), Dense(3)))

Files = dict[str, bytes]
Parts = list[tuple[bytes, bytes]]


# ---------------------------------------------------------------------------------------------- valid files


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def idx_files(rng) -> Files:
    files = {}
    for prefix, count in (("train", 8), ("t10k", 4)):
        files[f"{prefix}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 5, 4)))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(count) % 3))
    return files


def cifar_files(names: list[str], head: int, classes: str, count: int) -> Callable[[np.random.Generator], Files]:
    def make(rng) -> Files:
        files = {}
        for name in names:
            records = rng.integers(0, 256, (2, head + 3072), np.uint8)
            records[:, :head] %= 10
            files[name] = records.tobytes()
        return {**files, classes: "\n".join(f"class {i}" for i in range(count)).encode()}

    return make


def npz_files(save) -> Callable[[np.random.Generator], Files]:
    def make(rng) -> Files:
        file = io.BytesIO()
        images = rng.integers(0, 256, (12, 4, 3), np.uint8)
        floating = rng.random((4, 4, 3, 1)).astype(np.float16)
        labels, names = np.arange(12) % 3, np.array(["a", "b", "ü"])
        save(file, images=images, labels=labels, test_images=floating, test_labels=labels[:4], classes=names)
        return {"some.npz": file.getvalue()}

    return make


def image_files(rng) -> Files:
    import PIL.Image

    files = {}
    kinds = ["L", "RGB", "P", "RGBA", "LA", "I;16", "1", "CMYK"]
    for i, mode in enumerate(kinds):
        image = PIL.Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
        image = (
            PIL.Image.fromarray(rng.integers(0, 2**16, (9, 7), np.uint16)) if mode == "I;16" else image.convert(mode)
        )
        exif = PIL.Image.Exif()
        exif[0x0112] = 3
        form = "JPEG" if mode == "CMYK" or i < 2 else "PNG"
        for options in ({"exif": exif}, {}):
            file = io.BytesIO()
            image.save(file, form, **options, **({"transparency": 0} if mode == "P" else {}))
            name = "".join(filter(str.isalnum, mode))
            files[f"{'ab'[i % 2]}/{name}{len(options)}.{form.lower()}"] = file.getvalue()
    return files


@functools.cache
def begun() -> TrainState:
    return init_state(NETWORK, SGD(0.1), jax.random.key(0), (5, 4, 1))


@functools.cache
def checkpoint_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        epoch = {"epoch": 1, "step": 4, "loss": 0.7, "accuracy": 0.5, "seconds": 0.1}
        progress = Progress(begun(), (epoch, epoch), np.array([0.5, 0.25, 0.125]), np.arange(3, dtype=np.int32), 0.2)
        info = {"normalization": {"mean": 0.1, "std": 0.5, "padding": 0}, **Recipe(model=NETWORK).to_dict()}
        save_checkpoint(path, NETWORK, (5, 4, 1), progress, info | {"classes": ["a", "b", "c"]})
        return path.read_bytes()


def as_run(folder: Path, rng) -> None:
    """Read what it predicts with, or where it goes on."""
    if rng.random() < 0.5:
        load_run(folder)
    else:
        load_unfinished(folder, begun())


@functools.cache
def recipe_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        Recipe(
            data="digits",
            model=NETWORK,
            augment=("crop:4", "flip"),
            validation=0.1,
            patience=3,
            resize=(8, 9),
            learning_rate=0.1,
        ).write(path)
        return path.read_bytes()


def as_dataset(folder: Path, rng) -> None:
    """Read what lies there, with the images' own size or another."""
    path = folder / "some.npz" if (folder / "some.npz").exists() else folder
    load_dataset(path, resize=(3, 4) if rng.random() < 0.5 else None)


TEN = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
KINDS: dict[str, tuple[Callable[[np.random.Generator], Files], Callable]] = {
    "idx": (idx_files, as_dataset),
    "cifar-10": (cifar_files(TEN, 1, "batches.meta.txt", 10), as_dataset),
    "cifar-100": (cifar_files(["train.bin", "test.bin"], 2, "fine_label_names.txt", 100), as_dataset),
    "npz": (npz_files(np.savez), as_dataset),
    "npz, deflated": (npz_files(np.savez_compressed), as_dataset),
    "images": (image_files, as_dataset),
    "checkpoint": (
        lambda rng: {"model.safetensors": checkpoint_file()},
        as_run,
    ),
    "recipe": (lambda rng: {"recipe.toml": recipe_file()}, lambda folder, rng: Recipe.read(folder / "recipe.toml")),
}


# ---------------------------------------------------------------------------------------------- containers


def payload(content: bytes) -> Parts:
    return [(b"", gzip.decompress(content))]


def compressed(parts: Parts) -> bytes:
    return gzip.compress(b"".join(content for _, content in parts))


def unzip(content: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name.encode(), archive.read(name)) for name in archive.namelist()]


def rezip(parts: Parts) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # a name twice is meant
        for name, content in parts:
            archive.writestr(name.decode(errors="replace") or "nameless", content)
    return file.getvalue()


def chunks(content: bytes) -> Parts:
    """Of a PNG file; those with pixels are decompressed."""
    parts, at = [], 8
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        parts.append((name, zlib.decompress(body) if name == b"IDAT" else body))
        at += size + 12
    return parts


def joined_chunks(parts: Parts) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in parts:
        body = zlib.compress(body) if name == b"IDAT" else body
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content


def segments(content: bytes) -> Parts:
    """Of a JPEG file; what follows the head of the scan belongs to it."""
    parts, at = [], 2
    while content[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", content, at + 2)
        parts.append((content[at : at + 2], content[at + 4 : at + 2 + size]))
        at += size + 2
    return [*parts, (b"", content[at:])]


def joined_segments(parts: Parts) -> bytes:
    sized = (name + struct.pack(">H", (len(body) + 2) % 2**16) + body if name else body for name, body in parts)
    return b"\xff\xd8" + b"".join(sized)


def header(content: bytes) -> Parts:
    """Of a safetensors file: each text of its metadata, the table of its arrays, and the arrays."""
    size = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + size])
    texts = [(name.encode(), text.encode()) for name, text in table.pop("__metadata__").items()]
    return [*texts, (b"table", json.dumps(table).encode()), (b"arrays", content[8 + size :])]


def joined_header(parts: Parts) -> bytes:
    """What is called otherwise than the table and the arrays is metadata."""
    named = dict(parts)
    texts = {a.decode(errors="replace"): b.decode(errors="replace") for a, b in parts if a not in (b"table", b"arrays")}
    head = b'{"__metadata__": ' + json.dumps(texts).encode() + b", " + named.get(b"table", b"{}").lstrip(b"{")
    return len(head).to_bytes(8, "little") + head + named.get(b"arrays", b"")


CONTAINERS: dict[str, tuple[Callable[[bytes], Parts], Callable[[Parts], bytes]]] = {
    ".gz": (payload, compressed),
    ".npz": (unzip, rezip),
    ".png": (chunks, joined_chunks),
    ".jpeg": (segments, joined_segments),
    ".safetensors": (header, joined_header),
}


# ---------------------------------------------------------------------------------------------- changes


def place(content: bytes, rng) -> int:
    """Somewhere, near the beginning or the end as often as anywhere."""
    where = rng.integers(3)
    span = min(len(content), 64) if where else len(content)
    at = int(rng.integers(span + 1))
    return len(content) - at if where == 2 else at


def piece(content: bytes, rng) -> tuple[int, int]:
    one, other = place(content, rng), place(content, rng)
    return min(one, other), max(one, other)


def flip(content: bytes, rng, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        at = place(content, rng)
        if at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def number(content: bytes, rng, other: bytes) -> bytes:
    """A length, a count or an offset, perhaps."""
    size = int(rng.choice([1, 2, 4, 8]))
    bits = 8 * size
    values = (0, 1, 2, 127, 128, 255, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1, 2**bits - 2, 10**4, 2**24)
    value = int(values[rng.integers(len(values))]) % 2**bits
    at = min(place(content, rng), max(len(content) - size, 0))
    return content[:at] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + content[at + size :]


def cut(content: bytes, rng, other: bytes) -> bytes:
    return content[: place(content, rng)]


def remove(content: bytes, rng, other: bytes) -> bytes:
    start, stop = piece(content, rng)
    return content[:start] + content[stop:]


def repeat(content: bytes, rng, other: bytes) -> bytes:
    start, stop = piece(content, rng)
    return content[:stop] + content[start:stop] * int(rng.integers(1, 9)) + content[stop:]


def splice(content: bytes, rng, other: bytes) -> bytes:
    """A piece of another file, in place of one or between."""
    (start, stop), at = piece(other, rng), piece(content, rng)
    return content[: at[0]] + other[start:stop] + content[at[int(rng.integers(2))] :]


def noise(content: bytes, rng, other: bytes) -> bytes:
    at = place(content, rng)
    return content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:]


VALUE = re.compile(rb'-?\d+(?:\.\d+)?(?:e-?\d+)?|\\?"[^"\\\n]*\\?"|true|false|null')
TOKEN = re.compile(rb"[\[\]{}=:,|<>()]")
TOKENS = (
    b"0", b"1", b"-1", b"1.5", b"2", b"1e400", b"-0.0", b"nan", b"inf", b"NaN", b"Infinity", b"99999999999",
    b"1" * 5000,
    b"9223372036854775808", b"true", b"false", b"null", b"None", b'""', b'"x"', b'"\\ud800"', b'"Dense"', b'"Residual"',
    b"[]", b"{}", b"[1, 2]", b"[[1]]", b"[" * 3000, b'{"layer": "Dense"}', b'{"a": ' * 2000, b"(1,)", b"|O", b"<f8",
    b"<U9", b"\xff", b"\0", b"\n", b",", b"=", b"'", b'\\"', b"2000-01-01", b'\\"layer\\"', b'{"x" = 1}',
)  # fmt: skip


def token(content: bytes, rng, other: bytes) -> bytes:
    """Another token of JSON, TOML or Python in place of one, a value more often than a bracket."""
    found = list((VALUE if rng.random() < 0.8 else TOKEN).finditer(content))
    if not found:
        return flip(content, rng, other)
    one, two = (found[int(rng.integers(len(found)))] for _ in range(2))
    new = TOKENS[int(rng.integers(len(TOKENS)))] if rng.random() < 0.7 else two.group()
    return content[: one.start()] + new + content[one.end() :]


def swell(content: bytes, rng, other: bytes) -> bytes:
    """Much that is compressed to little."""
    at = place(content, rng)
    return content[:at] + bytes(2**24) + content[at:]


CHANGES = (flip, flip, number, number, token, cut, remove, repeat, splice, noise)


def changed(content: bytes, rng, other: bytes) -> bytes:
    """Once or a few times; of a text the tokens more often than the bytes."""
    is_text = content.isascii() and len(content) > 0
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 5)):
        change = token if is_text and rng.random() < 0.8 else CHANGES[int(rng.integers(len(CHANGES)))]
        content = change(content, rng, other)
    return content


def changed_inside(name: str, content: bytes, rng, other: bytes) -> bytes:
    """A part of the container changed, left out, doubled, renamed or moved."""
    take, join = CONTAINERS[Path(name).suffix]
    parts = take(content)
    i, j = (int(rng.integers(len(parts))) for _ in range(2))
    way = rng.integers(8)
    if way == 0:
        del parts[i]
    elif way == 1:
        parts.insert(j, parts[i])
    elif way == 2:
        parts[i], parts[j] = parts[j], parts[i]
    elif way == 3:
        parts[i] = parts[i][0], parts[j][1]
    else:
        change = swell if rng.random() < 0.01 else changed
        parts[i] = parts[i][0], change(parts[i][1], rng, other)
    return join(parts)


def case(seed: int, i: int) -> tuple[str, Files, np.random.Generator]:
    """The kind and the files of case `i`, a function of the two numbers, and the generator for what comes after."""
    rng = np.random.default_rng([seed, i])
    kind = list(KINDS)[i % len(KINDS)]
    files = KINDS[kind][0](rng)
    others = KINDS[list(KINDS)[int(rng.integers(len(KINDS)))]][0](rng)
    name = list(files)[int(rng.integers(len(files)))]
    other = list(others.values())[int(rng.integers(len(others)))]
    if Path(name).suffix in CONTAINERS and rng.random() < 0.6:
        files[name] = changed_inside(name, files[name], rng, other)
    else:
        files[name] = changed(files[name], rng, other)
    return kind, files, rng


# ---------------------------------------------------------------------------------------------- reading


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def outcome(seed: int, i: int) -> tuple[str, str, str]:
    """The kind of case `i`; "read", "refused" or "failed"; and the sentence, or what failed."""
    kind, files, rng = case(seed, i)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), files)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                KINDS[kind][1](Path(folder), rng)
            return kind, "read", ""
        except InputError as error:
            sentence = str(error).replace(folder, "FOLDER")
            bad = not sentence.isprintable() or "MemoryError" in sentence
            return kind, "failed" if bad else "refused", repr(sentence) if bad else sentence
        except Exception:
            return kind, "failed", traceback.format_exc(limit=-4)


def memory(name: str) -> int:
    """Bytes, by Linux."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found
    return 1024 * int(found[1])


def read_all(seed: int, start: int, stop: int) -> None:
    """In the child: a line of JSON for each case. It ends early where time is up."""
    for i in range(len(KINDS)):
        outcome(seed, i)  # what is imported and compiled once counts as no case's
    space = memory("VmSize") + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    for i in range(start, stop):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the peak, begins anew
        before, begun = memory("VmRSS"), time.monotonic()
        kind, how, why = outcome(seed, i)
        faulthandler.cancel_dump_traceback_later()
        peak = memory("VmHWM") - before
        if peak > PEAK:
            how, why = "failed", f"it took {peak} bytes of memory, more than {PEAK}"
        print(json.dumps([i, kind, how, why, time.monotonic() - begun, peak]), flush=True)


def outcomes(seed: int, start: int, stop: int) -> Iterator[tuple[int, str, str, str, float, int]]:
    """Number, kind, outcome, reason, seconds and peak of memory in bytes, for each case."""
    while start < stop:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--child", str(seed), str(start), str(stop)]
        beside = {"cwd": Path(__file__).parents[1], "env": os.environ | {"JAX_PLATFORMS": "cpu"}}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **beside) as child:
            assert child.stdout is not None
            for line in child.stdout:
                start = json.loads(line)[0] + 1
                yield tuple(json.loads(line))
            ended = child.wait()
        if ended:
            kind = list(KINDS)[start % len(KINDS)]
            yield start, kind, "failed", f"the process ended with {ended}: a crash, or {SECONDS} seconds", SECONDS, 0
            start += 1


@dataclass
class Found:
    """How many files of each kind had which outcome, a text for each failure, the longest time and the most memory."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0

    def __str__(self):
        outcomes = ("read", "refused", "failed")
        lines = [" ".join([f"{kind:14}", *(f"{self.counts[kind, how]:7} {how}" for how in outcomes)]) for kind in KINDS]
        most = f"at most {self.seconds:.1f} s and {self.peak / 2**20:.0f} MiB for one"
        return "\n".join([*self.failures, *lines, f"{self.counts.total()} files, {most}"])


def fuzz(count: int, seed: int = 0, kept: Path = KEPT) -> Found:
    """Read `count` damaged files; what fails is written to a folder in `kept`."""
    found = Found()
    for i, kind, how, why, seconds, peak in outcomes(seed, 0, count):
        found.counts[kind, how] += 1
        found.seconds, found.peak = max(found.seconds, seconds), max(found.peak, peak)
        if how == "failed":
            folder = kept / f"{seed}-{i}"
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, case(seed, i)[1])
            (folder / "why.txt").write_text(why)
            found.failures.append(f"{folder} ({kind}): {why}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="damaged files for every reader")
    parser.add_argument("count", nargs="?", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case, read in this process")
    parser.add_argument("--child", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with contextlib.suppress(BrokenPipeError):
            read_all(*options.child)
    elif options.only is not None:
        print(*outcome(options.seed, options.only), sep="\n")
    else:
        begun = time.monotonic()
        found = fuzz(options.count, options.seed)
        print(found, f"in {time.monotonic() - begun:.0f} s")
        sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()

"""The entry point of the command line: errors become one sentence on stderr and an exit status."""

import codecs
import io
import os
import re
import shutil
import sys
import textwrap
from typing import NoReturn

from ..errors import InputError

SPELLED = {"·": ".", "•": "*", "…": ".", "±": "+-", "░": ".", "▒": ":", "▓": "+", "█": "#"}


def _spelled(error):
    """What a stream prints for a character that it cannot encode; a byte of a file's name stays that byte."""
    character = error.object[error.start]
    byte = ord(character) - 0xDC00
    return bytes([byte]) if 0x80 <= byte <= 0xFF else SPELLED.get(character, "?"), error.start + 1


codecs.register_error("jaxcnn", _spelled)


def main(arguments: list[str] | None = None) -> None:
    """Run `jaxcnn` and exit: 0 done, 1 a check failed or training diverged, 2 unusable input, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="jaxcnn")
    try:
        status = _run(words)
        print(end="", flush=True)
    except InputError as error:
        _fail(str(error), 2)
    except OSError as error:
        if error.filename is None:  # of stdout, where Python would try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(f"{error.filename or 'stdout'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:  # before Typer was there
        _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED"):  # NumPy's or JAX's
            _fail(f"there is not enough memory: {error}".partition("\n")[0].rstrip(".: "), 2)
        # Typer's own: of an interruption, of an unknown option; the classes moved between its versions
        if type(error).__name__ == "Abort":
            _fail("interrupted", 130)
        sentence = getattr(error, "format_message", None)
        if sentence is None:
            raise
        if not sentence():  # no command at all: the help was printed
            sys.exit(2)
        from .app import help_on

        _fail(f"{sentence().rstrip('.')}; {help_on(words, sentence())}", 2)
    if status == 130:
        _fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"  # what a text editor or a Chinese keyboard makes of --


def _run(words):
    for word in words:
        if found := re.fullmatch(rf"[{DASHES}]+([a-z][a-z-]*)(=.*)?", word):
            raise InputError(f"{word} begins with another dash but an option must begin with two hyphens: --{found[1]}")
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        _fail("the command line needs more packages: pip install '.[cli]' in a checkout", 2)
    return app(args=words, prog_name="jaxcnn", standalone_mode=False)


def say(sentence: str) -> None:
    """Print a sentence on stderr, on a terminal broken between words."""
    line = f"jaxcnn: {sentence}"
    if sys.stderr is not None and sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr, flush=True)


def _fail(sentence, status) -> NoReturn:
    say(sentence)
    sys.exit(status)

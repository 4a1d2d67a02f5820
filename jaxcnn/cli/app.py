"""The program `jaxcnn`: one file for each command, options in, printing out."""

import inspect
import os
import re

import typer

from ..recipe import DTYPES, LOSSES, OPTIMIZERS
from ..zoo.models import MODELS
from ..zoo.presets import PRESETS
from .attribute import attribute_command
from .diagnose import diagnose_command
from .evaluate import evaluate_command
from .export import export_command
from .info import info_command
from .list import list_command
from .plot import plot_command
from .predict import predict_command
from .summary import summary_command
from .train import train_command
from .verify import verify_command

app = typer.Typer(
    help="Convolutional networks in JAX with hand-written backward passes.\n\n"
    "Start with: jaxcnn train. It trains on real handwritten digits and shows what it learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
COMMANDS = {
    "train": train_command,
    "evaluate": evaluate_command,
    "diagnose": diagnose_command,
    "predict": predict_command,
    "plot": plot_command,
    "attribute": attribute_command,
    "export": export_command,
    "list": list_command,
    "summary": summary_command,
    "verify": verify_command,
    "info": info_command,
}
for name, command in COMMANDS.items():
    app.command(name=name)(command)


def help_on(words: list[str], sentence: str) -> str:
    """Where to look after a usage error, and the option that an argument without one was meant for."""
    command = COMMANDS.get(words[0])
    if command is None:
        return "see jaxcnn --help"
    extra = re.search(r"unexpected extra argument.*\((\S+?)[\s)]", sentence)
    option = extra and _option_for(command, extra[1])
    meant = f"{extra[1]} must come after its option, --{option} {extra[1]}; " if extra and option else ""
    return f"{meant}see jaxcnn {words[0]} --help"


def _option_for(command, word):
    known = {
        "data": ["digits"] + [word] * os.path.isdir(word),
        "model": MODELS,
        "preset": PRESETS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "dtype": DTYPES,
    }
    offered = inspect.signature(command).parameters
    return next((option for option, values in known.items() if option in offered and word in values), None)

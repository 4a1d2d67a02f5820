"""The program `jaxcnn`: one file for each command, options in, printing out."""

import typer

from .diagnose import diagnose_command
from .evaluate import evaluate_command
from .summary import summary_command
from .train import train_command
from .verify import verify_command

app = typer.Typer(
    help="Convolutional networks in JAX with hand-written backward passes.\n\n"
    "Start with: jaxcnn train. It trains on real handwritten digits and shows what it learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (train_command, evaluate_command, diagnose_command, summary_command, verify_command):
    app.command(name=command.__name__.removesuffix("_command"))(command)

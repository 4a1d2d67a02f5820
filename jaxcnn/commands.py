"""The commands: train, evaluate, diagnose, summary, verify, bench. No mathematics."""

import json
import math
import sys
import time
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import bench, data, diagnosis, files, models, plots, presets, runs, training, verify
from .errors import InputError
from .layers.activation import ScaledTanh, Tanh
from .losses import Loss, SoftmaxCrossEntropy, SquaredError
from .network import summary as summarize
from .sgd import SGD, Constant, Cosine, Optax, Optimizer
from .verify.arguments import draw, import_function

app = typer.Typer(
    help="Convolutional networks in JAX with hand-written backward passes.\n\n"
    "Start with: jaxcnn train. It trains on real handwritten digits and shows what it learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class LossName(StrEnum):
    """Losses by their names on the command line."""

    cross_entropy = "cross-entropy"
    squared_error = "squared-error"


class OptimizerName(StrEnum):
    """Optimizers by their names on the command line."""

    sgd = "sgd"
    nesterov = "nesterov"
    adam = "adam"
    adamw = "adamw"


class DtypeName(StrEnum):
    """Number types by their names on the command line."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


DIAGNOSED = 512  # training images on which a network is diagnosed
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]


@app.command()
def train(
    data_source: Annotated[
        str,
        typer.Option("--data", help='"digits", or a folder with the four IDX files of MNIST or a data set like it.'),
    ] = "digits",
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"A published recipe: {', '.join(presets.PRESETS)}. It brings the model and all defaults below; each "
            "option given beside it replaces its value."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(models.MODELS)}; unless given, the one made for the images' size."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Largest number of epochs. [default: 60]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per update. [default: 32]")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="At the start; a cosine takes it to 0. [default: 0.02; 0.002 with squared-error; adam, adamw 0.001]"
        ),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd and nesterov. [default: 0.9]")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of sgd, nesterov and adamw. [default: 0.0005; adamw 0.0001]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the initial weights, the shuffling and dropout.")] = 0,
    loss: Annotated[LossName | None, typer.Option(help="What is minimised. [default: cross-entropy]")] = None,
    optimizer: Annotated[
        OptimizerName | None,
        typer.Option(help="sgd and nesterov are written by hand; adam and adamw are optax's. [default: sgd]"),
    ] = None,
    dtype: Annotated[DtypeName, typer.Option(help="Of parameters and images.")] = DtypeName.float32,
    target_error: Annotated[
        float | None, typer.Option(help="Stop after an epoch whose mean training loss is at or below this.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to create. [default: the next of runs/digits-0001, ...]")
    ] = None,
    as_json: JsonOption = False,
):
    """Train a network on real images and show what it learned.

    The gradient of the network is first checked against automatic differentiation on one real batch; training then
    uses the hand-written backward passes alone. The run folder receives model.safetensors, metrics.jsonl, config.json,
    curves.png and kernels.png.

    Examples:

    * jaxcnn train

    * jaxcnn train --epochs 20 --learning-rate 0.1 --seed 3

    * jaxcnn train --data fashion-mnist --model lenet28 --epochs 10 --batch-size 128

    * jaxcnn train --data fashion-mnist --preset lenet5 --epochs 5
    """
    console = _console(as_json)
    started = time.perf_counter()
    recipe = presets.DEFAULT if preset is None else presets.find(preset)
    epochs = recipe.epochs if epochs is None else epochs
    batch_size = recipe.batch_size if batch_size is None else batch_size
    loss, optimizer = loss or LossName(recipe.loss), optimizer or OptimizerName(recipe.optimizer)
    _check(epochs >= 1, "epochs", epochs, "at least 1")
    _check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    _check(0 <= seed < 2**32, "seed", seed, "at least 0 and below 2**32")
    _check(learning_rate is None or 0 <= learning_rate < math.inf, "learning_rate", learning_rate, "finite, at least 0")
    _check(momentum is None or 0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
    _check(weight_decay is None or 0 <= weight_decay < math.inf, "weight_decay", weight_decay, "finite, at least 0")
    _check(target_error is None or 0 <= target_error < math.inf, "target_error", target_error, "finite, at least 0")
    runs.check_out(out)
    given = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    if (loss, optimizer) == (recipe.loss, recipe.optimizer):  # the recipe's rates are for these
        given = {name: getattr(recipe, name) if rate is None else rate for name, rate in given.items()}
    rates = _rates(optimizer, loss, **given)
    dataset = data.load(data_source)
    count = len(dataset.train_images) * (2 if recipe.mirror else 1)
    _check(batch_size <= count, "batch_size", batch_size, f"at most {count}, the number of training images")
    normalization = data.Normalization(0.0, 1.0, recipe.padding)
    if recipe.normalize:
        normalization = data.Normalization.of(dataset.train_images, recipe.padding)
    x_train, x_test = normalization(dataset.train_images), normalization(dataset.test_images)
    labels = dataset.train_labels
    if recipe.mirror:
        x_train, labels = data.mirrored(x_train, labels)
    in_shape = x_train.shape[1:]
    if model is None and recipe.model is not None and in_shape != models.find(recipe.model).in_shape:
        raise InputError(
            f"data is {data_source!r} with images of shape {dataset.in_shape} but preset {preset} is made for MNIST's "
            "(28, 28, 1); name a folder with its files by --data, or another --model"
        )
    model = model or recipe.model or _model_for(in_shape)
    network = models.find(model).build(len(dataset.classes))
    with _precision(dtype):
        parameters = summarize(network, in_shape).total.parameters
        update = _optimizer(optimizer, rates, recipe.schedule, epochs * (count // batch_size))
        key = jax.random.key(seed)
        state = training.init_state(network, update, key, in_shape, dtype=jnp.dtype(dtype.value))
        console.print(
            f"{dataset.name}: {count:,} images of {'x'.join(map(str, dataset.in_shape))} to train"
            f"{' (half of them mirrored)' if recipe.mirror else ''}, "
            f"{len(x_test):,} to test; {model}: {parameters:,} parameters; "
            f"{jax.devices()[0].device_kind}, {dtype.value}"
        )
        objective = _loss(loss, network)
        error = verify.check_network(network, objective, state.params, x_train[:32], labels[:32], key)
        if not error <= 1e-10:
            _stop(
                f"the hand-written gradient differs from jax.grad by {error:.1e}, allowed is 1e-10; nothing was trained"
            )
        console.print(f"gradient check: hand-written backward = jax.grad of the plain forward to {error:.0e} (float64)")

        config = {
            "data": data_source if data_source == "digits" else str(Path(data_source).resolve()),
            "preset": preset,
            "model": model,
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer.value,
            **rates,
            "schedule": recipe.schedule,
            "seed": seed,
            "loss": loss.value,
            "dtype": dtype.value,
            "target_error": target_error,
            "classes": dataset.classes,
            "normalization": vars(normalization),
        }
        run = runs.Run.create(out, dataset.name, network, in_shape, config)
        examined, said = jnp.asarray(x_train[:DIAGNOSED], jnp.dtype(dtype.value)), set()
        with _bar(console) as bar:
            task = bar.add_task("compiling", total=epochs)

            def on_epoch(state, metrics):
                found = diagnosis.diagnose(network, state.params, examined)
                run.log(metrics | {f"{layer.name}_{layer.symptom}": layer.share for layer in found})
                run.keep(state)
                line = (
                    f"epoch {metrics['epoch']:3}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:6.2%}  "
                    f"test loss {metrics['test_loss']:.4f}  accuracy {metrics['test_accuracy']:6.2%}"
                )
                bar.update(task, advance=1, description=line)
                if not console.is_terminal and metrics["epoch"] % max(1, epochs // 10) == 0:
                    console.print(line)
                for layer in _severe(network, found):
                    if layer.name not in said:
                        said.add(layer.name)
                        console.print(f"after epoch {metrics['epoch']}, {layer}")

            try:
                state, history = training.fit(
                    network,
                    objective,
                    update,
                    state,
                    x_train,
                    labels,
                    batch_size=batch_size,
                    epochs=epochs,
                    target_error=target_error,
                    test=(x_test, dataset.test_labels),
                    on_epoch=on_epoch,
                )
            except training.NonFiniteLoss as diverged:
                run.keep(diverged.state)
                bar.stop()
                _stop(f"{diverged}; they are in {run.folder / 'model.safetensors'}")
        run.draw(history, state.params)
        x_test = jnp.asarray(x_test, jnp.dtype(dtype.value))
        measured = training.evaluate(network, objective, state.params, x_test, dataset.test_labels)
    seconds = time.perf_counter() - started
    _show(console, measured, dataset)
    steps = history[-1]["step"]
    console.print(
        Text(f"test accuracy {measured.accuracy:.2%}", style="bold"),
        f"({len(x_test):,} images) after {len(history)} epochs, {steps:,} updates, {seconds:.1f} s with compilation",
    )
    if recipe.anchor:
        console.print(f"published for {preset}: {recipe.anchor}")
        console.print(
            f"reached here: {1 - measured.accuracy:.2%} error ({measured.accuracy:.2%} accuracy) after {len(history)} "
            f"epochs on {dataset.name}"
        )
    console.print(f"run folder: {run.folder}  ({', '.join(sorted(file.name for file in run.folder.iterdir()))})")
    if as_json:
        result = {
            "run": str(run.folder),
            "preset": preset,
            "published": recipe.anchor or None,
            **_measures(measured),
            "train_loss": history[-1]["loss"],
            "epochs": len(history),
            "steps": steps,
            "parameters": parameters,
            "gradient_check": error,
            "seconds": seconds,
        }
        print(_json(result))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    data_source: Annotated[
        str | None, typer.Option("--data", help="Test split of this data set instead of the run's own.")
    ] = None,
    as_json: JsonOption = False,
):
    """Measure a trained network on a test split.

    Examples:

    * jaxcnn evaluate runs/digits-0001

    * jaxcnn evaluate runs/digits-0001 --json
    """
    console = _console(as_json)
    saved = runs.load(run)
    dataset = _data_for(saved, run, data_source)
    dtype, loss = _choice(DtypeName, saved.dtype, run), _choice(LossName, saved.loss, run)
    network = saved.checkpoint.network
    with _precision(dtype):
        images = jnp.asarray(saved.normalization(dataset.test_images), jnp.dtype(dtype.value))
        params = jax.tree.map(jnp.asarray, saved.checkpoint.params)
        measured = training.evaluate(network, _loss(loss, network), params, images, dataset.test_labels)
    _show(console, measured, dataset)
    console.print(
        Text(f"test accuracy {measured.accuracy:.2%}", style="bold"),
        f"loss {measured.loss:.4f} on {len(images):,} images of {dataset.name}",
    )
    if as_json:
        print(_json(_measures(measured)))


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    data_source: Annotated[
        str | None, typer.Option("--data", help="Training images of this data set instead of the run's own.")
    ] = None,
    as_json: JsonOption = False,
):
    """Look for saturated sigmoid and tanh units and dead ReLU units in a trained network.

    A unit is saturated where its derivative is below 5 % of its maximum, and dead if it is zero for every sample. The
    batch is the first 512 training images.

    Examples:

    * jaxcnn diagnose runs/digits-0001

    * jaxcnn diagnose runs/digits-0001 --json
    """
    console = _console(as_json)
    saved = runs.load(run)
    dataset = _data_for(saved, run, data_source)
    dtype = _choice(DtypeName, saved.dtype, run)
    with _precision(dtype):
        images = jnp.asarray(saved.normalization(dataset.train_images[:DIAGNOSED]), jnp.dtype(dtype.value))
        params = jax.tree.map(jnp.asarray, saved.checkpoint.params)
        found = diagnosis.diagnose(saved.checkpoint.network, params, images)
    severe = _severe(saved.checkpoint.network, found)
    table = Table(title=f"{len(images)} training images of {dataset.name}", title_justify="left")
    for name in ("layer", "units", "saturated", "dead"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in found:
        share = Text(f"{layer.share:.1%}", style="bold red" if layer in severe else "")
        table.add_row(
            layer.name, f"{layer.units:,}", *(share if layer.symptom == s else "" for s in ("saturated", "dead"))
        )
    console.print(table)
    for layer in severe:
        console.print(str(layer))
    if not severe:
        console.print("no hidden layer has half of its units saturated or a quarter dead")
    if as_json:
        print(_json({"samples": len(images), "layers": [vars(layer) | {"severe": layer in severe} for layer in found]}))


@app.command()
def summary(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(models.MODELS)}.")] = "digits",
    batch_size: Annotated[int, typer.Option(help="Samples in the batch whose residuals are counted.")] = 1,
    as_json: JsonOption = False,
):
    """Show a model layer by layer: shape, parameters, multiply-adds, residual bytes.

    Residual bytes are what a training step keeps from forward to backward besides parameters and batch.

    Example:

    * jaxcnn summary --model lenet28 --batch-size 128
    """
    _check(batch_size >= 1, "batch_size", batch_size, "at least 1")
    found = models.find(model)
    table = summarize(found.build(10), found.in_shape, batch_size=batch_size)
    if as_json:
        rows = [vars(row) for row in table.rows]
        print(_json({"model": model, "in_shape": table.in_shape, "batch_size": batch_size, "layers": rows}))
    else:
        print(table)


@app.command(name="verify")
def verify_command(
    function: Annotated[
        str | None, typer.Argument(help="module:function, your own rule or anybody's; needs --args.")
    ] = None,
    args: Annotated[
        str | None, typer.Option(help='Its random arguments: "f32[2,7,5,3], f32[4]+ (positive), i32[5]:10, key".')
    ] = None,
    plain: Annotated[
        str | None, typer.Option(help="module:function, the same without the rule, for automatic differentiation.")
    ] = None,
    op: Annotated[str | None, typer.Option(help=f"One of {', '.join(verify.OPERATIONS)}; all unless given.")] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Check rules that are wrong on purpose, beside two other checkers.")
    ] = False,
    soak: Annotated[int | None, typer.Option(help="Check this many random cases of the right rules.")] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All cases, every transformation of each, more draws of the arguments.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random arguments of a function and of --soak.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a function's report to this page, with heat maps.")] = None,
    as_json: JsonOption = False,
):
    """Check backward rules against automatic differentiation and finite differences.

    Alone: every hand-written backward of the library, in float64 against both oracles, in float32 and bfloat16 against
    float64. With module:function: any function's own rule. Exits 1 if a check fails.

    Examples:

    * jaxcnn verify

    * jaxcnn verify --op conv2d --json

    * jaxcnn verify jax.nn:gelu --args "f32[3,4]" --html gelu.html

    * jaxcnn verify my_rules:attention --plain my_rules:plain_attention --args "f32[2,5,4], f32[2,5,4]"

    * jaxcnn verify --mutants
    """
    modes = {"a function": function, "op": op, "mutants": mutants or None, "soak": soak}
    chosen = [name for name, value in modes.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{chosen[0]} and {chosen[1]} are both given; they must be given one at a time")
    for name, value in (("args", args), ("plain", plain), ("html", html)):
        if value is not None and function is None:
            raise InputError(f"{name} is given but no function; it must come with module:function")
    if thorough and (mutants or soak is not None):
        raise InputError(f"thorough is given with {chosen[0]}; it must be left out")
    _check(0 <= seed < 2**31, "seed", seed, "at least 0 and below 2**31")
    if function is not None:
        _verify_function(function, args, plain, thorough, seed, html, as_json)
    if mutants:
        _verify_mutants(as_json)
    if soak is not None:
        _soak(soak, seed, as_json)
    _verify_operations(op, thorough, as_json)


def _verify_function(function, args, plain, thorough, seed, html, as_json) -> NoReturn:
    f, bare = import_function(function), None if plain is None else import_function(plain, "plain")
    if args is None:
        raise InputError(f'args is not given; {function} needs some, such as --args "f32[2,7,5,3], f32[4]"')
    if html is not None and not html.resolve().parent.is_dir():
        raise InputError(f"html is {str(html)!r} but its folder must exist")
    with jax.enable_x64(True):
        drawn = draw(args, seed)
    report = verify.check_rule(f, *drawn, plain=bare, thorough=thorough, seed=seed)
    if html is not None:
        files.write(html, report.to_html().encode())
    print(report.to_json() if as_json else report)
    raise typer.Exit(1 if report.failed else 0)


def _verify_mutants(as_json) -> NoReturn:
    from .verify import mutants

    with _bar(_console(as_json=True)) as bar:
        task = bar.add_task("mutants", total=len(mutants.MUTANTS))
        found = []
        for outcome in mutants.outcomes():
            found.append(outcome)
            bar.update(task, advance=1, description=f"{outcome.mutant.op}: {outcome.mutant.fault}")
        bar.update(task, description="the others' false alarms")
        alarms = mutants.false_alarms()
    caught = all(outcome.checks for outcome in found)
    if as_json:
        rows = [
            {"op": o.mutant.op, "fault": o.mutant.fault, "checks": o.checks, "note": o.note,
             "check_grads": o.check_grads, "chex": o.chex}
            for o in found
        ]  # fmt: skip
        print(_json({"passed": caught, "mutants": rows, "false_alarms": alarms}))
    else:
        print(mutants.mutant_table(found, alarms))
    raise typer.Exit(0 if caught else 1)


def _soak(count, seed, as_json) -> NoReturn:
    from .verify.soak import soak

    with _bar(_console(as_json=True)) as bar:
        task = bar.add_task("soak", total=count)
        bad = soak(count, seed, lambda report: bar.update(task, advance=1))
    checks = [str(check) for report in bad for check in report.checks if not check.passed]
    failed = sum(report.failed for report in bad)
    if as_json:
        outcome = {"passed": not bad, "cases": count, "false_alarms": failed, "not_all_checked": len(bad) - failed}
        print(_json(outcome | {"seed": seed, "checks": checks}))
    else:
        print(f"{count} random cases in float64, float32 and bfloat16: {failed} false alarms, "
              f"{len(bad) - failed} not checked in all")  # fmt: skip
        print("\n".join(checks), end="\n" if checks else "")
    raise typer.Exit(1 if failed else 0)


def _verify_operations(op, thorough, as_json) -> NoReturn:
    names = list(verify.OPERATIONS) if op is None else [op]
    verify.find_operation(names[0])
    checks = []
    with _bar(_console(as_json=True)) as bar:
        task = bar.add_task(
            "compiling", total=sum(len(verify.chosen_cases(verify.find_operation(name), thorough)) for name in names)
        )
        for found in verify.check_operations(names, thorough=thorough):
            checks += found
            bar.update(task, advance=1, description=found[0].op)
    passed = all(check.passed for check in checks)
    if as_json:
        rows = [vars(row) | {"error": row.error if math.isfinite(row.error) else None} for row in verify.rows(checks)]
        print(_json({"passed": passed, "checks": rows, "failures": [str(c) for c in checks if not c.passed]}))
    else:
        print(verify.table(checks))
        if not thorough:
            print("at most five cases of each; all of them with --thorough")
    raise typer.Exit(0 if passed else 1)


@app.command(name="bench")
def bench_command(
    net: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(bench.NETS)}; all unless given, none if --op is.")
    ] = None,
    op: Annotated[str | None, typer.Option(help=f"One of {', '.join(bench.OPERATIONS)}, or all of them: all.")] = None,
    peers: Annotated[str, typer.Option(help="Whom to compare with, by commas; empty: nobody.")] = ",".join(bench.PEERS),
    growth: Annotated[bool, typer.Option("--growth", help="Also twice the channels, twice the image size.")] = False,
    numerics: Annotated[bool, typer.Option("--numerics", help="Also the error of each net's gradient.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write the result to, as JSON.")] = None,
    as_json: JsonOption = False,
):
    """Time training steps or single operations beside jax.grad, PyTorch, Flax and Equinox.

    Every variant is compared with automatic differentiation in float64 before it is timed: a wrong answer has no time.
    All take turns in one process; read the ratios, since milliseconds drift. Keep the machine quiet. Exits 1 if ours is
    wrong.

    Examples:

    * jaxcnn bench --net lenet28

    * jaxcnn bench --op conv2d --peers torch

    * jaxcnn bench --numerics --growth --json
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"out is {str(out)!r}, which cannot be written: its folder must exist")
    names = [net] if net is not None else list(bench.NETS) if op is None else []
    console = _console(as_json=True)
    others = [name.strip() for name in peers.split(",") if name.strip()]
    result = bench.run(
        names, op, peer_names=others, growth=growth, exactness=numerics, report=lambda line: console.print(line)
    )
    if out is not None:
        files.write(out, (_json(result) + "\n").encode())
    print(_json(result) if as_json else bench.text(result))
    wrong = bench.wrong(result["rows"])
    if wrong:
        _stop(f"ours is wrong: {'; '.join(wrong)}")


def _check(holds, name, value, must):
    if not holds:
        raise InputError(f"{name} is {value} but must be {must}")


def _precision(dtype: DtypeName):
    return jax.enable_x64(True) if dtype is DtypeName.float64 else nullcontext()


def _data_for(saved: runs.Saved, run, data_source) -> data.Dataset:
    """The run's own data set, or another of the same shape."""
    dataset = data.load(saved.data if data_source is None else data_source)
    if dataset.in_shape != saved.image_shape:
        raise InputError(
            f"{dataset.name} has images of shape {dataset.in_shape} but the network of {run} was trained on "
            f"{saved.image_shape}; they must be the same"
        )
    return dataset


def _severe(network, found) -> list[diagnosis.Diagnosis]:
    """Those worth a sentence: not the last layer, which targets of 0 and 1 want saturated."""
    return [layer for layer in found if layer.severe and layer.name != network.names[-1]]


def _model_for(in_shape) -> str:
    for name, model in models.MODELS.items():
        if model.in_shape == in_shape:
            return name
    raise InputError(f"model is not given and none is made for images of shape {in_shape}; choose one with --model")


def _rates(optimizer, loss, learning_rate, momentum, weight_decay) -> dict[str, float]:
    """The optimizer's numbers: those given, else its defaults; chosen on a validation split of the training digits."""
    by_hand = optimizer in (OptimizerName.sgd, OptimizerName.nesterov)
    if not by_hand and momentum is not None:
        raise InputError(f"momentum is {momentum} but {optimizer.value} has none; it must be left out")
    if optimizer is OptimizerName.adam and weight_decay is not None:
        raise InputError(f"weight_decay is {weight_decay} but adam has none; it must be left out, or use adamw")
    defaults = {"learning_rate": 1e-3}
    if by_hand:
        eta = 0.002 if loss is LossName.squared_error else 0.02
        defaults = {"learning_rate": eta, "momentum": 0.9, "weight_decay": 5e-4}
    elif optimizer is OptimizerName.adamw:
        defaults["weight_decay"] = 1e-4
    given = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    return {name: default if given[name] is None else given[name] for name, default in defaults.items()}


def _loss(loss, network) -> Loss:
    """The loss by its name; squared error has the targets of the last layer's activation [I4]."""
    if loss is LossName.cross_entropy:
        return SoftmaxCrossEntropy()
    return SquaredError(low=-1.0 if isinstance(network.layers[-1], Tanh | ScaledTanh) else 0.0)


def _optimizer(optimizer, rates, schedule, steps) -> Optimizer:
    others = dict(rates)
    eta = others.pop("learning_rate")
    schedule = Cosine(eta, steps=steps) if schedule == "cosine" else Constant(eta)
    if optimizer in (OptimizerName.sgd, OptimizerName.nesterov):
        return SGD(schedule, nesterov=optimizer is OptimizerName.nesterov, **others)
    try:
        import optax
    except ImportError:
        raise InputError(f"optimizer {optimizer.value} needs optax: pip install 'jaxcnn[cli]'") from None
    return Optax(getattr(optax, optimizer.value)(schedule, **others))


def _choice(names, value, run):
    try:
        return names(value)
    except ValueError as error:
        raise InputError(f"{run}: its model file is corrupt ({error}); it must be written by jaxcnn train") from None


def _stop(sentence) -> NoReturn:
    """End with status 1: a check failed, or training diverged."""
    print(f"jaxcnn: {sentence}", file=sys.stderr)
    raise typer.Exit(1)


def _console(as_json) -> Console:
    return Console(stderr=as_json, soft_wrap=True, markup=False, highlight=False)


def _bar(console):
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _measures(measured: training.Evaluation) -> dict[str, Any]:
    return {"accuracy": measured.accuracy, "loss": measured.loss, "confusion": measured.confusion.tolist()}


def _show(console: Console, measured: training.Evaluation, dataset: data.Dataset) -> None:
    """The confusion matrix and a row of misclassified images."""
    table = Table(title="Confusion: rows are the true class, columns the predicted", title_justify="left")
    for name in ("", *dataset.classes):
        table.add_column(name, justify="right")
    for i, row in enumerate(measured.confusion):
        cells = (
            Text(str(count) if count else "·", style="bold green" if i == j else "red" if count else "dim")
            for j, count in enumerate(row)
        )
        table.add_row(dataset.classes[i] if i < len(dataset.classes) else str(i), *cells)
    console.print(table)
    wrong = np.flatnonzero(measured.predictions != dataset.test_labels)
    if not wrong.size:
        console.print("no image was misclassified")
        return
    width = len(plots.as_text(dataset.test_images[:1, ..., 0])[0])
    shown = wrong[: max(1, (console.width + 2) // (width + 2))]
    console.print(f"{len(wrong)} misclassified" + (f", the first {len(shown)}:" if len(shown) < len(wrong) else ":"))
    labels = (f"{dataset.test_labels[i]} taken for {measured.predictions[i]}" for i in shown)
    images = plots.as_text(dataset.test_images[shown].mean(axis=-1))
    for line in ("  ".join(label.ljust(width)[:width] for label in labels), *images):
        console.print(line)


def _json(value) -> str:
    return json.dumps(value, indent=2, allow_nan=False)

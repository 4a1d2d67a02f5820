"""Do what a recipe says: `run(recipe)`, which the command line, a notebook, a benchmark and a test all call."""

import dataclasses
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from . import verify
from .data import Augmentation, Dataset, Normalization, held_out, load_dataset, mirrored, taken
from .errors import InputError, shown
from .files import AnyPath
from .fit import fit
from .inspect.diagnosis import Diagnosis, diagnose
from .inspect.summary import summary
from .layers.activation import ScaledTanh, Tanh
from .layers.base import Layer, Params, Shape
from .losses import Loss, SoftmaxCrossEntropy, SquaredError
from .plan import Plan
from .progress import Progress, StoppingRules
from .recipe import Recipe
from .recovery import NonFiniteLoss
from .sgd import SGD, Averaged, Clipped, Constant, Cosine, Optax, Optimizer, Step, WarmUp
from .store.runs import load_run, load_unfinished
from .training import Evaluation, TrainState, evaluate, init_state
from .zoo.models import MODELS, by_shape, find_model
from .zoo.presets import PRESETS

__all__ = ["Experiment", "Observer", "Result", "prepare", "run"]

DIAGNOSED = 512  # training images on which a network is diagnosed after each epoch
AGREES = 1e-10  # of the hand-written gradient with automatic differentiation, in float64


@dataclass(frozen=True)
class Experiment:
    """A recipe with nothing left open: its values filled in, the data split and normalised, the network built."""

    recipe: Recipe
    dataset: Dataset
    normalization: Normalization
    network: Layer
    loss: Loss
    train_images: np.ndarray
    train_labels: np.ndarray
    validation: tuple[np.ndarray, np.ndarray] | None

    @property
    def in_shape(self) -> Shape:
        """Of one normalised image."""
        return self.train_images.shape[1:]

    @property
    def config(self) -> dict[str, Any]:
        """What is kept beside the parameters: the recipe, the classes and the normalisation."""
        dataset = self.dataset
        beside = {"classes": dataset.classes, "images": dataset.fingerprint}
        beside |= {"normalization": vars(self.normalization)}
        return self.recipe.to_dict() | beside

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return len(self.train_images) // self.recipe.batch_size


@dataclass(frozen=True)
class Result:
    """What `run` returns.

    Attributes:
        experiment: what was done.
        gradient_check: the relative error of the hand-written gradient before training.
        state: the last training state.
        params: what was measured: the parameters after the epoch that was best on the validation images, or the last
            where there are none; their moving average, if the recipe has one.
        history: a dict for each epoch, see `fit`, with the shares of dead and saturated units.
        measured: on the test images, which nothing looked at before.
        parameters: how many numbers are learned.
        seconds: from start to finish.
    """

    experiment: Experiment
    gradient_check: float
    state: TrainState
    params: Params
    history: list[dict]
    measured: Evaluation
    parameters: int
    seconds: float


class Observer:
    """Is told what happens in a `run`; each method does nothing unless a subclass says what."""

    def on_stage(self, doing: str) -> None:
        """Something begins that takes time: "reading the data", "compiling the training step"."""

    def on_prepared(self, experiment: Experiment) -> None:
        """Nothing has been computed yet."""

    def on_checked(self, experiment: Experiment, gradient_check: float, progress: Progress) -> None:
        """The gradient is right; training begins, or goes on."""

    def on_steps(self, experiment: Experiment, progress: Progress) -> None:
        """About half a second of training is over."""

    def on_epoch(self, experiment: Experiment, progress: Progress, found: tuple[Diagnosis, ...]) -> None:
        """An epoch is over; `found` is the diagnosis on the first training images."""

    def on_divergence(self, experiment: Experiment, diverged: NonFiniteLoss) -> None:
        """The loss is not finite; the run ends."""

    def on_interrupt(self) -> None:
        """The run was interrupted by Ctrl-C and ends."""

    def on_end(self, result: Result) -> None:
        """Training is over and the test images were measured."""

    def on_close(self) -> None:
        """The run is over, however it ended; nothing else follows."""


class WrongGradient(ArithmeticError):
    """The gradient of the very network that was to be trained is wrong; nothing was trained."""


def run(recipe: Recipe, *observers: Observer, resume: AnyPath | None = None) -> Result:
    """Check the gradient, train, measure; the observers are told in their order.

    Args:
        recipe: what to do.
        observers: such as `Recorder`, which keeps what was reached.
        resume: the folder of an unfinished run of this recipe (its `epochs` and stopping rules may differ), which is
            continued as if it had not ended.

    Raises:
        InputError: the recipe does not fit the data, or the run to resume does not fit the recipe.
        WrongGradient: the hand-written gradient is not that of automatic differentiation.
        NonFiniteLoss: the loss became NaN or infinite.

    >>> result = run(Recipe(epochs=2, batch_size=64))
    >>> result.experiment.recipe.model, result.parameters, len(result.history), result.measured.accuracy > 0.5
    ('digits', 53002, 2, True)
    """
    tell = Told(observers)
    try:
        return _run(recipe, tell, resume)
    finally:
        tell("on_close")


def _run(recipe, tell, resume) -> Result:
    started = time.perf_counter()
    tell("on_stage", "reading the data")
    last = None if resume is None else Path(resume) / "model.safetensors"
    experiment = prepare(recipe, None if last is None else load_run(last).normalization)
    recipe, network, loss = experiment.recipe, experiment.network, experiment.loss
    dtype, plan = jnp.dtype(recipe.dtype), make_plan(recipe)
    with precision(recipe.dtype):
        parameters = summary(network, experiment.in_shape).total.parameters
        optimizer = make_optimizer(recipe, experiment.steps)
        key = jax.random.key(recipe.seed)
        state = init_state(network, optimizer, key, experiment.in_shape, dtype=dtype)
        tell("on_prepared", experiment)
        begun = Progress(state) if resume is None else _resumed(resume, experiment, state)
        tell("on_stage", "checking the gradient")
        error = checked_gradient(experiment, begun.state, key)
        tell("on_checked", experiment, error, begun)
        try:
            progress = _fitted(experiment, optimizer, plan, begun, tell)
        except NonFiniteLoss as diverged:
            tell("on_divergence", experiment, diverged)
            raise
        except KeyboardInterrupt:
            tell("on_interrupt")
            raise
        tell("on_stage", "measuring the test images")
        params = progress.state.averaged if progress.best is None else progress.best
        test = experiment.normalization(experiment.dataset.test_images), experiment.dataset.test_labels
        measured = evaluate(network, loss, plan.placed(params), *test)
    seconds = time.perf_counter() - started
    history = list(progress.history)
    result = Result(experiment, error, progress.state, params, history, measured, parameters, seconds)
    tell("on_end", result)
    return result


def checked_gradient(experiment: Experiment, state: TrainState, key: jax.Array) -> float:
    """The relative error of the hand-written gradient of the experiment's network on its first images.

    Raises:
        WrongGradient: it is too large.
    """
    images, labels = experiment.train_images[:32], experiment.train_labels[:32]
    error = verify.check_network(experiment.network, experiment.loss, state.params, images, labels, key)
    if not error <= AGREES:
        raise WrongGradient(
            f"the hand-written gradient differs from jax.grad by {error:.1e}, allowed is {AGREES}; nothing was trained"
        )
    return error


def _fitted(experiment, optimizer, plan, begun, tell) -> Progress:
    """The progress after the last epoch."""
    recipe, dtype = experiment.recipe, jnp.dtype(experiment.recipe.dtype)
    examined = jnp.asarray(experiment.train_images[:DIAGNOSED], dtype)
    last = begun

    def on_steps(progress):
        tell("on_steps", experiment, progress)
        if len(progress.losses) == experiment.steps and not progress.history:
            tell("on_stage", "compiling the evaluation")

    def on_epoch(progress):
        nonlocal last
        last = progress
        found = diagnose(experiment.network, progress.state.averaged, examined)
        progress.history[-1].update({f"{layer.name}_{layer.symptom}": layer.share for layer in found})
        tell("on_epoch", experiment, progress, found)

    tell("on_stage", "compiling the training step")
    fit(
        experiment.network,
        experiment.loss,
        optimizer,
        begun.state,
        experiment.train_images,
        experiment.train_labels,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        target_error=recipe.target_error,
        validation=experiment.validation,
        patience=recipe.patience,
        augment=make_augmentation(experiment),
        **vars(plan),
        resume=begun,
        on_steps=on_steps,
        on_epoch=on_epoch,
    )
    return last


def _resumed(folder, experiment, state) -> Progress:
    """Where the run in `folder` stopped, refused where its images were others."""
    saved, progress = load_unfinished(folder, state)
    saved.check_images(experiment.dataset)
    if saved.classes != experiment.dataset.classes:
        raise InputError(
            f"data is {experiment.recipe.data!r}, whose classes are not those that {str(folder)!r} was trained on"
        )
    done, epochs = len(progress.history) + bool(len(progress.losses)), experiment.recipe.epochs
    if epochs < done:
        raise InputError(f"epochs is {epochs} but must be at least {done}: so many {str(folder)!r} has begun")
    recipe = experiment.recipe
    rules = StoppingRules(epochs, recipe.target_error, recipe.patience)
    if epochs > saved.recipe.epochs and rules.hold(progress.history):
        raise InputError(
            f"epochs is {epochs} but {str(folder)!r} ended after {done}, by target_error {recipe.target_error} or "
            f"patience {recipe.patience}; one of these must be given, too, so that it does not hold"
        )
    return progress


def prepare(recipe: Recipe, normalization: Normalization | None = None) -> Experiment:
    """Load the data, fill in what the recipe leaves open and build the network.

    Args:
        recipe: of the experiment.
        normalization: that of a run that goes on; unless given, that of the training images, as the recipe says.

    Raises:
        InputError: the recipe does not fit the data.
    """
    dataset = load_dataset(recipe.data, recipe.resize)
    images, labels, validation = dataset.train_images, dataset.train_labels, None
    if recipe.validation:
        kept, held = held_out(labels, recipe.validation, recipe.seed)
        validation = taken(images, held), labels[held]
        images, labels = taken(images, kept), labels[kept]
    count = len(images) * (2 if recipe.mirror else 1)
    if recipe.batch_size > count:
        raise InputError(
            f"batch_size is {recipe.batch_size} but must be at most {count}, the number of training images"
        )
    most = (2**31 - 1) // (count // recipe.batch_size)
    if recipe.epochs > most:
        raise InputError(f"epochs is {recipe.epochs} but must be at most {most}: updates are counted in int32")
    if normalization is None:
        plain = Normalization(0.0, 1.0, recipe.padding)
        normalization = Normalization.of(images, recipe.padding) if recipe.normalize else plain
    images = normalization(images)
    if validation is not None:
        validation = normalization(validation[0]), validation[1]
    if recipe.mirror:
        images, labels = mirrored(images, labels)
    model = _model(recipe, dataset, images.shape[1:])
    network = _network(model, dataset, images.shape[1:])
    source = recipe.data if recipe.data == "digits" else str(Path(recipe.data).resolve())
    recipe = dataclasses.replace(recipe, data=source, model=model, **recipe.rates)
    return Experiment(recipe, dataset, normalization, network, make_loss(recipe, network), images, labels, validation)


def _model(recipe, dataset, in_shape) -> str | Layer:
    if recipe.model is None:
        for name, model in MODELS.items():
            if model.in_shape == in_shape:
                return name
        sizes = [model.in_shape for model in MODELS.values() if model.in_shape[2] == in_shape[2]]
        fitting = f", or the images resized, as by --resize {max(sizes, key=sizes.count)[0]}" if sizes else ""
        raise InputError(
            f"model is not given and none is made for images of shape {in_shape}; it must be one of {by_shape()}"
            f"{fitting}"
        )
    published = PRESETS.get(recipe.name)
    if published and recipe.model == published.model and in_shape != find_model(recipe.model).in_shape:
        height, width, channels = find_model(recipe.model).in_shape
        made_for = height - 2 * recipe.padding, width - 2 * recipe.padding, channels
        raise InputError(
            f"data is {recipe.data!r} with images of shape {dataset.in_shape} but preset {recipe.name} is made for "
            f"{made_for}; name other images by --data, or another --model"
        )
    return recipe.model


def _network(model, dataset, in_shape) -> Layer:
    network = model if isinstance(model, Layer) else find_model(model).build(len(dataset.classes))
    try:
        out_shape = network.output_shape(in_shape)
    except InputError as error:
        if network is model:
            raise
        raise InputError(
            f"model is {shown(model)}, which images of shape {in_shape} do not fit ({error}); it must be "
            f"one of {by_shape()}"
        ) from None
    if len(out_shape) != 1 or out_shape[0] < len(dataset.classes):
        raise InputError(
            f"model has outputs of shape {out_shape} but must have one for each of the {len(dataset.classes)} classes"
        )
    if not jax.tree.leaves(jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))):
        raise InputError("model has no parameters but must have some to train")
    return network


def make_loss(recipe: Recipe, network: Layer) -> Loss:
    """The recipe's loss; squared error has the targets of the last layer's activation [I4]."""
    if recipe.loss == "cross-entropy":
        return SoftmaxCrossEntropy(smoothing=recipe.smoothing)
    last = [network, *network.children().values()][-1]
    return SquaredError(low=-1.0 if isinstance(last, Tanh | ScaledTanh) else 0.0)


def make_optimizer(recipe: Recipe, steps: int) -> Optimizer:
    """The recipe's optimizer, its schedule stretched over its epochs of `steps` updates.

    Raises:
        InputError: optax is needed and not installed, or the numbers do not fit.
    """
    others = recipe.rates
    schedule = _schedule(recipe, others.pop("learning_rate"), steps)
    if recipe.optimizer in ("sgd", "nesterov"):
        optimizer = SGD(schedule, nesterov=recipe.optimizer == "nesterov", **others)
    else:
        try:
            import optax
        except ImportError:
            raise InputError(f"optimizer {recipe.optimizer} needs optax: pip install '.[cli]' in a checkout") from None
        optimizer = Optax(getattr(optax, recipe.optimizer)(schedule, **others))
    if recipe.clip is not None:
        optimizer = Clipped(optimizer, recipe.clip)
    return optimizer if recipe.average is None else Averaged(optimizer, recipe.average)


def _schedule(recipe, eta, steps):
    """Step divides by ten after each third of the epochs; with a warm-up they stretch over the epochs after it."""
    rest = (recipe.epochs - recipe.warmup) * steps
    schedule = {
        "constant": lambda: Constant(eta),
        "cosine": lambda: Cosine(eta, steps=rest),
        "step": lambda: Step(eta, every=-(-rest // 3)),
    }[recipe.schedule]()
    return WarmUp(recipe.warmup * steps, then=schedule) if recipe.warmup else schedule


def make_augmentation(experiment: Experiment) -> Augmentation | None:
    """What the recipe does to a batch; where an image is moved, background comes in: a pixel of 0, normalised."""
    if not experiment.recipe.augment:
        return None
    background = -experiment.normalization.mean / experiment.normalization.std
    return Augmentation(experiment.recipe.augment, fill=background)


def make_plan(recipe: Recipe) -> Plan:
    """How the recipe's steps are computed.

    Raises:
        InputError: there are not so many devices, or the batch is not divided evenly.
    """
    plan = Plan(make_mesh(recipe), recipe.sharded, recipe.accumulate, recipe.precision)
    plan.check_batch_size(recipe.batch_size)
    return plan


def make_mesh(recipe: Recipe) -> Mesh | None:
    """The recipe's devices, as many of each process; None for one alone.

    Raises:
        InputError: there are fewer.
    """
    found, processes = jax.devices(), jax.process_count()
    count = recipe.devices or (len(found) if processes > 1 else 1)
    if count > len(found) or count % processes:
        must = f"at most {len(found)}, those of JAX"
        if processes > 1:
            must += f", and a multiple of the {processes} processes"
        if found[0].platform == "cpu":
            must += "; a CPU is one device, unless XLA_FLAGS=--xla_force_host_platform_device_count=N divides it"
        raise InputError(f"devices is {count} but must be {must}")
    if recipe.devices is None and count == 1:
        return None
    of_each = [[device for device in found if device.process_index == i] for i in range(processes)]
    chosen = [device for own in of_each for device in own[: count // processes]]
    return Mesh(np.array(chosen), ("batch",))


def precision(dtype: str):
    """The context in which this dtype exists."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


@dataclass(frozen=True)
class Told:
    """Tells each observer of an event."""

    observers: tuple[Observer, ...]

    def __call__(self, event: str, *facts: Any) -> None:
        """Call the method of this name."""
        for observer in self.observers:
            getattr(observer, event)(*facts)

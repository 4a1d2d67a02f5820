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

from . import files, verify
from .data import Dataset, Normalization, load_dataset, mirrored
from .errors import InputError, shown
from .files import AnyPath
from .fit import fit
from .inspect import plots
from .inspect.diagnosis import Diagnosis, diagnose
from .inspect.flow import flow
from .inspect.summary import summary
from .layers.activation import ScaledTanh, Tanh
from .layers.base import Layer, Shape
from .losses import Loss, SoftmaxCrossEntropy, SquaredError
from .recipe import Recipe
from .recovery import NonFiniteLoss
from .sgd import SGD, Constant, Cosine, Optax, Optimizer
from .store.runs import Run, check_out
from .training import Evaluation, TrainState, evaluate, init_state
from .zoo.models import MODELS, by_shape, find_model
from .zoo.presets import PRESETS

__all__ = ["Experiment", "Observer", "Recorder", "Result", "prepare", "run"]

DIAGNOSED = 512  # training images on which a network is diagnosed after each epoch
AGREES = 1e-10  # of the hand-written gradient with automatic differentiation, in float64


@dataclass(frozen=True)
class Experiment:
    """A recipe with nothing left open: its values filled in, the data normalised, the network built."""

    recipe: Recipe
    dataset: Dataset
    normalization: Normalization
    network: Layer
    loss: Loss
    train_images: np.ndarray
    train_labels: np.ndarray

    @property
    def in_shape(self) -> Shape:
        """Of one normalised image."""
        return self.train_images.shape[1:]

    @property
    def config(self) -> dict[str, Any]:
        """What is kept beside the parameters: the recipe, the classes and the normalisation."""
        beside = {"classes": self.dataset.classes, "normalization": vars(self.normalization)}
        return self.recipe.to_dict() | beside


@dataclass(frozen=True)
class Result:
    """What `run` returns.

    Attributes:
        experiment: what was done.
        gradient_check: the relative error of the hand-written gradient before training.
        state: the last training state.
        history: a dict for each epoch, see `fit`.
        measured: on the test images.
        parameters: how many numbers are learned.
        seconds: from start to finish.
    """

    experiment: Experiment
    gradient_check: float
    state: TrainState
    history: list[dict]
    measured: Evaluation
    parameters: int
    seconds: float


class Observer:
    """Is told what happens in a `run`; each method does nothing unless a subclass says what."""

    def on_prepared(self, experiment: Experiment) -> None:
        """Nothing has been computed yet."""

    def on_checked(self, experiment: Experiment, gradient_check: float) -> None:
        """The gradient is right; training begins."""

    def on_epoch(self, experiment: Experiment, state: TrainState, metrics: dict, found: tuple[Diagnosis, ...]) -> None:
        """An epoch is over; `found` is the diagnosis on the first training images."""

    def on_divergence(self, experiment: Experiment, diverged: NonFiniteLoss) -> None:
        """The loss is not finite; the run ends."""

    def on_end(self, result: Result) -> None:
        """Training is over and the test images were measured."""


class WrongGradient(ArithmeticError):
    """The gradient of the very network that was to be trained is wrong; nothing was trained."""


def run(recipe: Recipe, *observers: Observer) -> Result:
    """Check the gradient, train, measure; the observers are told in their order.

    Raises:
        InputError: the recipe does not fit the data.
        WrongGradient: the hand-written gradient is not that of automatic differentiation.
        NonFiniteLoss: the loss became NaN or infinite.

    >>> result = run(Recipe(epochs=2, batch_size=64))
    >>> result.experiment.recipe.model, result.parameters, len(result.history), result.measured.accuracy > 0.5
    ('digits', 53002, 2, True)
    """
    started = time.perf_counter()
    experiment = prepare(recipe)
    recipe, network, loss = experiment.recipe, experiment.network, experiment.loss
    images, labels, dtype = experiment.train_images, experiment.train_labels, jnp.dtype(recipe.dtype)
    with precision(recipe.dtype):
        parameters = summary(network, experiment.in_shape).total.parameters
        optimizer = make_optimizer(recipe, recipe.epochs * (len(images) // recipe.batch_size))
        key = jax.random.key(recipe.seed)
        state = init_state(network, optimizer, key, experiment.in_shape, dtype=dtype)
        _tell(observers, "on_prepared", experiment)
        error = verify.check_network(network, loss, state.params, images[:32], labels[:32], key)
        if not error <= AGREES:
            raise WrongGradient(
                f"the hand-written gradient differs from jax.grad by {error:.1e}, allowed is {AGREES}; "
                "nothing was trained"
            )
        _tell(observers, "on_checked", experiment, error)
        examined = jnp.asarray(images[:DIAGNOSED], dtype)
        test = experiment.normalization(experiment.dataset.test_images), experiment.dataset.test_labels
        try:
            state, history = fit(
                network,
                loss,
                optimizer,
                state,
                images,
                labels,
                batch_size=recipe.batch_size,
                epochs=recipe.epochs,
                target_error=recipe.target_error,
                test=test,
                on_epoch=lambda state, metrics: _tell(
                    observers, "on_epoch", experiment, state, metrics, diagnose(network, state.params, examined)
                ),
            )
        except NonFiniteLoss as diverged:
            _tell(observers, "on_divergence", experiment, diverged)
            raise
        measured = evaluate(network, loss, state.params, jnp.asarray(test[0], dtype), test[1])
    result = Result(experiment, error, state, history, measured, parameters, time.perf_counter() - started)
    _tell(observers, "on_end", result)
    return result


def prepare(recipe: Recipe) -> Experiment:
    """Load the data, fill in what the recipe leaves open and build the network.

    Raises:
        InputError: the recipe does not fit the data.
    """
    dataset = load_dataset(recipe.data)
    count = len(dataset.train_images) * (2 if recipe.mirror else 1)
    if recipe.batch_size > count:
        raise InputError(
            f"batch_size is {recipe.batch_size} but must be at most {count}, the number of training images"
        )
    most = (2**31 - 1) // (count // recipe.batch_size)
    if recipe.epochs > most:
        raise InputError(f"epochs is {recipe.epochs} but must be at most {most}: updates are counted in int32")
    normalization = Normalization(0.0, 1.0, recipe.padding)
    if recipe.normalize:
        normalization = Normalization.of(dataset.train_images, recipe.padding)
    images, labels = normalization(dataset.train_images), dataset.train_labels
    if recipe.mirror:
        images, labels = mirrored(images, labels)
    model = _model(recipe, dataset, images.shape[1:])
    network = _network(model, dataset, images.shape[1:])
    source = recipe.data if recipe.data == "digits" else str(Path(recipe.data).resolve())
    recipe = dataclasses.replace(recipe, data=source, model=model, **recipe.rates)
    return Experiment(recipe, dataset, normalization, network, make_loss(recipe.loss, network), images, labels)


def _model(recipe, dataset, in_shape) -> str | Layer:
    if recipe.model is None:
        for name, model in MODELS.items():
            if model.in_shape == in_shape:
                return name
        raise InputError(
            f"model is not given and none is made for images of shape {in_shape}; it must be one of {by_shape()}"
        )
    published = PRESETS.get(recipe.name)
    if published and recipe.model == published.model and in_shape != find_model(recipe.model).in_shape:
        raise InputError(
            f"data is {recipe.data!r} with images of shape {dataset.in_shape} but preset {recipe.name} is made for "
            "MNIST's (28, 28, 1); name a folder with its files by --data, or another --model"
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


def make_loss(name: str, network: Layer) -> Loss:
    """The loss by its name in a recipe; squared error has the targets of the last layer's activation [I4]."""
    if name == "cross-entropy":
        return SoftmaxCrossEntropy()
    last = [network, *network.children().values()][-1]
    return SquaredError(low=-1.0 if isinstance(last, Tanh | ScaledTanh) else 0.0)


def make_optimizer(recipe: Recipe, steps: int) -> Optimizer:
    """The recipe's optimizer, its schedule stretched over `steps` updates.

    Raises:
        InputError: optax is needed and not installed, or the numbers do not fit.
    """
    others = recipe.rates
    eta = others.pop("learning_rate")
    schedule = Cosine(eta, steps=steps) if recipe.schedule == "cosine" else Constant(eta)
    if recipe.optimizer in ("sgd", "nesterov"):
        return SGD(schedule, nesterov=recipe.optimizer == "nesterov", **others)
    try:
        import optax
    except ImportError:
        raise InputError(f"optimizer {recipe.optimizer} needs optax: pip install '.[cli]' in a checkout") from None
    return Optax(getattr(optax, recipe.optimizer)(schedule, **others))


def precision(dtype: str):
    """The context in which this dtype exists."""
    return jax.enable_x64(True) if dtype == "float64" else nullcontext()


def _tell(observers, event, *facts):
    for observer in observers:
        getattr(observer, event)(*facts)


class Recorder(Observer):
    """Keeps a run in a folder: recipe.toml, metrics.jsonl, model.safetensors, curves.png, kernels.png, flow.png.

    Args:
        out: the folder to create, None for the next free runs/NAME-0001; refused before any work if it exists.
    """

    def __init__(self, out: AnyPath | None = None):
        self.out = None if out is None else Path(out)
        check_out(self.out)
        self.run: Run | None = None

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self._open.folder

    @property
    def _open(self) -> Run:
        if self.run is None:
            raise InputError("the folder of a run is not created before its gradient was checked")
        return self.run

    def on_checked(self, experiment, gradient_check):
        self.run = Run.create(
            self.out, experiment.dataset.name, experiment.network, experiment.in_shape, experiment.config
        )
        versions = f"jaxcnn train --config THIS_FILE repeats the run; it was made with jax {jax.__version__}"
        experiment.recipe.write(self.folder / "recipe.toml", versions)

    def on_epoch(self, experiment, state, metrics, found):
        self._open.log(metrics | {f"{layer.name}_{layer.symptom}": layer.share for layer in found})
        self._open.keep(state)

    def on_divergence(self, experiment, diverged):
        self._open.keep(diverged.state)

    def on_end(self, result):
        self._open.draw(result.history, result.state.params)
        files.write(self.folder / "flow.png", _flow_of_one(result, self.folder.name))


def _flow_of_one(result, name):
    """The picture of the first test image that is taken for another class; of the first, if none is."""
    experiment, predictions = result.experiment, result.measured.predictions
    dataset, labels = experiment.dataset, experiment.dataset.test_labels
    i = int(np.argmax(predictions != labels))
    (image,) = experiment.normalization(dataset.test_images[i : i + 1])
    with precision(experiment.recipe.dtype):
        passed, E = flow(experiment.network, experiment.loss, result.state.params, image, labels[i])
    right, taken = (dataset.classes[c] for c in (labels[i], predictions[i]))
    outcome = f"{right} taken for {taken}" if right != taken else right
    return plots.flow_picture(passed, dataset.classes, f"{name}: test image {i}, {outcome}; loss {E:.2g}")

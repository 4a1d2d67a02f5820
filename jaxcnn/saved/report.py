"""A saved run as one page that needs nothing else: what it learned, where it errs, and one image's way through it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Dataset
from ..errors import InputError, reason
from ..experiment import make_loss, precision
from ..html import document, fact_list, picture
from ..inspect import plots
from ..inspect.confusion import CONFUSION_STYLE, confusion_table
from ..inspect.flow import flow
from ..inspect.summary import summary
from ..store.runs import Saved
from ..training import Evaluation, evaluate
from .classify import class_names, probabilities

MISTAKES = 24  # misclassified images that are shown
RUN_STYLE = """
img{max-width:100%}img.small{max-width:32rem}
figure{display:inline-block;margin:0 1rem 1rem 0;text-align:center;vertical-align:top;width:7rem}
figure img{width:6rem;image-rendering:pixelated}figcaption{font-size:12px;overflow-wrap:anywhere}
"""


@dataclass(frozen=True)
class Example:
    """The image that is followed through the network.

    Attributes:
        name: what it is called.
        image: float32 (H, W, C) from 0 to 1.
        label: its class; None where it is not known, and the class that it is taken for stands in.
    """

    name: str
    image: np.ndarray
    label: int | None = None


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The epochs in a run's metrics.jsonl; none if there is no such file.

    Raises:
        InputError: it is not what `jaxcnn train` writes.
    """
    path = folder / "metrics.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for metrics in history:
            _ = [float(metrics[name]) for name in ("epoch", "loss", "accuracy")]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is corrupt ({reason(error)}); it must be written by jaxcnn train") from None
    return history


def evaluated(saved: Saved, dataset: Dataset) -> Evaluation:
    """The network on the test images of a data set.

    Raises:
        InputError: the images do not fit the network.
    """
    network = saved.checkpoint.network
    with precision(saved.recipe.dtype):
        images = saved.normalization(dataset.test_images)
        params = jax.tree.map(jnp.asarray, saved.checkpoint.params)
        return evaluate(network, make_loss(saved.recipe, network), params, images, dataset.test_labels)


def run_page(
    saved: Saved,
    dataset: Dataset,
    measured: Evaluation,
    history: Sequence[dict[str, Any]] = (),
    title: str = "",
    example: Example | None = None,
) -> str:
    """The HTML.

    Args:
        saved: the run.
        dataset: its own, or another of the same shape.
        measured: the network on the test images, from `evaluated`.
        history: a dict for each epoch, from `read_history`; without any there are no curves.
        title: the heading.
        example: the image that is followed; the first test image taken for another class unless given.
    """
    names = class_names(dataset.classes, len(measured.confusion))
    wrong = np.flatnonzero(measured.predictions != dataset.test_labels)
    if example is None:
        i = int(wrong[0]) if wrong.size else 0
        example = Example(f"test image {i}", dataset.test_images[i], int(dataset.test_labels[i]))
    kernels = plots.kernels(saved.checkpoint.params)
    layers = summary(saved.checkpoint.network, saved.checkpoint.in_shape)
    sections = {
        "Curves": picture(plots.curves(list(history)), "loss and error over the epochs") if history else "",
        "Confusion": "<p>Rows are the true class, columns the predicted.</p>"
        + confusion_table(measured.confusion, names),
        "Mistakes": _mistakes(saved, dataset, wrong, names),
        "One image, forward and back": _followed(saved, example, names),
        "Kernels": "" if kernels is None else picture(kernels, "the kernels of the first convolution", "small"),
        "Layers": f"<pre>{escape(str(layers))}</pre>",
        "Recipe": fact_list(_recipe(saved)),
    }
    body = "".join(f"<h2>{head}</h2>{content}" for head, content in sections.items() if content)
    outcome = f"{len(dataset.test_images):,} images of {escape(dataset.name)}, loss {measured.loss:.4f}"
    lead = f"<p><strong>Test accuracy {measured.accuracy:.2%}</strong> on {outcome}</p>"
    return document(title, lead + body, RUN_STYLE + CONFUSION_STYLE)


def _mistakes(saved, dataset, wrong, names):
    """The misclassified images, the surest first."""
    if not wrong.size:
        return "<p>No test image was misclassified.</p>"
    found = probabilities(saved, dataset.test_images[wrong])
    order = np.argsort(-found.max(axis=1), kind="stable")[:MISTAKES]
    shown = "".join(
        _figure_of(dataset.test_images[wrong[k]], names[dataset.test_labels[wrong[k]]], names, found[k]) for k in order
    )
    which = "the surest first" if len(order) == len(wrong) else f"the {len(order)} of which the network was surest"
    return f"<p>{len(wrong):,} of {len(dataset.test_images):,} test images are misclassified; {which}:</p>{shown}"


def _figure_of(image, right, names, found):
    k = int(found.argmax())
    words = escape(f"{right} taken for {names[k]}, {found[k]:.1%}")
    return f"<figure>{picture(plots.as_png(image), words)}<figcaption>{words}</figcaption></figure>"


def _followed(saved, example, names):
    (found,) = probabilities(saved, example.image[None])
    taken = int(found.argmax())
    label = taken if example.label is None else example.label
    (image,) = saved.normalization(example.image[None])
    network = saved.checkpoint.network
    with precision(saved.recipe.dtype):
        params = jax.tree.map(jnp.asarray, saved.checkpoint.params)
        passed, E = flow(network, make_loss(saved.recipe, network), params, image, label)
    said = f"{example.name}: taken for {names[taken]} with probability {found[taken]:.1%}. "
    if example.label is None:
        said += f"Its class is not known; the sensitivities are those of the loss for {names[label]}"
    else:
        said += f"Its class is {names[label]}, and the sensitivities are those of the loss for it"
    words = f"{said}; the loss is {E:.2g}."
    drawn = picture(plots.flow_picture(passed, names, ""), "what each layer puts out and its sensitivity")
    return f"<p>{escape(words)}</p>{drawn}"


def _recipe(saved):
    """What is kept beside the parameters, in words that fit a line."""
    info = {name: value for name, value in saved.checkpoint.info.items() if name not in ("classes", "normalization")}
    model = {"model": "layers of its own"} if isinstance(info.get("model"), dict) else {}
    numbers = ", ".join(f"{name} {value}" for name, value in vars(saved.normalization).items())
    return info | model | {"normalization": numbers, "classes": len(saved.classes)}

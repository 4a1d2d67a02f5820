"""One image under several rules of attribution, with the network of a saved run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..change.attribution import attribute
from ..change.relevance import Epsilon, epsilon_gamma_box, epsilon_plus, relevance_rules
from ..change.saliency import deconvnet, guided, is_rectifier
from ..errors import InputError
from ..experiment import precision
from ..layers.base import Layer
from ..layers.rewrite import merged_batch_norms
from ..layers.rules import Rule, Selector
from ..store.runs import Saved


@dataclass(frozen=True)
class Attribution:
    """A way to attribute.

    Attributes:
        title: two lines.
        rules: of a network and the lowest and the highest value of a pixel, as the network gets it.
    """

    title: str
    rules: Callable[[Layer, float, float], Mapping[Selector, Rule]]


ATTRIBUTIONS = {
    "gradient": Attribution("gradient\n", lambda network, low, high: {}),
    "guided": Attribution("guided\nbackpropagation", lambda network, low, high: {is_rectifier: guided}),
    "deconvnet": Attribution("deconvnet\n", lambda network, low, high: {is_rectifier: deconvnet}),
    "epsilon": Attribution(
        "relevance:\nepsilon", lambda network, low, high: relevance_rules(network, Epsilon(), Epsilon())
    ),
    "epsilon-plus": Attribution("relevance:\nz+, epsilon", lambda network, low, high: epsilon_plus(network)),
    "epsilon-gamma-box": Attribution("relevance:\nbox, gamma, epsilon", epsilon_gamma_box),
}
"""By the names that `jaxcnn attribute` has for them."""


def attribution_maps(saved: Saved, image: np.ndarray, label: int, names: Iterable[str]) -> dict[str, np.ndarray]:
    """For each name of `ATTRIBUTIONS` how the pixels count for a class: (H, W), summed over the channels.

    Args:
        saved: the run; its batch norms are merged.
        image: float32 (H, W, C) from 0 to 1, of the shape of the run's images.
        label: the class.
        names: of rules.

    Raises:
        InputError: a layer of the network has no agreed rule.
    """
    normalization, found = saved.normalization, {}
    low, high = ((end - normalization.mean) / normalization.std for end in (0, 1))
    inside = slice(normalization.padding, -normalization.padding or None)
    with precision(saved.recipe.dtype):
        params = jax.tree.map(
            lambda w: jnp.asarray(w, jnp.promote_types(w.dtype, jnp.float32)), saved.checkpoint.params
        )
        network, params = merged_batch_norms(saved.checkpoint.network, params)
        for name in names:
            try:
                rules = ATTRIBUTIONS[name].rules(network, low, high)
            except InputError as error:
                raise InputError(
                    f"rule is {name!r} but {error}; gradient, guided and deconvnet take any network"
                ) from None
            of_image = attribute(network, params, normalization(image[None]), rules, np.array([label]))
            found[name] = np.asarray(of_image[0, inside, inside].sum(axis=-1))
    return found

"""`attribute`: the class it begins from, the mode it runs in, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_networks import IN_SHAPE, RESIDUAL, drawn_for

from jaxcnn import Conv2d, Dense, Dropout, Flatten, InputError, ReLU, Sequential, with_rules
from jaxcnn.change import attribute, attribution, epsilon_plus, guided, is_rectifier

NETWORK = Sequential((Conv2d(4, 3), ReLU(), Dropout(0.5), Flatten(), Dense(5)))


@pytest.mark.usefixtures("float64")
def test_without_rules_it_is_the_gradient_of_the_output_as_evaluated():
    labels = np.array([1, 3, 0])
    for network in NETWORK, RESIDUAL:
        params, x = drawn_for(network)
        expected = jax.grad(lambda x, n=network, p=params: n.apply(p, x)[jnp.arange(3), labels].sum())(x)
        np.testing.assert_allclose(attribute(network, params, x, None, labels), expected, rtol=1e-10, atol=1e-12)


def test_the_class_is_the_one_with_the_largest_output_unless_it_is_given():
    with jax.enable_x64(True):
        params, x = drawn_for(NETWORK)
        best = NETWORK.apply(params, x).argmax(axis=1)
        for rules in None, {is_rectifier: guided}, epsilon_plus(NETWORK):
            found = attribute(NETWORK, params, x, rules)
            np.testing.assert_array_equal(found, attribute(NETWORK, params, x, rules, best))
            assert not np.allclose(found, attribute(NETWORK, params, x, rules, (best + 1) % 5))


def test_samples_do_not_mix():
    with jax.enable_x64(True):
        params, x = drawn_for(RESIDUAL)
        for rules in None, epsilon_plus(RESIDUAL):
            alone = [attribute(RESIDUAL, params, image[None], rules)[0] for image in x]
            np.testing.assert_allclose(attribute(RESIDUAL, params, x, rules), jnp.stack(alone), rtol=1e-9, atol=1e-12)


def test_another_image_is_not_compiled_anew_and_lists_are_images():
    params = NETWORK.init(jax.random.key(0), IN_SHAPE)
    x = np.random.default_rng(0).random((2, *IN_SHAPE), np.float32)
    before = attribution._attributed._cache_size()
    first = attribute(NETWORK, params, x, epsilon_plus(NETWORK))
    second = attribute(NETWORK, params, x.tolist(), epsilon_plus(NETWORK))
    assert attribution._attributed._cache_size() == before + 1
    np.testing.assert_array_equal(first, second)
    assert first.dtype == jnp.float32


def test_relevance_is_what_jax_hands_back_through_a_network_under_rules():
    with jax.enable_x64(True):
        params, x = drawn_for(RESIDUAL)
        rules = epsilon_plus(RESIDUAL)
        y, back = jax.vjp(lambda params, x: with_rules(RESIDUAL, rules).apply(params, x), params, x)
        no_gradients, R = back(jnp.eye(4)[y.argmax(axis=1)])
        np.testing.assert_allclose(R, attribute(RESIDUAL, params, x, rules), rtol=1e-9, atol=1e-12)
        assert not any(leaf.any() for leaf in jax.tree.leaves(no_gradients)), "relevance is of x alone"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network": ReLU}, r"network is <class 'jaxcnn.layers.activation.ReLU'> but must be a layer"),
        ({"network": Conv2d(4, 3)}, r"the network's output has shape \(11, 10, 4\) but must have shape \(classes,\)"),
        ({"labels": [1]}, r"attribute: labels has shape \(1,\) but must have shape \(2,\)"),
        ({"labels": [0.0, 1.0]}, r"attribute: labels is of type float32 but must be integers"),
        ({"labels": [0, 5]}, r"attribute: labels go from 0 to 5 but the network has 5 outputs"),
        ({"labels": [-1, 4]}, r"attribute: labels go from -1 to 4 but the network has 5 outputs"),
        ({"rules": {"relu2": guided}}, r"rules has 'relu2' but must have names or classes of layers"),
        ({"x": "image"}, r"x has shape \(\) and type <U5 but must be numbers"),
        ({"x": np.ones((2, 13, 12))}, r"layer 'conv1' with input shape \(13, 12\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(change, sentence):
    params = NETWORK.init(jax.random.key(0), IN_SHAPE)
    given = {"network": NETWORK, "x": np.ones((2, *IN_SHAPE)), "rules": None, "labels": [0, 1]} | change
    with pytest.raises(InputError, match=sentence):
        attribute(given["network"], params, given["x"], given["rules"], np.asarray(given["labels"]))

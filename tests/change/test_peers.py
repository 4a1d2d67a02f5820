"""Attributions are those of Captum and zennit for the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_networks import PLAIN, RESIDUAL, drawn_for
from torch_twin import torch, twin

from jaxcnn import BatchNorm, ReLU, merged_batch_norms, rebuild
from jaxcnn.change import (
    Epsilon,
    attribute,
    deconvnet,
    epsilon_gamma_box,
    epsilon_plus,
    guided,
    relevance_rules,
)

captum = pytest.importorskip("captum.attr", reason="Captum is not installed")
composites = pytest.importorskip("zennit.composites", reason="zennit is not installed")
Gradient = pytest.importorskip("zennit.attribution").Gradient
SequentialMergeBatchNorm = pytest.importorskip("zennit.canonizers").SequentialMergeBatchNorm
Sum = pytest.importorskip("zennit.layer").Sum

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:Setting (forward, backward|backward) hooks:UserWarning"),  # Captum's own
]


def tensor(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).requires_grad_()


def ours(attribution):
    return attribution.detach().numpy().transpose(0, 2, 3, 1)


def of_zennit(composite, network, params, x, labels):
    from_outputs = torch.tensor(np.eye(4)[labels])
    with Gradient(model=twin(network, params, Sum), composite=composite) as attributor:
        _, R = attributor(tensor(x), lambda outputs: outputs * from_outputs)
    return ours(R)


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def given(request):
    """A network, its parameters, images and a class for each."""
    params, x = drawn_for(request.param)
    y = request.param.apply(params, x)
    np.testing.assert_allclose(twin(request.param, params)(tensor(x)).detach(), y, rtol=1e-12)
    return request.param, params, x, np.asarray(y.argmax(axis=1) + 1) % 4


COMPOSITES = [
    (composites.EpsilonGammaBox, {"low": -0.75, "high": 1.25}, epsilon_gamma_box),
    (composites.EpsilonGammaBox, {"low": -0.75, "high": 1.25, "epsilon": 0.1, "gamma": 2.0}, epsilon_gamma_box),
    (composites.EpsilonPlus, {}, epsilon_plus),
]


@pytest.mark.parametrize(("theirs", "more", "rules"), COMPOSITES, ids=["box", "box, other numbers", "plus"])
def test_relevance_is_that_of_zennits_composite(given, theirs, more, rules):
    network, params, x, labels = given
    network, params = merged_batch_norms(network, params)
    R = attribute(network, params, x, rules(network, **more), labels)
    close(R, of_zennit(theirs(**more), network, params, x, labels), 1e-10)


@pytest.mark.parametrize(("theirs", "more", "rules"), COMPOSITES[::2], ids=["box", "plus"])
def test_batch_norms_are_merged_as_zennits_canonizer_does(given, theirs, more, rules):
    network, params, x, labels = given
    # what it leaves of a norm still divides by sqrt(1 + epsilon)
    network = rebuild(network, lambda layer: BatchNorm(1e-12) if isinstance(layer, BatchNorm) else layer)
    R_theirs = of_zennit(theirs(**more, canonizers=[SequentialMergeBatchNorm()]), network, params, x, labels)
    network, params = merged_batch_norms(network, params)
    close(attribute(network, params, x, rules(network, **more), labels), R_theirs, 1e-9)


@pytest.mark.parametrize(("theirs", "rule"), [(captum.GuidedBackprop, guided), (captum.Deconvolution, deconvnet)])
def test_guided_backpropagation_and_the_deconvnet_are_those_of_captum(given, theirs, rule):
    network, params, x, labels = given
    found = attribute(network, params, x, {ReLU: rule}, labels)
    close(found, ours(theirs(twin(network, params)).attribute(tensor(x), target=torch.tensor(labels))), 1e-12)


@pytest.mark.parametrize(("theirs", "rule"), [(composites.GuidedBackprop, guided), (composites.DeconvNet, deconvnet)])
def test_guided_backpropagation_and_the_deconvnet_are_those_of_zennit(given, theirs, rule):
    network, params, x, labels = given
    found = attribute(network, params, x, {ReLU: rule}, labels)
    hot = torch.tensor(np.eye(4)[labels])
    with Gradient(model=twin(network, params, Sum), composite=theirs()) as attributor:
        close(found, ours(attributor(tensor(x), hot)[1]), 1e-12)


def test_epsilon_relevance_is_that_of_captum_with_the_batch_norms_as_they_are():
    params, x = drawn_for(PLAIN)
    labels = np.array([2, 0, 3])
    theirs = captum.LRP(twin(PLAIN, params)).attribute(tensor(x), target=torch.tensor(labels))
    rules = relevance_rules(PLAIN, Epsilon(1e-9), Epsilon(1e-9), epsilon=1e-9)
    close(attribute(PLAIN, params, x, rules, labels), ours(theirs), 1e-5)  # its max pooling has an epsilon, too


def test_single_precision_is_double_precision_to_the_fifth_digit(given):
    network, params, x, labels = given
    network, params = merged_batch_norms(network, params)
    for rules in epsilon_gamma_box(network, -0.75, 1.25), epsilon_plus(network):
        R = attribute(network, params, x, rules, labels)
        single = jax.tree.map(lambda w: w.astype(jnp.float32), params)
        close(attribute(network, single, x, rules, labels), R, 1e-5)

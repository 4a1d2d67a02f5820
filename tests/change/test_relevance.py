"""Relevance propagation: every rule against the contributions of entry to entry, in float64; what is conserved."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_networks import IN_SHAPE, RESIDUAL, drawn_for

from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    CombineMaps,
    Concatenate,
    Conv2d,
    ConvTranspose2d,
    Crop2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    Identity,
    InputError,
    LayerNorm,
    MaxPool2d,
    Pad2d,
    Product,
    Recompute,
    ReLU,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    Softmax,
    StochasticPool2d,
    Subsample2d,
    Sum,
    Tanh,
    Upsample2d,
    rebuild,
    walk,
    with_rules,
)
from jaxcnn.change import (
    Box,
    Epsilon,
    Gamma,
    ZPlus,
    attribute,
    epsilon_gamma_box,
    epsilon_plus,
    relevance_rules,
    shared_by_outputs,
    signal_takes_all,
)
from jaxcnn.zoo.models import MODELS

pytestmark = pytest.mark.usefixtures("float64")

SMALL = (5, 6, 4)
LINEAR = [
    (Conv2d(3, 3), SMALL),
    (Conv2d(6, (3, 2), stride=2, padding=((2, 1), (0, 1)), groups=2), SMALL),
    (Conv2d(2, 2, dilation=2, bias=False), SMALL),
    (Conv2d(2, 3, padding=1, connections=((0, 3), (1,))), SMALL),
    (ConvTranspose2d(2, 3, stride=2, padding=1), (3, 2, 4)),
    (Dense(5), (7,)),
    (Subsample2d(2), SMALL),
    (Scale(), SMALL),
]
AFFINE = [
    *LINEAR,
    (AvgPool2d(3, 2, 1), SMALL),
    (GlobalAvgPool2d(), SMALL),
    (Upsample2d(2), (3, 2, 4)),
    (Upsample2d(2, "bilinear"), (3, 2, 4)),
    (BatchNorm(), SMALL),
    (CombineMaps(3, 2), SMALL),
]


def drawn_layer(layer, in_shape):
    """Scales and factors of both signs, too."""
    params, x = drawn_for(layer, in_shape, samples=2)
    signs = {name: jnp.where(jnp.arange(w.shape[-1]) % 3 == 1, -1.0, 1.0) for name, w in params.items()}
    return {name: w if name == "variance" else signs[name] * w for name, w in params.items()}, x


def contributions(layer, params, x):
    """(samples, inputs, outputs) of x_i m_ij, the bias (outputs) and m (inputs, outputs), found by unit inputs."""
    entries = x[0].size
    b = np.asarray(layer.apply(params, jnp.zeros((1, *x.shape[1:])))).ravel()
    m = np.asarray(layer.apply(params, jnp.eye(entries).reshape(entries, *x.shape[1:]))).reshape(entries, -1) - b
    return np.asarray(x).reshape(len(x), -1, 1) * m, b, m


def shares(c, z, R, epsilon=1e-6):
    """R' of each input, one after the other: c_ij R_j / (z_j + epsilon sign z_j)."""
    handed = np.zeros(c.shape[:2])
    for n, i, j in np.ndindex(*c.shape):
        handed[n, i] += c[n, i, j] * R[n, j] / (z[n, j] + (epsilon if z[n, j] >= 0 else -epsilon))
    return handed


def handed_by(rule, layer, params, x, R):
    _, residuals = (changed := with_rules(layer, {"": rule})).forward(params, x)
    return np.asarray(changed.backward(residuals, R)[0]).reshape(len(x), -1)


def relevance_for(layer, params, x):
    y, _ = layer.forward(params, x)
    R = jax.random.normal(jax.random.key(5), y.shape, jnp.float64)
    return R, np.asarray(R).reshape(len(x), -1), np.asarray(y).reshape(len(x), -1)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


each_linear = pytest.mark.parametrize(("layer", "in_shape"), LINEAR, ids=lambda each: type(each).__name__)
each_affine = pytest.mark.parametrize(("layer", "in_shape"), AFFINE, ids=lambda each: type(each).__name__)


@each_affine
def test_epsilon_hands_on_by_contributions_to_the_output(layer, in_shape):
    params, x = drawn_layer(layer, in_shape)
    (R, flat, y), (c, b, _) = relevance_for(layer, params, x), contributions(layer, params, x)
    close(c.sum(axis=1) + b, y)
    close(handed_by(Epsilon(0.25), layer, params, x, R), shares(c, y, flat, 0.25))


@each_affine
def test_of_the_relevance_epsilon_loses_its_part_and_the_bias_its_own(layer, in_shape):
    params, x = drawn_layer(layer, in_shape)
    (R, flat, y), (_, b, _) = relevance_for(layer, params, x), contributions(layer, params, x)
    lost = flat * (b + 0.25 * np.sign(y)) / (y + 0.25 * np.sign(y))
    handed = handed_by(Epsilon(0.25), layer, params, x, R).sum(axis=1)
    np.testing.assert_allclose(flat.sum(axis=1) - handed, lost.sum(axis=1), rtol=1e-9, atol=1e-11)


@each_linear
def test_z_plus_hands_on_by_positive_contributions(layer, in_shape):
    params, x = drawn_layer(layer, in_shape)
    (R, flat, _), (c, b, _) = relevance_for(layer, params, x), contributions(layer, params, x)
    up = np.maximum(c, 0)
    close(handed_by(ZPlus(), layer, params, x, R), shares(up, up.sum(axis=1) + np.maximum(b, 0), flat))


@each_linear
def test_gamma_favours_what_has_the_sign_of_the_output(layer, in_shape):
    params, x = drawn_layer(layer, in_shape)
    (R, flat, y), (c, b, _) = relevance_for(layer, params, x), contributions(layer, params, x)
    assert (y > 0).any()
    assert (y < 0).any()
    expected = 0
    for of, of_sign in ((np.maximum, y > 0), (np.minimum, y < 0)):
        more, bias = c + 0.75 * of(c, 0), b + 0.75 * of(b, 0)
        expected += shares(more, more.sum(axis=1) + bias, flat * of_sign)
    close(handed_by(Gamma(0.75), layer, params, x, R), expected)


@each_linear
def test_box_measures_pixels_from_the_end_that_speaks_least_for_the_output(layer, in_shape):
    params, x = drawn_layer(layer, in_shape)
    (R, flat, _), (c, _, m) = relevance_for(layer, params, x), contributions(layer, params, x)
    low, high = tuple(-0.75 - 0.1 * i for i in range(in_shape[-1])), 1.25
    lows = np.broadcast_to(np.array(low), in_shape).reshape(-1, 1)
    measured = c - lows * np.maximum(m, 0) - high * np.minimum(m, 0)
    assert (measured >= 0).all()
    close(handed_by(Box(low, high), layer, params, x, R), shares(measured, measured.sum(axis=1), flat))


def by_hand(branches, y, R):
    """(7) for branches that hand on entry by entry, given as (output, what it makes of its relevance)."""
    s = R / (y + 1e-6 * np.where(y < 0, -1, 1))
    return sum(onward(out * s) for out, onward in branches)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (Residual(Sequential((Dense(4), Tanh()))), ["body"]),
        (Residual(Sequential((Dense(4), Tanh())), Dense(4)), ["body", "shortcut"]),
        (Sum((Dense(4), Sequential((Dense(4), Tanh())), Identity())), ["dense1", "sequential1", "identity1"]),
    ],
    ids=["around", "shortcut", "three"],
)
def test_branches_share_by_their_outputs(layer, names):
    params, x = drawn_for(layer, (4,), samples=2)
    rules = relevance_rules(layer, ZPlus(), Epsilon(0.25))
    R, flat, y = relevance_for(layer, params, x)
    assert rules[""].rule is shared_by_outputs

    def way(branch, own):
        out = np.asarray(branch.apply(own, x))
        dense = branch.layers[0] if isinstance(branch, Sequential) else branch
        if isinstance(branch, Identity):
            return out, lambda R: R
        own = own.get("dense1", own)
        c, b, _ = contributions(dense, own, x)
        return out, lambda R: shares(c, c.sum(axis=1) + b, R, 0.25)  # Tanh hands on as it is

    expected = by_hand([way(part, params.get(name, {})) for name, part in layer.branches().items()], y, flat)
    changed = with_rules(layer, {**rules, "": shared_by_outputs})
    _, residuals = changed.forward(params, x)
    close(changed.backward(residuals, R)[0], expected)


@pytest.mark.parametrize("gate_first", [False, True])
def test_a_gate_gets_nothing_and_the_signal_all(gate_first):
    gate, signal = Sequential((Dense(4), Sigmoid())), Sequential((Dense(4), Tanh()))
    layer = Product((gate, signal) if gate_first else (signal, gate))
    params, x = drawn_for(layer, (4,), samples=2)
    R, flat, _ = relevance_for(layer, params, x)
    rules = relevance_rules(layer, ZPlus(), Epsilon(0.25))
    changed = with_rules(layer, {**rules, "": signal_takes_all})
    _, residuals = changed.forward(params, x)
    own = params[f"sequential{1 + gate_first}"]["dense1"]
    c, b, _ = contributions(Dense(4), own, x)
    close(changed.backward(residuals, R)[0], shares(c, c.sum(axis=1) + b, flat, 0.25))


CONSERVING = Sequential(
    (
        Pad2d(1),
        Conv2d(6, 3, stride=2, bias=False),
        ReLU(),
        MaxPool2d(2, 1),
        Residual(Sequential((Conv2d(6, 3, padding=1, bias=False), ReLU(), Conv2d(6, 3, padding=1, bias=False)))),
        ReLU(),
        Concatenate((Identity(), Conv2d(3, 1, bias=False))),
        Recompute(Sequential((Scale(), ReLU()))),
        Dropout(0.5),
        Product((Identity(), Sequential((GlobalAvgPool2d(), Dense(9, bias=False), Sigmoid())))),
        Upsample2d(2, "bilinear"),
        Crop2d((2, 1), (1, 1)),
        StochasticPool2d(2),
        Flatten(),
        Dense(7, bias=False),
        ReLU(),
        Dense(4, bias=False),
    )
)


def from_large_outputs(network):
    """(params, x, y, labels) with weights of 20 times the size: then no denominator is near the stabiliser."""
    params, x = drawn_for(network)
    params = jax.tree.map(lambda w: 20 * w, params)
    y = network.apply(params, x)
    return params, x, np.asarray(y), np.asarray(y.argmax(axis=1))


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(), Gamma(3.0), Epsilon()], ids=str)
def test_without_biases_relevance_is_conserved_from_the_logit_to_the_pixels(rule):
    params, x, y, labels = from_large_outputs(CONSERVING)
    R = attribute(CONSERVING, params, x, relevance_rules(CONSERVING, rule, rule), labels)
    np.testing.assert_allclose(R.sum(axis=(1, 2, 3)), y[range(3), labels], rtol=1e-5)
    assert R.shape == (3, *IN_SHAPE)


@dataclass(frozen=True)
class Telling:
    """A rule that keeps what it was handed and the output, by name."""

    rule: Any
    told: tuple

    def __hash__(self):
        return id(self.told)

    def __call__(self, layer, params, residuals, dy, context):
        self.told[0][context.name] = np.asarray(dy), np.asarray(context.y)
        return self.rule(layer, params, residuals, dy, context)


def test_of_a_whole_network_epsilon_loses_what_its_formula_says():
    network = Sequential(
        (
            Conv2d(6, 3, bias=False),
            ReLU(),
            AvgPool2d(2),
            ReLU(),
            Conv2d(5, 3, bias=False),
            Flatten(),
            Dense(4, bias=False),
        )
    )
    params, x = drawn_for(network)
    told = ({},)
    rules = relevance_rules(network, Epsilon(0.5), Epsilon(0.5), epsilon=0.5)
    lossy = {name: Telling(rule, told) if isinstance(rule, Epsilon) else rule for name, rule in rules.items()}
    y, residuals = (changed := with_rules(network, lossy)).forward(params, x)
    R, _ = changed.backward(residuals, jnp.eye(4)[jnp.array([2, 0, 3])])
    assert sorted(told[0]) == ["avgpool1", "conv1", "conv2", "dense1"]
    lost = sum((handed * 0.5 / (np.abs(z) + 0.5)).sum(axis=tuple(range(1, z.ndim))) for handed, z in told[0].values())
    from_outputs = np.asarray(y)[range(3), [2, 0, 3]]
    assert (np.abs(lost) > 0.1 * np.abs(from_outputs)).all()
    np.testing.assert_allclose(from_outputs - R.sum(axis=(1, 2, 3)), lost, rtol=1e-10)


def test_epsilon_takes_away_from_z_and_not_towards_it():
    layer, params = Dense(1, bias=False), {"weight": jnp.array([[1.0], [-3.0]])}
    x = jnp.array([[1.0, 1.0], [5.0, 1.0], [3.0, 1.0]])  # z is -2, 2 and 0
    R = handed_by(Epsilon(2.0), layer, params, x, jnp.ones((3, 1)))
    np.testing.assert_allclose(R, [[-1 / 4, 3 / 4], [5 / 4, -3 / 4], [3 / 2, -3 / 2]], rtol=1e-12)


def test_a_composite_gives_every_layer_its_rule_by_name():
    rules = epsilon_gamma_box(RESIDUAL, 0.0, 1.0, epsilon=0.1, gamma=0.5)
    first, inner, last = (rules[name] for name in ("conv1", "residual2/shortcut/conv1", "dense2"))
    assert (first, inner, last) == (Box(0.0, 1.0), Gamma(0.5), Epsilon(0.1))
    assert rules["batchnorm1"] == Epsilon()
    assert rules["residual1"] is shared_by_outputs
    assert epsilon_plus(RESIDUAL)["conv1"] == ZPlus()
    deep = Sequential((Dense(3), ReLU(), Dense(2)))
    assert epsilon_gamma_box(deep, 0.0, 1.0)["dense1"] == Epsilon(), "as zennit's: the box is for convolutions"


def test_every_layer_has_a_rule_or_is_refused_by_its_name():
    for layer in LayerNorm(), GroupNorm(2), Softmax():
        kind = type(layer).__name__
        network = Sequential((Dense(4), Residual(Sequential((layer, Dense(4))))))
        with pytest.raises(
            InputError,
            match=rf"network: residual1/body/{kind.lower()}1 is {kind}\(.*\) but must be a layer for which relevance "
            "propagation has an agreed rule",
        ):
            epsilon_plus(network)
    with pytest.raises(InputError, match=r"network: it is Softmax\(\) but must be"):
        epsilon_plus(Softmax())


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(), Box(0.0, 1.0)], ids=lambda rule: type(rule).__name__)
def test_parts_of_weights_are_refused_where_the_layer_is_not_linear_in_them(rule):
    network = Sequential((BatchNorm(),))
    params, x = drawn_for(network, (4,))
    with pytest.raises(InputError, match=rf"{type(rule).__name__}: batchnorm1 is BatchNorm.* must be linear in its"):
        attribute(network, params, x, {BatchNorm: rule})


@pytest.mark.parametrize(
    ("layer", "rule", "sentence"),
    [
        (
            Product((Dense(4), Tanh())),
            signal_takes_all,
            r"that do not end in Sigmoid are \['dense1', 'tanh1'\] but must",
        ),
        (Product((Sigmoid(), Sigmoid())), signal_takes_all, r"that do not end in Sigmoid are \[\] but must be one"),
        (Sum((Dense(4), Tanh())), shared_by_outputs, "sum1: its branch 'dense1' is under no rule but must be"),
    ],
    ids=["signals", "gates", "no rules"],
)
def test_joins_that_cannot_be_divided_are_refused(layer, rule, sentence):
    network = Sequential((layer, Flatten()))
    params, x = drawn_for(network, (4,), samples=2)
    with pytest.raises(InputError, match=sentence):
        attribute(network, params, x, {type(layer): rule})


def test_networks_with_rules_already_are_known_by_what_is_under_them():
    network = Sequential((Conv2d(3, 3), ReLU(), Flatten(), Dense(4)))
    params, x = drawn_for(network)
    ruled = with_rules(network, {Conv2d: Epsilon()})
    assert epsilon_gamma_box(ruled, 0.0, 1.0) == epsilon_gamma_box(network, 0.0, 1.0)
    np.testing.assert_array_equal(
        attribute(rebuild(network, lambda layer: layer), params, x, epsilon_plus(network)),
        attribute(network, params, x, epsilon_plus(network)),
    )


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_network_of_the_zoo_has_its_rules(model):
    network = MODELS[model].build(10)
    rules = epsilon_gamma_box(network, 0.0, 1.0)
    assert set(rules) >= {name for name, _ in walk(network)}
    with_rules(network, rules)

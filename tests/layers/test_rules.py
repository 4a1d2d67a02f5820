"""Rules in the place of layers' backward: which layers they take, what they are told, and where they act."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    BatchNorm,
    Concatenate,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Identity,
    InputError,
    MaxPool2d,
    Product,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    fit,
    init_state,
    init_statistics,
    merged,
    relu_after_pool,
    spread_over,
    summary,
    train_epoch,
    train_step,
    walk,
    with_rules,
)
from jaxcnn.layers.rules import Ruled
from jaxcnn.store.spec import spec_to_json

BODY = Sequential((Conv2d(3, 3, padding=1), BatchNorm(), ReLU()))
GATE = Product((Identity(), Sequential((Conv2d(3, 1), Sigmoid()))))
NETWORK = Sequential(
    (
        Conv2d(3, 3),
        ReLU(),
        MaxPool2d(2),
        Residual(BODY),
        Recompute(Sequential((Concatenate((Conv2d(2, 3, padding=1), Identity())), ReLU(), Dropout(0.3)))),
        Conv2d(3, 1),
        GATE,
        Flatten(),
        Dense(4),
    )
)
IN_SHAPE = (9, 8, 2)
LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(7)


def own(layer, params, residuals, dy, context):
    return layer.backward(residuals, dy)


@dataclass(frozen=True)
class Times:
    """dx of a layer times a factor."""

    factor: float

    def __call__(self, layer, params, residuals, dy, context):
        dx, grads = layer.backward(residuals, dy)
        return self.factor * dx, grads


def batch(network=NETWORK, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(1), (6, *IN_SHAPE), dtype)
    params = jax.tree.map(lambda w: w.astype(dtype), network.init(jax.random.key(0), IN_SHAPE))
    return params, x, jnp.arange(6) % 4


def chain(network, params, x, dy=None):
    y, residuals = network.forward(params, x, train=True, key=KEY)
    dy = jax.random.normal(jax.random.key(2), y.shape, y.dtype) if dy is None else dy
    return y, *network.backward(residuals, dy)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_every_layer_under_its_own_rule_is_the_same_network():
    params, x, _ = batch()
    ruled = with_rules(NETWORK, {lambda name, layer: True: own})
    same(chain(NETWORK, params, x), chain(ruled, params, x))
    assert jax.tree.structure(ruled.init(jax.random.key(0), IN_SHAPE)) == jax.tree.structure(params)
    assert [path for path, _ in walk(ruled)] == [path for path, _ in walk(NETWORK)]
    assert ruled.output_shape(IN_SHAPE) == (4,)
    counted = [[row.parameters for row in summary(each, IN_SHAPE).rows] for each in (ruled.layer, NETWORK)]
    assert counted[0] == counted[1]
    statistics = init_statistics(NETWORK, params, IN_SHAPE)
    same(statistics, init_statistics(ruled, params, IN_SHAPE))
    at_rest = merged(params, statistics)
    same(NETWORK.apply(at_rest, x), ruled.apply(at_rest, x))


def test_a_rule_is_taken_by_class_by_name_and_by_predicate_and_the_first_counts():
    def names(rules):
        found = with_rules(NETWORK, rules)
        return {part.name: part.rule for part in ruled_inside(found)}

    def ruled_inside(layer):
        if isinstance(layer, Ruled):
            yield layer
        for child in layer.children().values():
            yield from ruled_inside(child)

    once, twice = Times(1.0), Times(2.0)
    assert names({ReLU: once}) == {
        "relu1": once, "residual1/body/relu1": once, "recompute1/body/relu1": once
    }  # fmt: skip
    assert names({"residual1/body/relu1": twice, ReLU: once}) == {
        "relu1": once, "residual1/body/relu1": twice, "recompute1/body/relu1": once
    }  # fmt: skip
    assert names({lambda name, layer: name.endswith("/body"): once}) == {
        "residual1/body": once, "recompute1/body": once
    }  # fmt: skip
    assert names({"": once, Residual: twice}) == {"": once, "residual1": twice}
    assert names({lambda name, layer: False: once}) == {}


def test_a_rule_acts_where_it_stands_and_nowhere_else():
    params, x, _ = batch()
    _, dx, grads = chain(NETWORK, params, x)
    for name, before in (
        ("dense1", {"dense1"}),
        ("residual1/body/conv1", {"dense1", "product1", "conv2", "recompute1", "residual1"}),
        ("recompute1/body/concatenate1/conv1", {"dense1", "product1", "conv2", "recompute1"}),
    ):
        _, changed_dx, changed = chain(with_rules(NETWORK, {name: Times(2.0)}), params, x)
        assert not np.allclose(changed_dx, dx)
        for each in grads:
            as_before = jax.tree.all(jax.tree.map(np.allclose, grads[each], changed[each]))
            assert as_before == (each in before), (name, each)
    _, doubled, _ = chain(with_rules(NETWORK, {"": Times(2.0)}), params, x)
    np.testing.assert_array_equal(doubled, 2 * dx)


def test_a_rule_is_told_what_went_in_and_what_came_out_and_the_parameters():
    params, x, _ = batch()
    told = {}

    def telling(layer, params, residuals, dy, context):
        told[context.name] = layer, params, context, dy
        return layer.backward(residuals, dy)

    y, _, _ = chain(with_rules(NETWORK, {lambda name, layer: True: telling}), params, x)
    layer, own_params, context, _ = told["conv1"]
    assert layer == NETWORK.layers[0]
    same(own_params, params["conv1"])
    np.testing.assert_array_equal(context.x, x)
    np.testing.assert_array_equal(context.y, told["relu1"][2].x)
    np.testing.assert_array_equal(told[""][2].y, y)
    np.testing.assert_array_equal(told["dense1"][2].y, y)
    y_again, _ = layer.forward(own_params, context.x)
    np.testing.assert_array_equal(context.y, y_again)
    dropout = told["recompute1/body/dropout1"]
    again, _ = dropout[0].forward({}, dropout[2].x, train=True, key=dropout[2].key)
    np.testing.assert_array_equal(again, dropout[2].y)


def test_jax_grad_and_the_chain_and_a_step_take_the_same_new_way():
    params, x, labels = batch()
    ruled = with_rules(NETWORK, {ReLU: Times(0.5), Residual: Times(3.0)})
    y, residuals = ruled.forward(params, x, train=True, key=KEY)
    _, of_loss = LOSS.forward(y, labels)
    _, by_hand = ruled.backward(residuals, LOSS.backward(of_loss))
    by_jax = jax.jit(jax.grad(lambda params: LOSS.apply(ruled.apply(params, x, train=True, key=KEY), labels)))(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), by_hand, by_jax)

    plain = jax.grad(lambda params: LOSS.apply(NETWORK.apply(params, x, train=True, key=KEY), labels))(params)
    assert not np.allclose(plain["conv1"]["weight"], by_jax["conv1"]["weight"])


def test_training_takes_rules_as_one_argument():
    _, x, labels = batch()
    optimizer = SGD(0.1)
    state = init_state(NETWORK, optimizer, jax.random.key(0), IN_SHAPE)
    rules = {ReLU: Times(0.5)}
    args = LOSS, optimizer, state, x, labels
    for train in (
        partial(train_step),
        partial(train_epoch, batch_size=3),
        lambda *args, **more: fit(*args, batch_size=3, epochs=1, **more),
    ):
        with_them, _ = train(NETWORK, *args, rules=rules)
        same(with_them.params, train(with_rules(NETWORK, rules), *args)[0].params)
        plain, _ = train(NETWORK, *args)
        assert not np.allclose(plain.params["conv1"]["weight"], with_them.params["conv1"]["weight"])


def test_a_ruled_network_is_rewritten_under_its_rules():
    ruled = with_rules(Sequential((Conv2d(3, 3), BatchNorm(), ReLU(), MaxPool2d(2))), {BatchNorm: own})
    assert relu_after_pool(ruled).names == ("conv1", "batchnorm1", "maxpool1", "relu1")
    assert spread_over(ruled, "batch").layers[1].layer.batch_axis == "batch"
    held = with_rules(Sequential((ReLU(), MaxPool2d(2))), {ReLU: own})
    assert relu_after_pool(held).names == ("relu1", "maxpool1"), "the rule stays where it was put"


def test_rules_of_rules_are_taken_one_around_the_other():
    params, x, _ = batch()
    _, dx, _ = chain(NETWORK, params, x)
    inner = with_rules(NETWORK, {"conv1": Times(2.0)})
    _, both, _ = chain(with_rules(inner, {Conv2d: own, "": Times(3.0)}), params, x)
    np.testing.assert_array_equal(both, 3 * (2 * dx))


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"conv9": own}, r"rules has 'conv9' but must have names or classes of layers that no earlier rule takes; "
         r"layers are conv1, relu1, maxpool1, residual1/body/conv1,"),
        ({Sigmoid: own, Dense: own, "dense1": own}, r"rules has 'dense1' but must"),
        ({BatchNorm: own, MaxPool2d: own, "residual1/body/relu2": own}, r"'residual1/body/relu2'"),
        ({ReLU: 2}, r"rules has the rule 2 but it must be a function"),
        ({ReLU: [own]}, r"rules has the rule .* but it must be hashable"),
        ({3: own}, r"rules has 3 but must have classes of layers, names or functions"),
        ([own], r"rules is .* but must be a dict of rules by class, name or predicate"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_meant_are_refused(rules, sentence):
    with pytest.raises(InputError, match=sentence):
        with_rules(NETWORK, rules)


def test_a_network_under_rules_is_not_written_to_a_file():
    with pytest.raises(InputError, match="Ruled: has <function own .* but they must be numbers"):
        spec_to_json(with_rules(NETWORK, {ReLU: own}))

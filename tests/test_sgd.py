from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn import (
    SGD,
    Averaged,
    Clipped,
    Constant,
    Cosine,
    Dense,
    InputError,
    Optax,
    SoftmaxCrossEntropy,
    Step,
    WarmUp,
    init_state,
    train_step,
)

PARAMS = {"a": {"weight": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.1, 0.2])}, "b": jnp.array(1.5)}


def descend(optimizer, steps=5, state=None):
    """Parameters after some steps on a quadratic with a different curvature for every weight."""
    params = PARAMS
    state = optimizer.init(params) if state is None else state
    for _ in range(steps):
        grads = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size).reshape(w.shape)) * w, params)
        params, state = jax.jit(optimizer.update)(grads, state, params)
    return params


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **(tolerance or {"rtol": 1e-6})), a, b)


def test_the_update_is_t3():
    params, _ = SGD(0.5).update(jax.tree.map(jnp.ones_like, PARAMS), SGD(0.5).init(PARAMS), PARAMS)
    assert_close(params, jax.tree.map(lambda w: w - 0.5, PARAMS))


def test_momentum_and_nesterov_are_optaxs():
    """[T6]; optax.sgd has torch's convention: v <- mu v + g from v = 0."""
    for nesterov in (False, True):
        ours = descend(SGD(0.1, momentum=0.9, nesterov=nesterov))
        assert_close(ours, descend(Optax(optax.sgd(0.1, momentum=0.9, nesterov=nesterov))))
    assert not np.allclose(ours["b"], descend(SGD(0.1, momentum=0.9))["b"])


def test_weight_decay_enters_before_the_momentum():
    theirs = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.9))
    assert_close(descend(SGD(0.1, momentum=0.9, weight_decay=0.3)), descend(Optax(theirs)))


def test_momentum_by_hand():
    """Three steps of (2) on a constant gradient 1: v = 1, 1.5, 1.75."""
    params, optimizer = {"w": jnp.array(0.0)}, SGD(1.0, momentum=0.5)
    state, seen = optimizer.init(params), []
    for _ in range(3):
        params, state = optimizer.update({"w": jnp.array(1.0)}, state, params)
        seen.append(float(params["w"]))
    assert seen == [-1.0, -2.5, -4.25]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(0.1), optax.constant_schedule(0.1)),
        (Cosine(0.1, steps=7), optax.cosine_decay_schedule(0.1, 7)),
        (Cosine(0.1, steps=7, final=0.02), optax.cosine_decay_schedule(0.1, 7, alpha=0.2)),
        (Step(0.1, every=3, factor=0.5), optax.exponential_decay(0.1, 3, 0.5, staircase=True)),
    ],
)
def test_schedules_are_optaxs(ours, theirs):
    for step in range(12):
        assert float(ours(step)) == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-9)
    assert_close(descend(SGD(ours)), descend(Optax(optax.sgd(theirs))), rtol=1e-5)


def test_warm_up_rises_linearly_and_hands_over():
    schedule = WarmUp(4, then=Step(0.8, every=2, factor=0.5))
    np.testing.assert_allclose([schedule(i) for i in range(8)], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.4, 0.4], rtol=1e-6)


def test_a_rate_for_a_subtree_a_parameter_or_a_single_weight():
    """[T3]: eta_ij = eta rates_ij."""
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    single = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    optimizer = SGD(0.5)
    state = optimizer.init(PARAMS, rates={"a": {"weight": single, "bias": 0.1}, "b": 0.0})
    params, _ = optimizer.update(grads, state, PARAMS)
    assert_close(params["a"]["weight"], PARAMS["a"]["weight"] - 0.5 * single)
    assert_close(params["a"]["bias"], PARAMS["a"]["bias"] - 0.05)
    assert params["b"] == PARAMS["b"]
    params, _ = optimizer.update(grads, optimizer.init(PARAMS, rates={"a": 2.0, "b": 1.0}), PARAMS)
    assert_close(params["a"]["weight"], PARAMS["a"]["weight"] - 1.0)


def test_the_dtype_of_the_parameters_stays():
    low = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    by_hand = SGD(Cosine(np.float64(0.1), 5), momentum=np.float64(0.9), weight_decay=np.float32(0.1))
    for optimizer in (by_hand, SGD(np.float32(0.1)), Optax(optax.adam(1e-3))):
        params, _ = optimizer.update(low, optimizer.init(low), low)
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_errors_are_one_sentence():
    for call, message in (
        (lambda: SGD(-0.1), "SGD: learning_rate is -0.1 but must be a number at least 0 and finite"),
        (lambda: SGD(float("nan")), "SGD: learning_rate is nan but must be a number at least 0 and finite"),
        (lambda: SGD(0.1, momentum=1.0), "SGD: momentum is 1.0 but must be a number at least 0 and below 1"),
        (lambda: SGD(0.1, weight_decay=-1), "SGD: weight_decay is -1 but must be a number at least 0 and finite"),
        (lambda: SGD(True), "SGD: learning_rate is True but must be a number at least 0 and finite"),
        (lambda: Constant(float("nan")), "Constant: learning_rate is nan but must be a number at least 0 and finite"),
        (lambda: Cosine(0.1, steps=0), "Cosine: steps is 0 but must be an int of at least 1"),
        (lambda: Cosine(-0.1, steps=5), "Cosine: initial is -0.1 but must be a number at least 0 and finite"),
        (lambda: Step(0.1, every=0), "Step: every is 0 but must be an int of at least 1"),
        (lambda: WarmUp(0, then=Constant(0.1)), "WarmUp: steps is 0 but must be an int of at least 1"),
        (lambda: SGD(0.1, nesterov=True), "SGD: nesterov is True but momentum is 0; it must be above 0"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message
    for rates in ({"a": 1.0}, {"a": {"weight": jnp.ones((3, 2)), "bias": 1.0}, "b": 1.0}):
        with pytest.raises(InputError, match="SGD: rates does not fit params; it must be a prefix"):
            SGD(0.1).init(PARAMS, rates=rates)


def test_the_state_of_another_optimizer_or_of_other_parameters_is_refused():
    plain, heavy = SGD(0.1), SGD(0.1, momentum=0.9)
    adam, descent = Optax(optax.adam(0.1)), Optax(optax.sgd(0.1))
    for optimizer, state in (
        (plain, heavy.init(PARAMS)),
        (heavy, plain.init(PARAMS)),
        (heavy, heavy.init({"a": jnp.ones(2)})),
        (heavy, heavy.init(jax.tree.map(lambda w: jnp.ones((2, *w.shape)), PARAMS))),
        (plain, adam.init(PARAMS)),
        (adam, plain.init(PARAMS)),
        (adam, descent.init(PARAMS)),
        (descent, adam.init(PARAMS)),
    ):
        name = type(optimizer).__name__
        with pytest.raises(InputError) as error:
            optimizer.update(PARAMS, state, PARAMS)
        assert str(error.value) == (
            f"{name}: state is of another optimizer or other parameters but must be from its own init"
        )


def test_what_is_no_optimizer_is_refused():
    bare = "optimizer is a bare GradientTransformationExtraArgs of optax but must be wrapped, as in "
    for optimizer, message in (
        (optax.sgd(0.1), f"{bare}Optax(optax.adam(1e-3))"),
        ("adam", "optimizer is 'adam' but must be one, such as SGD(0.1) or Optax(optax.adam(1e-3))"),
        (SGD, f"optimizer is {SGD!r} but must be one, such as SGD(0.1) or Optax(optax.adam(1e-3))"),
    ):
        with pytest.raises(InputError) as error:
            init_state(Dense(3), optimizer, jax.random.key(0), (4,))
        assert str(error.value) == message
    with pytest.raises(
        InputError, match="Optax: transformation is 'adam' but must be one of optax, such as optax.adam"
    ):
        Optax("adam")


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_clipping_is_optaxs(limit):
    inner = SGD(0.1, momentum=0.9)
    ours = descend(Clipped(inner, limit))
    theirs = optax.chain(optax.clip_by_global_norm(limit), optax.sgd(0.1, momentum=0.9))
    assert_close(ours, descend(Optax(theirs)))
    assert np.allclose(ours["b"], descend(inner)["b"]) == (limit == 1e3)


def test_a_gradient_of_zero_is_clipped_to_zero():
    optimizer = Clipped(SGD(1.0), 1.0)
    params, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    assert_close(params, PARAMS, rtol=0)


@pytest.mark.parametrize("decay", [0.3, 0.0])
def test_the_average_is_the_sum_that_formula_5_unrolls_to(decay):
    """And the update is the optimizer's own."""
    optimizer = Averaged(Clipped(SGD(0.1, momentum=0.9), 0.7), decay)
    params, state, seen = PARAMS, optimizer.init(PARAMS), [PARAMS]
    for _ in range(4):
        grads = jax.tree.map(lambda w: jnp.cos(jnp.arange(w.size).reshape(w.shape)) * w, params)
        params, state = jax.jit(optimizer.update)(grads, state, params)
        seen.append(params)
    assert_close(params, descend(optimizer.optimizer, 4))
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(4)]
    weights = [np.prod(decays)] + [(1 - decays[n]) * np.prod(decays[n + 1 :]) for n in range(4)]
    assert sum(weights) == pytest.approx(1)
    expected = jax.tree.map(lambda *ws: sum(a * w for a, w in zip(weights, ws, strict=True)), *seen)
    assert_close(state.average, expected, rtol=1e-5)


def test_the_average_of_bfloat16_moves():
    """Its steps are smaller than half a unit in the last place of bfloat16."""
    optimizer = Averaged(SGD(1.0), 0.999)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = optimizer.init(params)
    state = replace(state, step=state.step + 10**6)
    params, state = optimizer.update({"w": jnp.full(3, 0.25, jnp.bfloat16)}, state, params)
    assert params["w"].dtype == jnp.bfloat16
    assert_close(state.average, {"w": jnp.full(3, 1 - 0.25e-3)})


def test_a_training_state_predicts_with_its_average():
    for optimizer in (SGD(0.1), Averaged(SGD(0.1), 0.9)):
        state = init_state(Dense(2), optimizer, jax.random.key(0), (3,))
        state, _ = train_step(Dense(2), SoftmaxCrossEntropy(), optimizer, state, jnp.eye(3), jnp.array([0, 1, 1]))
        averaged = isinstance(optimizer, Averaged)
        assert state.averaged is (state.optimizer.average if averaged else state.params)
        assert np.allclose(state.averaged["weight"], state.params["weight"]) != averaged


def test_bad_wrappers_get_one_sentence():
    for make, message in (
        (lambda: Clipped(SGD(0.1), 0), "Clipped: limit is 0.0 but must be above 0"),
        (lambda: Clipped(SGD(0.1), "a"), "Clipped: limit is 'a' but must be a number at least 0 and finite"),
        (lambda: Averaged(SGD(0.1), 1), "Averaged: decay is 1 but must be a number at least 0 and below 1"),
        (lambda: Averaged("adam", 0.9), "optimizer is 'adam' but must be one, such as SGD(0.1)"),
        (
            lambda: Averaged(SGD(0.1), 0.9).update(PARAMS, SGD(0.1).init(PARAMS), PARAMS),
            "Averaged: state is of another optimizer or other parameters but must be from its own init",
        ),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value).startswith(message)


def test_a_gradient_whose_square_is_infinite_is_clipped_too():
    optimizer, params = Clipped(SGD(1.0), 1.0), {"w": jnp.zeros(2)}
    params, _ = optimizer.update({"w": jnp.array([3e20, 4e20])}, optimizer.init(params), params)
    assert_close(params, {"w": jnp.array([-0.6, -0.8])})

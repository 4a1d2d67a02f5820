"""The checks can fail: every fault is a trap that others fell into, and each must be seen."""

import collections
import dataclasses

import jax.numpy as jnp
import pytest

from jaxcnn.verify import OPERATIONS, mutants
from jaxcnn.verify.engine import check
from jaxcnn.verify.mutants import MUTANTS, examine, spoil


def failed(report):
    return [check for check in report.checks if check.verdict == "FAILED"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.op}-{m.fault}")
def test_a_wrong_backward_is_caught_by_autodiff(mutant):
    oracles = {check.oracle for check in failed(examine(mutant, differences=False))}
    assert oracles & {"autodiff", "structure"}
    assert "value" not in oracles


@pytest.mark.parametrize("fault", ["1 - y", "corner wrong by 0.1 %", "sign of relu", "p - t for any t", "a new draw"])
def test_differences_alone_catch_it(fault):
    mutant = next(m for m in MUTANTS if m.fault == fault)
    problem, case = mutant.problem()
    report = check(
        dataclasses.replace(problem, plain=None), name=fault, case=str(case), dtypes=("float64",), terms=case.terms
    )
    assert {check.oracle for check in failed(report)} >= {"differences"}


def test_there_are_many_and_every_operation_has_some():
    assert len(MUTANTS) >= 60
    count = collections.Counter(m.op for m in MUTANTS)
    assert set(count) == set(OPERATIONS)
    assert min(count.values()) >= 3
    assert len({(m.op, m.fault) for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("op", ["dense", "tanh"])
def test_one_per_cent_is_caught_in_every_dtype(op):
    mutant = mutants.Mutant("1 %", op, spoil(0, lambda g, r, dy, h: g * jnp.asarray(1.01, g.dtype)))
    report = examine(mutant, differences=False, dtypes=("float64", "float32", "bfloat16"))
    assert {check.oracle for check in failed(report)} == {"autodiff", "float32", "slope"}
    (slope,) = (check for check in failed(report) if check.oracle == "slope")
    assert slope.error == pytest.approx(0.01, abs=0.004)


def test_a_kink_is_named_and_the_convention_judged():
    mutant = next(m for m in MUTANTS if m.fault == "the last tie owns it")
    by_oracle = {check.oracle: check for check in failed(examine(mutant))}
    assert set(by_oracle) == {"autodiff", "kinks"}
    assert "wrong only at kinks of the function" in by_oracle["autodiff"].note
    assert "must be that of autodiff" in by_oracle["kinks"].note


def test_the_other_checkers_run_and_the_table_counts(monkeypatch):
    two = [m for m in MUTANTS if m.fault in ("the square's 2", "dx stopped")]
    monkeypatch.setattr(mutants, "MUTANTS", two)
    found = list(mutants.outcomes())
    assert [bool(o.checks) for o in found] == [True, True]
    assert all(o.check_grads for o in found)
    text = mutants.mutant_table(found, {"check_grads": (1, 55), "chex": None})
    found = [dataclasses.replace(outcome, chex=None) for outcome in found]
    assert "chex is not installed (pip install '.[peers]' in a checkout)" in mutants.mutant_table(found, {})
    assert "caught: jaxcnn 2 of 2, check_grads 2 of 2, chex" in text
    assert text.endswith("false alarms of check_grads on the right rules: 1 of 55 cases")

"""`jaxcnn verify` as a user meets it."""

import dataclasses
import json
from pathlib import Path

import pytest
from command import run

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_verify_prints_the_table_and_exits_by_the_verdict(capsys, monkeypatch):
    assert run("verify", "--op", "tanh", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert {row["oracle"] for row in result["checks"]} >= {"autodiff", "differences"}

    from jaxcnn.verify import OPERATIONS

    good = OPERATIONS["tanh"]
    wrong = dataclasses.replace(good, op=good.op.with_rule(lambda y, dy: (dy * (1 - y),)))
    monkeypatch.setitem(OPERATIONS, "tanh", wrong)
    assert run("verify", "--op", "tanh") == 1
    assert "FAILED  tanh(" in capsys.readouterr().out


def test_verify_checks_somebody_elses_rule(capsys, monkeypatch):
    Path("their_rules.py").write_text(
        "import jax\nplain = lambda x: x * x\nf = jax.custom_vjp(plain)\n"
        "f.defvjp(lambda x: (x * x, x), lambda x, dy: (x * dy,))\n"
    )
    monkeypatch.syspath_prepend("")
    arguments = ("verify", "their_rules:f", "--plain", "their_rules:plain", "--args", "f32[3]", "--html", "page.html")
    assert run(*arguments, "--json") == 1
    out, err = capsys.readouterr()
    assert err == "jaxcnn: wrote page.html\n"
    result = json.loads(out)
    assert result["failed"] is True
    assert "scaled by 1/2" in {check["note"] for check in result["checks"]}
    assert "scaled by 1/2" in Path("page.html").read_text()


def test_verify_shows_the_mutants_and_the_soak(capsys, monkeypatch):
    from jaxcnn.verify import mutants

    one = [mutant for mutant in mutants.MUTANTS if mutant.fault == "dx stopped"]
    monkeypatch.setattr(mutants, "MUTANTS", one)
    monkeypatch.setattr(mutants, "false_alarms", lambda: {"check_grads": (1, 2), "chex": None})
    assert run("verify", "--mutants", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["mutants"]
    assert row["fault"] == "dx stopped"
    assert row["checks"] == ["autodiff", "differences"]
    assert run("verify", "--soak", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["false_alarms"] == 0

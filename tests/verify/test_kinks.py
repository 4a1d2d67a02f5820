"""Where f has no derivative: reported apart, and judged by the convention that was stated."""

import jax.numpy as jnp
import numpy as np
from rules import FAST, lines, rule

from jaxcnn.verify import check_rule


def test_a_kink_is_reported_apart_and_judged_by_the_stated_convention():
    x = np.array([1.0, 0.0, -2.0])
    right = rule(lambda x: jnp.where(x > 0, x, 0), lambda a, dy: (jnp.where(a[0] > 0, dy, 0),))
    report = check_rule(right, x, plain=lambda x: jnp.maximum(x, 0), **FAST)
    assert not report.failed
    assert not report.passed
    assert report.verdict == f"nothing failed, but 1 of {len(report.checks)} things were not checked"
    reason = lines(report, "not checked")["kinks", "x"].reason
    assert reason.startswith("kink at (1,): ")
    assert "no convention was stated" in reason
    # relu'(0) = 0 is the derivative from below for a positive dy and from above, on the flat side, for none
    for convention, wanted in (("left", True), ("right", False), ("mean", False)):
        assert check_rule(right, x, kinks=convention, **FAST).failed is not wanted, convention
    halved = check_rule(right, x, plain=lambda x: jnp.maximum(x, 0), kinks="autodiff", **FAST)
    assert set(lines(halved)) == {("autodiff", "x"), ("kinks", "x")}
    resampled = [c for c in report.checks if c.note == "resampled away from the kinks"]
    assert [c.verdict for c in resampled] == ["ok"]

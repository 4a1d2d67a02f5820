"""Under jit, vmap and scan."""

import numpy as np
from rules import FAST, lines, rule

from jaxcnn.verify import check_rule


def test_a_rule_that_does_not_vmap_is_told():
    def backward(a, dy):
        if dy.ndim == 1 and type(dy).__name__.endswith("BatchTracer"):
            raise TypeError("no batches")
        return (2 * a[0] * dy,)

    report = check_rule(rule(lambda x: x * x, backward), np.array([1.0, 2.0]), **FAST)
    assert "raises TypeError" in lines(report)["vmap", ""].note

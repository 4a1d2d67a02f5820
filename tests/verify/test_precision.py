"""In other dtypes than float64."""

import jax.numpy as jnp
import numpy as np
from rules import FAST, lines, rule

from jaxcnn.verify import check_rule


def test_a_dtype_that_f_does_not_take_is_not_checked():
    def cube(x):
        if x.dtype == jnp.bfloat16:
            raise TypeError("no bfloat16 here")
        return x**3

    report = check_rule(cube, np.array([1.0, 2.0]), dtypes=("float64", "bfloat16"))
    assert not report.failed
    assert not report.passed
    assert (
        "f does not take bfloat16: TypeError: no bfloat16 here" in lines(report, "not checked")["bfloat16", ""].reason
    )


def test_a_value_rounded_to_float32_is_compared_within_its_rounding():
    f = rule(lambda x: (x * x).astype(jnp.float32), lambda a, dy: ((2 * a[0] * dy).astype(a[0].dtype),))
    report = check_rule(f, np.array([1.0, -2.0, 0.5]), **FAST)
    assert not report.failed
    assert "f returns float32 for float64 arguments" in lines(report, "not checked")["float64", ""].reason

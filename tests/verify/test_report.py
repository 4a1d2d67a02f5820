"""A report raises, is JSON, and is a page."""

import json

import numpy as np
import pytest
from rules import FAST, rule

from jaxcnn.verify import check_rule


def test_the_report_raises_and_is_json(rng):
    report = check_rule(rule(lambda x: x * x, lambda a, dy: (a[0] * dy,)), np.array([1.0, 2.0]), **FAST)
    with pytest.raises(AssertionError, match="scaled by 1/2"):
        report.raise_if_failed()
    found = json.loads(report.to_json())
    assert (found["failed"], found["passed"]) == (True, False)
    assert {check["verdict"] for check in found["checks"]} == {"ok", "FAILED"}
    page = report.to_html()
    assert "scaled by 1/2" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    check_rule(lambda x: x * x, np.array([1.0]), **FAST).raise_if_failed()

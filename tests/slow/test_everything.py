"""The verifier over everything it knows: random geometries, and every case with every transformation."""

import pytest

from jaxcnn.verify import OPERATIONS, check_operations
from jaxcnn.verify.soak import soak

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(4))
def test_right_rules_at_random_geometries_raise_no_alarm(seed):
    seen = []
    bad = soak(40, seed=1000 * seed, on_report=seen.append)
    assert len(seen) == 40
    assert not [str(report) for report in bad if report.failed]


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_case_holds_with_every_transformation_and_four_draws(op):
    checks = [check for found in check_operations([op], thorough=True) for check in found]
    assert not [str(check) for check in checks if not check.passed]
    assert {check.oracle for check in checks} >= {"jit", "vmap", "scan", "grad of grad"}

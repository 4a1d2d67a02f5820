"""An opt-in pytest plugin: the fixture `check_rule`, and the table in place of a traceback where a rule is wrong.

    # conftest.py
    pytest_plugins = ["jaxcnn.verify.pytest_plugin"]

    # test_rule.py
    def test_my_rule(check_rule):
        check_rule(my_function, x, plain=my_function_without_rule)

With `expect="changed"` (a rule that is no gradient on purpose) a test passes if nothing failed; the report has more.

It is no entry point: one would import jax before a user's conftest sets its environment. For the same reason nothing
here imports jaxcnn before a test asks for the fixture.
"""

import pytest


@pytest.fixture
def check_rule():
    """`jaxcnn.verify.check_rule` that raises AssertionError where the rule is wrong, and returns the report if not."""
    from . import check_rule

    def checked(*args, **kwargs):
        report = check_rule(*args, **kwargs)
        report.raise_if_failed()
        return report

    return checked


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the table alone where a test ended in `Report.raise_if_failed`."""
    outcome = yield
    report = getattr(getattr(call.excinfo, "value", None), "report", None)
    if hasattr(report, "raise_if_failed"):
        outcome.get_result().longrepr = f"{item.nodeid}: the backward rule is wrong\n\n{report}"

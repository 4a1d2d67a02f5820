"""Rules that are wrong on purpose, and what a report says of them."""

import jax

FAST = {"dtypes": ("float64",)}


def rule(value, backward):
    """A custom_vjp of `value(*args)` with `backward(args, dy)`."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda *args: (value(*args), args), backward)
    return f


def lines(report, verdict="FAILED"):
    return {(check.oracle, check.argument): check for check in report.checks if check.verdict == verdict}

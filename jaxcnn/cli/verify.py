"""`jaxcnn verify`: of a function, of the library's operations, of its mutants, of random cases."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import jax
import typer

from .. import files
from ..errors import InputError
from ..verify import OPERATIONS, check_operations, check_rule, chosen_cases, find_operation, rows, table
from ..verify.arguments import draw, import_function
from .show import JsonOption, check_file, progress, to_console, to_json


def verify_command(
    function: Annotated[
        str | None, typer.Argument(help="module:function, your own rule or anybody's; needs --args.")
    ] = None,
    args: Annotated[
        str | None, typer.Option(help='Its random arguments: "f32[2,7,5,3], f32[4]+ (positive), i32[5]:10, key".')
    ] = None,
    plain: Annotated[
        str | None, typer.Option(help="module:function, the same without the rule, for automatic differentiation.")
    ] = None,
    op: Annotated[str | None, typer.Option(help=f"One of {', '.join(OPERATIONS)}; all unless given.")] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Check rules that are wrong on purpose, beside two other checkers.")
    ] = False,
    soak: Annotated[int | None, typer.Option(help="Check this many random cases of the right rules.")] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="All cases, every transformation of each, more draws of the arguments.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random arguments of a function and of --soak.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a function's report to this page, with heat maps.")] = None,
    as_json: JsonOption = False,
):
    """Check backward rules against automatic differentiation and finite differences.

    Alone: every hand-written backward of the library, in float64 against both oracles, in float32 and bfloat16 against
    float64. With module:function: any function's own rule. Exits 1 if a check fails.

    Examples:

    * jaxcnn verify

    * jaxcnn verify --op conv2d --json

    * jaxcnn verify jax.nn:gelu --args "f32[3,4]" --html gelu.html

    * jaxcnn verify my_rules:attention --plain my_rules:plain_attention --args "f32[2,5,4], f32[2,5,4]"

    * jaxcnn verify --mutants
    """
    modes = {"a function": function, "op": op, "mutants": mutants or None, "soak": soak}
    chosen = [name for name, value in modes.items() if value is not None]
    if len(chosen) > 1:
        raise InputError(f"{chosen[0]} and {chosen[1]} are both given; they must be given one at a time")
    for name, value in (("args", args), ("plain", plain), ("html", html)):
        if value is not None and function is None:
            raise InputError(f"{name} is given but no function; it must come with module:function")
    if thorough and (mutants or soak is not None):
        raise InputError(f"thorough is given with {chosen[0]}; it must be left out")
    if not 0 <= seed < 2**31:
        raise InputError(f"seed is {seed} but must be at least 0 and below 2**31")
    if function is not None:
        _verify_function(function, args, plain, thorough, seed, html, as_json)
    if mutants:
        _verify_mutants(as_json)
    if soak is not None:
        _soak(soak, seed, as_json)
    _verify_operations(op, thorough, as_json)


def _verify_function(function, args, plain, thorough, seed, html, as_json) -> NoReturn:
    if function in OPERATIONS:
        raise InputError(f"function is {function!r} but must be module:function; the operation is --op {function}")
    f, bare = import_function(function), None if plain is None else import_function(plain, "plain")
    if args is None:
        raise InputError(f'args is not given; {function} needs some, such as --args "f32[2,7,5,3], f32[4]"')
    check_file("html", html)
    with jax.enable_x64(True):
        drawn = draw(args, seed)
    report = check_rule(f, *drawn, plain=bare, thorough=thorough, seed=seed)
    if html is not None:
        files.write(html, report.to_html().encode())
        print(f"jaxcnn: wrote {html}", file=sys.stderr)
    print(report.to_json() if as_json else report)
    raise typer.Exit(1 if report.failed else 0)


def _verify_mutants(as_json) -> NoReturn:
    from ..verify import mutants

    with progress(to_console(as_json=True)) as bar:
        task = bar.add_task("mutants", total=len(mutants.MUTANTS))
        found = []
        for outcome in mutants.outcomes():
            found.append(outcome)
            bar.update(task, advance=1, description=f"{outcome.mutant.op}: {outcome.mutant.fault}")
        bar.update(task, description="false alarms")
        alarms = mutants.false_alarms()
    caught = all(outcome.checks for outcome in found)
    if as_json:
        shown = [
            {"op": o.mutant.op, "fault": o.mutant.fault, "checks": o.checks, "note": o.note,
             "check_grads": o.check_grads, "chex": o.chex}
            for o in found
        ]  # fmt: skip
        print(to_json({"passed": caught, "mutants": shown, "false_alarms": alarms}))
    else:
        print(mutants.mutant_table(found, alarms))
    raise typer.Exit(0 if caught else 1)


def _soak(count, seed, as_json) -> NoReturn:
    from ..verify.soak import soak

    with progress(to_console(as_json=True)) as bar:
        task = bar.add_task("soak", total=count)
        bad = soak(count, seed, lambda report: bar.update(task, advance=1))
    checks = [str(check) for report in bad for check in report.checks if not check.passed]
    failed = sum(report.failed for report in bad)
    if as_json:
        outcome = {"passed": not bad, "cases": count, "false_alarms": failed, "not_all_checked": len(bad) - failed}
        print(to_json(outcome | {"seed": seed, "checks": checks}))
    else:
        print(f"{count} random cases in float64, float32 and bfloat16: {failed} false alarms, "
              f"{len(bad) - failed} not checked in all")  # fmt: skip
        print("\n".join(checks), end="\n" if checks else "")
    raise typer.Exit(1 if failed else 0)


def _verify_operations(op, thorough, as_json) -> NoReturn:
    names = list(OPERATIONS) if op is None else [op]
    find_operation(names[0])
    checks = []
    with progress(to_console(as_json=True)) as bar:
        task = bar.add_task("compiling", total=sum(len(chosen_cases(find_operation(name), thorough)) for name in names))
        for found in check_operations(names, thorough=thorough):
            checks += found
            bar.update(task, advance=1, description=found[0].op)
    passed = all(check.passed for check in checks)
    if as_json:
        shown = [vars(row) for row in rows(checks)]
        print(to_json({"passed": passed, "checks": shown, "failures": [str(c) for c in checks if not c.passed]}))
    else:
        print(table(checks))
        if not thorough:
            print("at most five cases of each; all of them with --thorough")
    raise typer.Exit(0 if passed else 1)

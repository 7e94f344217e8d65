"""`graphopt rules check`: rules on random models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from graphopt.cli.flags import Verbose

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.check.report import CheckReport
    from graphopt.rules.rule import Rule

SCHEMA = "graphopt.rules-check/1"


def check_rules(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT…", help="FILE.py, FILE.py::RULE, a pass, a rule, or a pattern such as 'fuse.gelu_*'.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Draw 16 models for each rule, where that is enough.")] = False,
    samples: Annotated[int, typer.Option("--samples", metavar="N", min=1, help="Models to draw for each rule.")] = 60,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Determines what is drawn.")] = 0,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="I", min=0, help="Draw only the model with this number.")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write it as JSON, too; - is stdout, and JSON alone.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Try rules on random models that they match, and compare what is computed before and after.

    Exits with 4 if a rule is wrong, or never fires.
    """
    from graphopt.cli.output import check_place

    chosen = _choose(what or [])
    if json is not None:
        check_place(json)
    options: dict[str, Any] = {"samples": samples, "seed": seed, "quick": quick, "only": sample}
    reports = _check(chosen, options)
    if json is not None:
        from graphopt.cli.output import write_json

        write_json(_document(chosen, reports), json)
    if json != "-":
        _show(chosen, reports, verbose)
    if not all(report.ok for report in reports):
        from graphopt.errors import VerificationError

        raise typer.Exit(VerificationError.exit_code)


class _Chosen(NamedTuple):
    """A rule to check: its full name, and how the command line names it."""

    name: str
    spelling: str
    rule: Rule[Any]


def _choose(what: list[str]) -> list[_Chosen]:
    """The rules that the arguments name, each once."""
    from graphopt.engine.catalog import all_rules, find_rules
    from graphopt.errors import UsageError

    if not what:
        packs = ", ".join(dict.fromkeys(named.pack for named in all_rules()))
        raise UsageError("say what to check", hint=f"a file of rules such as my_rules.py, or one of: {packs}")
    chosen: dict[Rule[Any], _Chosen] = {}
    for text in what:
        for named in find_rules(text):
            file = text.partition("::")[0]
            spelling = named.name if named.file is None else f"{file}::{named.rule.name}"
            chosen.setdefault(named.rule, _Chosen(named.name, spelling, named.rule))
    return list(chosen.values())


def _check(chosen: list[_Chosen], options: dict[str, Any]) -> list[CheckReport]:
    from graphopt.check.checker import check_rule
    from graphopt.cli.progress import progress

    reports = []
    with progress(verbose=False, quiet=False) as tell:
        for number, item in enumerate(chosen):
            tell(item.name, number, len(chosen))
            reports.append(check_rule(item.rule, name=item.name, **options))
    return reports


def _show(chosen: list[_Chosen], reports: list[CheckReport], verbose: bool) -> None:
    """The table, and below it what is to be said of single rules."""
    from graphopt.cli.terminal import show, write

    show(_table(reports))
    for item, report in zip(chosen, reports, strict=True):
        if not report.ok:
            write(f"\n{report.text(item.spelling)}\n")
        elif verbose:
            write(f"\n{report.details()}\n")
    wrong = sum(not report.ok for report in reports)
    count = f"{len(reports)} rule{'s' if len(reports) > 1 else ''} checked"
    write(f"\n{count}{f', {wrong} not fine' if wrong else ': fine'}\n")


def _table(reports: list[CheckReport]) -> Table:
    from graphopt.report.table import table

    # Skipped are samples that the pattern does not match, as some are made, and those that nothing here can run.
    numbers = ("samples", "fired", "declined", "skipped", "seconds")
    made = table("rule", *numbers[:-1], "verdict", "seconds", right=numbers, fold="rule")
    for report in reports:
        skipped = report.unmatched + report.invalid.total()
        counts = (report.samples, report.fired, report.declined.total(), skipped)
        made.add_row(report.rule, *map(str, counts), report.verdict, f"{report.seconds:.2f}")
    return made


def _document(chosen: list[_Chosen], reports: list[CheckReport]) -> dict[str, Any]:
    from graphopt.check.report import as_dict

    rules = [as_dict(report, item.spelling) for item, report in zip(chosen, reports, strict=True)]
    return {"schema": SCHEMA, "ok": all(report.ok for report in reports), "rules": rules}



"""`graphopt rules test`: the golden tests of rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from graphopt.check.golden import Result
    from graphopt.check.golden_file import Case

_LIST = "A rules file, a pack, a rule, a golden file (*.onnxtxt), a case of one (FILE::TITLE), or a folder."


def test_rules(
    what: Annotated[list[str], typer.Argument(metavar="WHAT…", help=_LIST, show_default=False)],
    update: Annotated[bool, typer.Option("--update", help="Write down what happens now as what is expected.")] = False,
) -> None:
    """Run the golden tests of rules: files *.onnxtxt beside a rules file, or in `golden` or `tests` there."""
    from graphopt.check.golden_find import find_cases
    from graphopt.cli.terminal import show, write
    from graphopt.errors import VerificationError

    cases: dict[tuple[Path, str], tuple[Case, tuple[Path, ...]]] = {}
    untested: list[str] = []
    for word in what:
        found = find_cases(word)
        for case in found.cases:
            cases.setdefault((case.file.resolve(), case.title), (case, found.files))
        untested += found.untested
    by_file: dict[Path, list[tuple[Case, tuple[Path, ...]]]] = {}
    for (file, _), entry in cases.items():
        by_file.setdefault(file, []).append(entry)
    results: dict[Path, list[Result]] = {}
    written: dict[Path, int] = {}
    for entries in by_file.values():
        path = entries[0][0].file
        files = tuple(dict.fromkeys(file for _, own in entries for file in own))
        written[path], results[path] = _run(path, [case for case, _ in entries], files, update)
    show(_table(results, written if update else None))
    if untested:
        show(f"not tested: {', '.join(dict.fromkeys(untested))}")
    for file, ran in results.items():
        for case in (result.case for result in ran):
            if cases[file.resolve(), case.title][0].after is not None and case.unchanged is not None:
                show(f"fires no longer: {file}:{case.line}: {case.title}: {case.unchanged}")
    failed = [result for ran in results.values() for result in ran if not result.ok]
    for result in failed:
        write(f"\n{result.case.file}:{result.case.line}: {result.case.title}\n{_indented(str(result.failure))}\n")
    if failed:
        hint = "what is wrong in itself is not written down"
        if not update:
            hint = f"if what happens now is right: graphopt rules test {' '.join(what)} --update"
        raise VerificationError(f"{len(failed)} of {len(cases)} golden cases {_verb(len(failed))}", hint=hint)


def _run(path: Path, cases: list[Case], files: tuple[Path, ...], update: bool) -> tuple[int, list[Result]]:
    """How many expectations were written, and the results."""
    from graphopt.check.golden import run_cases
    from graphopt.check.golden_update import update_file

    return update_file(path, files, cases) if update else (0, run_cases(cases, files))


def _table(results: dict[Path, list[Result]], written: dict[Path, int] | None) -> Table:
    from graphopt.report.table import table
    from graphopt.report.units import duration

    numbers = ["cases", "failed", *(["written"] if written is not None else []), "time"]
    made = table("golden file", *numbers, right=tuple(numbers), fold="golden file")
    for path, ran in results.items():
        failed = sum(not result.ok for result in ran)
        cells = [str(len(ran)), str(failed or ""), *([str(written[path] or "")] if written is not None else [])]
        made.add_row(str(path), *cells, duration(sum(result.seconds for result in ran)))
    return made


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _verb(count: int) -> str:
    return "fails" if count == 1 else "fail"

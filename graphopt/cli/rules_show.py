"""`graphopt rules show`: all that there is to know of a rule.

With --json, the schema `graphopt.rules/1`: {schema, rules: [{name, pack, sentence, equations [{left, right, where}],
parameters {name: text}, accuracy, opsets {left [versions], replacement {operator: first version or null}}, domains,
targets, single_use, bounded, once, file, line, code, golden [text], example {before, after} or null}]}. `right` is
null where it depends on what is matched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.flags import Json, Verbose

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.engine.catalog import Named

SCHEMA = "graphopt.rules/1"


def show_rules(
    rule: Annotated[
        list[str],
        typer.Argument(metavar="RULE…", show_default=False, help="Rules, packs, rules files, patterns: fuse.gelu_*."),
    ],
    rules: Annotated[
        list[str] | None, typer.Option("--rules", metavar="FILE.py", help="A file of rules to know of. Repeatable.")
    ] = None,
    example: Annotated[
        bool | None,
        typer.Option("--example/--no-example", help="With a model before and after. By default if it is one rule."),
    ] = None,
    json: Json = None,
    verbose: Verbose = False,
) -> None:
    """Show a rule: both sides, accuracy, opset, targets, where it is defined.

    \b
    graphopt rules show gelu_erf
    graphopt rules show my_rules.py
    """
    del verbose
    from graphopt.cli.output import check_place
    from graphopt.engine.catalog import find_rules

    if json is not None:
        check_place(json)
    found = list({named.name: named for text in rule for named in find_rules(text, rules or ())}.values())
    with_example = len(found) == 1 if example is None else example
    if json is not None:
        from graphopt.cli.output import write_json

        write_json({"schema": SCHEMA, "rules": [_document(named, with_example) for named in found]}, json)
        return
    for i, named in enumerate(found):
        _print(named, with_example, first=i == 0)


def _example(named: Named) -> tuple[str, str] | None:
    from graphopt.check.example import example

    return example(named.rule)


def _golden(named: Named) -> list[str]:
    from graphopt.check.golden_find import goldens_of

    return [f"{case.file}::{case.title}" for case in goldens_of([named])]


def _file(path: str) -> str:
    """As one would write it here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


# -- as text ---------------------------------------------------------------------------------------


def _print(named: Named, with_example: bool, *, first: bool) -> None:
    """Tables fit the terminal; code and models are printed as they are, whatever its width."""
    from graphopt.cli.terminal import show, write
    from graphopt.rules import doc

    if not first:
        write("\n")
    show(_view(named))
    if any(equation.right is None for equation in doc.equations(named.rule)):
        write(f"\n{doc.source(named.rule)}\n")
    if with_example:
        write(f"\n{_sides(_example(named))}\n")


def _view(named: Named) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from graphopt.rules import doc

    rule = named.rule
    lines = doc.equation_lines(rule)
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    made.add_row("equation", "\n".join(lines))
    made.add_row("parameters", "\n".join(f"{name} is {text}" for name, text in doc.parameters(rule)))
    if signs := doc.notation(lines):
        made.add_row("notation", "\n".join(f"{sign}: {meaning}" for sign, meaning in signs))
    made.add_row("accuracy", f"{rule.accuracy.label}: {doc.MEANING[rule.accuracy]}")
    made.add_row("opset", doc.opset_text(rule))
    made.add_row("targets", doc.target_text(rule))
    for trait in doc.traits(rule):
        made.add_row("note", trait)
    made.add_row("pass", named.pack)
    file, line = doc.place(rule)
    made.add_row("defined", f"{_file(file)}:{line}")
    if golden := _golden(named):
        made.add_row("golden", "\n".join(golden))
    return Group(Text(f"{named.name}: {doc.sentence(rule)}", style="bold"), Text(), made)


def _sides(example: tuple[str, str] | None) -> str:
    if example is None:
        return "no example: no sample of the pattern was found on which the rule fires"
    before, after = example
    return f"# before\n{before}\n# after\n{after.rstrip()}"


# -- as JSON ---------------------------------------------------------------------------------------


def _document(named: Named, with_example: bool) -> dict[str, Any]:
    from graphopt.rules import doc

    rule = named.rule
    file, line = doc.place(rule)
    sides = _example(named) if with_example else None
    made, _ = doc.replacement_operators(rule)
    return {
        "name": named.name,
        "pack": named.pack,
        "sentence": doc.sentence(rule),
        "equations": [
            {"left": list(e.left), "right": None if e.right is None else list(e.right), "where": dict(e.where)}
            for e in doc.equations(rule)
        ],
        "parameters": dict(doc.parameters(rule)),
        "accuracy": rule.accuracy.label,
        "opsets": {
            "left": doc.left_opsets(rule),
            "replacement": {f"{domain}.{op}" if domain else op: doc.since((domain, op)) for domain, op in made},
        },
        "domains": doc.domains(rule),
        "targets": doc.takers(rule),
        "single_use": rule.single_use,
        "bounded": rule.bounded,
        "once": rule.once,
        "file": _file(file),
        "line": line,
        "code": doc.source(rule),
        "golden": _golden(named),
        "example": None if sides is None else {"before": sides[0], "after": sides[1]},
    }

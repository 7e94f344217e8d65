"""Pages about the rules of a package of passes, in Markdown: one for each module that defines some, and an index.

    python -m graphopt.report.pages graphopt_passes docs/rules

They are made from the rules themselves, and are the same on every machine: no line numbers, no paths.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.engine.registry import usable_passes
from graphopt.engine.rules_file import summary_of
from graphopt.errors import UsageError
from graphopt.rules import doc

if TYPE_CHECKING:
    from graphopt.engine.passes import Pass
    from graphopt.rules.rule import Rule

_MADE = "<!-- Made from the rules by `make docs`: change them, not this. -->"
_INDEX = "index.md"


def pages(kinds: Iterable[type[Pass]]) -> dict[str, str]:
    """Name of file to content, for the rules of these passes."""
    made: dict[str, str] = {}
    sections = []
    for kind in kinds:
        modules = _by_module(kind.rules())
        rows = []
        for module, rules in modules.items():
            name = f"{_stem(kind.name, module)}.md"
            made[name] = _page(kind, module, rules)
            rows += [f"| [{r.name}]({name}#{r.name}) | {r.accuracy.label} | {_cell(doc.sentence(r))} |" for r in rules]
        rows += [f"| {name.partition('.')[2] or name} | | {_cell(text)} |" for name, text in kind.rewrites.items()]
        if rows:
            sections.append("\n".join([f"## {kind.name}", "", kind.summary(), "", *_table(), *rows]))
    made[_INDEX] = "\n\n".join([_MADE, "# The built-in rules", _INTRODUCTION, *sections]) + "\n"
    return made


_INTRODUCTION = """\
Every rewrite by its pass: its name there, its accuracy class (see [the command line](../command-line.md)), and what it
states. Those without a class are no rules but work on the whole graph. `graphopt rules show NAME` shows a rule with an
example, `graphopt explain MODEL --rule NAME` what it makes of a model."""


def _table() -> Sequence[str]:
    return "| rewrite | accuracy | what it states |", "|---|---|---|"


def _by_module(rules: Iterable[Rule[Any]]) -> dict[str, list[Rule[Any]]]:
    found: dict[str, list[Rule[Any]]] = {}
    for rule in rules:
        found.setdefault(rule.function.__module__, []).append(rule)
    return found


def _stem(pack: str, module: str) -> str:
    """`fuse-activation` for the module `graphopt_passes.fuse.activation`, `cleanup` for a pass in one module."""
    last = module.rpartition(".")[2]
    return last if last == pack else f"{pack}-{last}"


def _page(kind: type[Pass], module: str, rules: Sequence[Rule[Any]]) -> str:
    title = f"# {kind.name}: {module.rpartition('.')[2]}"
    lines = [line for rule in rules for line in doc.equation_lines(rule)]
    signs = "\n".join(f"- `{sign}`: {meaning}" for sign, meaning in doc.notation(lines))
    where = f"Rules of the pass `{kind.name}`; [all rules]({_INDEX})."
    head = [_MADE, title, summary_of(sys.modules[module], ""), where]
    notation = ["In the equations:\n\n" + signs] if signs else []
    return "\n\n".join([*filter(None, head), *notation, *(_section(kind, rule) for rule in rules)]) + "\n"


def _section(kind: type[Pass], rule: Rule[Any]) -> str:
    equation = "\n".join(doc.equation_lines(rule))
    facts = [
        ("accuracy", f"{rule.accuracy.label}: {doc.MEANING[rule.accuracy]}"),
        ("opset", doc.opset_text(rule)),
        ("targets", doc.target_text(rule)),
        *(("note", trait) for trait in doc.traits(rule)),
        ("name", f"`{kind.name}.{rule.name}`, in `{Path(doc.place(rule)[0]).name}`"),
    ]
    parts = [
        f"## {rule.name}",
        doc.sentence(rule),
        f"```text\n{equation}\n```",
        "\n".join(f"- {what}: {text}" for what, text in facts),
        "\n".join(["| parameter | |", "|---|---|", *(f"| {n} | {text} |" for n, text in doc.parameters(rule))]),
    ]
    if any(e.right is None for e in doc.equations(rule)):
        parts.append(f"```python\n{doc.source(rule)}\n```")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split()).replace("|", "\\|")


def passes_of(package: str) -> list[type[Pass]]:
    """The installed passes that a package defines. Raises `UsageError` if there is none."""
    found = [kind for kind in usable_passes() if kind.__module__.partition(".")[0] == package]
    if not found:
        raise UsageError(f"no installed pass is from {package!r}", hint="see: graphopt passes")
    return found


def write(package: str, folder: Path) -> list[Path]:
    """Write the pages of a package's passes into a folder, and remove those that are not made any more."""
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=str(folder))
    made = pages(passes_of(package))
    for old in folder.glob("*.md"):
        if old.name not in made and old.read_text(encoding="utf-8").startswith(_MADE):
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in made]


if __name__ == "__main__":
    for path in write(sys.argv[1], Path(sys.argv[2])):
        print(path)

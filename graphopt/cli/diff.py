"""`graphopt diff`: how two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.flags import AllowLinks, Json, Verbose

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

DIFFERENT = 5  # the code of a gate that was not met

_SHOWN = 20


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="An ONNX file.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 5 if they differ; without it, with 0 either way.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="List everything, not the first 20 of a kind.")] = False,
    json: Json = None,
    allow_links: AllowLinks = False,
    verbose: Verbose = False,
) -> None:
    """Compare two models, in structure and in weights."""
    del verbose
    import graphopt
    from graphopt.cli.output import check_place
    from graphopt.report.difference import difference

    if json is not None:
        check_place(json, a, b)
    models = [graphopt.load(path, allow_links=allow_links) for path in (a, b)]
    found = difference(models[0], models[1], str(a), str(b))
    if json is not None:
        from graphopt.cli.output import write_json

        write_json(found, json)
    else:
        from graphopt.cli.terminal import show

        show(_view(found, None if show_all else _SHOWN))
    if exit_code and not found["same"]:
        raise typer.Exit(DIFFERENT)


def _view(found: Mapping[str, Any], limit: int | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    title = Text(f"{found['a']} → {found['b']}", style="bold")
    if found["same"]:
        weights = found["initializers"]["same"]
        return Group(title, Text(f"the same: all nodes, inputs and outputs, and {weights} initializers bit for bit"))
    parts: list[RenderableType] = [title]
    if found["operators"]:
        parts += [Text(), _operators(found["operators"])]
    lists = _lists(found, limit)
    if lists.row_count:
        parts += [Text(), lists]
    return Group(*parts)


def _operators(changed: Mapping[str, Any]) -> Table:
    from graphopt.report.table import table
    from graphopt.report.units import signed

    made = table("operator", "before", "after", "difference", right=("before", "after", "difference"))
    for name, (before, after) in sorted(changed.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0])):
        made.add_row(name, str(before), str(after), signed(str(after - before)))
    return made


def _lists(found: Mapping[str, Any], limit: int | None) -> Table:
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for title, lines in _sections(found):
        shown = lines[:limit]
        if len(lines) > len(shown):
            shown.append(f"… and {len(lines) - len(shown)} more: --all")
        for index, line in enumerate(shown):
            made.add_row(title if index == 0 else "", line)
    return made


def _sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    opsets = found["opsets"].items()
    yield "opset", [f"{domain}: {_or_none(x)} → {_or_none(y)}" for domain, (x, y) in opsets]
    for side in ("inputs", "outputs"):
        yield side, [f"{name}: {_port(x)} → {_port(y)}" for name, (x, y) in found[side].items()]
    nodes, weights = found["nodes"], found["initializers"]
    yield "nodes removed", [_node(n) for n in nodes["removed"]]
    yield "nodes added", [_node(n) for n in nodes["added"]]
    yield "nodes changed", [f"{_node(n)}: {', '.join(n['what'])}" for n in nodes["changed"]]
    yield "initializers removed", [_tensor(t) for t in weights["removed"]]
    yield "initializers added", [_tensor(t) for t in weights["added"]]
    yield "initializers changed", [f"{_tensor(t)}: {_change(t)}" for t in weights["changed"]]
    yield "initializers the same", [str(weights["same"])]


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)


def _port(port: Mapping[str, Any] | None) -> str:
    if port is None:
        return "none"
    shape = port["shape"]
    return f"{port['dtype'] or '?'} {'?' if shape is None else _shape(shape)}"


def _shape(shape: list[Any]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _node(node: Mapping[str, Any]) -> str:
    return f"{node['op']} {node['name']}" + (f" in {node['scope']}" if node["scope"] else "")


def _tensor(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']} {tensor['dtype']} {_shape(tensor['shape'])}"


def _change(tensor: Mapping[str, Any]) -> str:
    return tensor["why"] or f"max abs {tensor['max_abs']:.3g}"

"""`graphopt inspect`: what a model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.flags import AllowLinks, Dim, Json, Shape, Verbose

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from graphopt.ir.model import Model


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)],
    json: Json = None,
    shape: Shape = None,
    dim: Dim = None,
    allow_links: AllowLinks = False,
    verbose: Verbose = False,
) -> None:
    """Show what is in a model, and what it costs to run."""
    del verbose
    import graphopt
    from graphopt.cli.output import check_place
    from graphopt.report.overview import overview

    if json is not None:
        check_place(json, model)
    loaded = graphopt.load(model, allow_links=allow_links)
    if shape or dim:
        loaded = _sized(loaded, shape or [], dim or [])
    found = overview(loaded, model)
    if json is not None:
        from graphopt.cli.output import write_json

        write_json(found, json)
    else:
        from graphopt.cli.terminal import show

        show(_view(found))


def _sized(model: Model, shape: list[str], dim: list[str]) -> Model:
    """The model with the sizes that were asked for."""
    from graphopt.errors import UsageError
    from graphopt.ir.fixing import fix_sizes
    from graphopt.ir.model import Model
    from graphopt.ir.request import parse_dims, parse_shapes, size_request

    request = size_request(parse_shapes(shape), parse_dims(dim))
    if request.frees:
        raise UsageError("inspect sets sizes, and frees none", hint="graphopt run writes a model with its batch free")
    fix_sizes(model.ir, request)
    return Model(model.ir)


def _view(found: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(found["path"], style="bold"), _facts(found), Text(), _ports(found), Text(), _operators(found))


def _facts(found: Mapping[str, Any]) -> Table:
    from rich.table import Table

    from graphopt.report import units

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    made.add_row("opset", f"{opsets} (IR version {found['ir_version']})")
    if found["producer"]:
        made.add_row("made by", found["producer"])
    place = ", weights in other files" if found["external_data"] else ""
    made.add_row("file size", f"{units.size(found['file_bytes'])}{place}")
    weights = ", ".join(f"{units.size(n)} {dtype}" for dtype, n in found["weights"].items())
    made.add_row("parameters", units.count(found["parameters"]) + (f" ({weights})" if weights else ""))
    made.add_row("nodes", str(found["nodes"]) + _parts(found))
    made.add_row("MACs", units.count(found["macs"]))
    made.add_row("planned memory", units.size(found["peak_bytes"]))
    if found["assumed"]:
        made.add_row("", f"assumed for these two: {', '.join(found['assumed'])}")
    made.add_row("quantized", _quantized(found["quantization"]))
    for function in found["functions"]:
        made.add_row("function", f"{function['name']}, {function['nodes']} nodes")
    return made


def _parts(found: Mapping[str, Any]) -> str:
    """What else the nodes are spread over."""
    bodies, functions = found["bodies"], len(found["functions"])
    parts = [f"{n} {what}" for n, what in ((bodies, "bodies of If, Loop or Scan"), (functions, "functions")) if n]
    return f", some of them in {' and '.join(parts)}" if parts else ""


def _quantized(found: Mapping[str, int]) -> str:
    if found["integer_operators"]:
        text = f"{found['integer_operators']} integer operators"
    elif found["quantize"] or found["dequantize"]:
        text = f"Q/DQ: {found['quantize']} QuantizeLinear, {found['dequantize']} DequantizeLinear"
    else:
        return "no"
    return f"{text}, {found['dynamic']} of them dynamic" if found["dynamic"] else text


def _ports(found: Mapping[str, Any]) -> Table:
    from graphopt.report.table import table

    made = table("", "name", "dtype", "shape", fold="name")
    for side in ("inputs", "outputs"):
        for index, port in enumerate(found[side]):
            shape = port["shape"]
            dims = "not known" if shape is None else " × ".join("?" if d is None else str(d) for d in shape) or "scalar"
            made.add_row(side if index == 0 else "", port["name"], port["dtype"] or "?", dims)
    return made


def _operators(found: Mapping[str, Any]) -> Table:
    from graphopt.report.table import table

    made = table("operator", "nodes", right=("nodes",))
    for name, n in found["operators"].items():
        made.add_row(name, str(n))
    return made

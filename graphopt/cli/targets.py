"""`graphopt targets`: what -t takes."""

from __future__ import annotations


def targets() -> None:
    """List the places where a model may run."""
    from rich.text import Text

    from graphopt.cli.terminal import show
    from graphopt.report.table import table
    from graphopt.targets.target import list_targets, load_target

    made = table("target", "files", "what it is", fold="what it is")
    for name in list_targets():
        target = load_target(name)
        text = Text(target.title)
        if target.quant is not None:
            for kind, placed in (("int8", target.quant), *target.quant.types.items()):
                operators = dict.fromkeys((*placed.weighted, *placed.elementwise))
                named = ", ".join(op for op in operators if op not in placed.float)
                text.append(f"\n{kind}: {named}", style="dim")
        for note in target.notes:
            text.append(f"\n{note}", style="dim")
        made.add_row(Text(name, style="bold"), " ".join(target.emit), text)
    made.add_row(Text("auto", style="bold"), ".onnx", "ort-cpu, with what this machine's processor can do")
    show(made)

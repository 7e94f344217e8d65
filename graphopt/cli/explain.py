"""`graphopt explain`: where a rule fires in a model, and where not and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.flags import AllowLinks, Json, Verbose

if TYPE_CHECKING:
    from graphopt.cli.explain_view import Explained
    from graphopt.engine.catalog import Named
    from graphopt.engine.passes import Pass
    from graphopt.ir.model import Model

_LIMIT = 10


def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)],
    rule: Annotated[
        str,
        typer.Option(
            "--rule", metavar="RULE", show_default=False,
            help="A rule, such as fuse.gelu_erf or gelu_erf. Of a pack, a file or a pattern there is an overview.",
        ),
    ],
    near: Annotated[
        str | None,
        typer.Option(metavar="NODE", help="Only there: a node or value, or a pattern of such names: '/block3/*'."),
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rules", metavar="FILE.py", help="A file of rules to know of. Repeatable.")
    ] = None,
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--passes", metavar="LIST",
            help="Passes that the model goes through first; by default those that the rule's pass requires.",
        ),
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="No passes first: the model as it is. The same as -p ''.")
    ] = False,
    target: Annotated[str, typer.Option("-t", "--target", metavar="NAME", help="Where the model will run.")] = "onnx",
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show so many of the places where it does not match; 0: all.")
    ] = _LIMIT,
    json: Json = None,
    allow_links: AllowLinks = False,
    verbose: Verbose = False,
) -> None:
    """Say where a rule fires, and where not and why.

    \b
    graphopt explain model.onnx --rule gelu_erf
    graphopt explain model.onnx --rule gelu_erf --near /block3/Mul
    graphopt explain model.onnx --rule my_rules.py -p fuse
    """
    del verbose
    import graphopt
    from graphopt.cli.output import check_place
    from graphopt.engine.catalog import find_rules

    if json is not None:
        check_place(json, model)
    asked = None if passes is None and not as_is else "" if as_is else ",".join(p.strip(", ") for p in passes or ())
    found = find_rules(rule, rules or ())
    aim = graphopt.load_target(target)
    before = _passes_before(found, asked, rules or [])
    loaded = graphopt.load(model, allow_links=allow_links)
    explained = _explained(found, loaded, before, aim, near)
    explained.model, explained.asked = str(model), asked is not None
    if json is not None:
        from graphopt.cli.output import write_json

        write_json(explained.document(), json)
    else:
        from graphopt.cli.terminal import show

        show(explained.view(limit or None))


def _passes_before(found: list[Named], asked: str | None, files: list[str]) -> list[Pass]:
    """The passes that were asked for, or else those that the packs of the rules require, with what these require."""
    from graphopt.engine.assemble import assemble
    from graphopt.engine.registry import pass_class
    from graphopt.engine.rules_file import load_rules_file

    if asked is not None:
        if not asked:
            return []
        made = assemble(asked, files)
        words = asked.replace(",", " ").split()
        return [p for p in made.passes if p.name not in made.packs or p.name in words]
    needed: dict[str, None] = {}
    for named in found:
        kinds = [pass_class(named.pack)] if named.file is None else load_rules_file(named.file).passes
        needed.update(dict.fromkeys(name for kind in kinds if kind.name == named.pack for name in kind.requires))
    return assemble(",".join(needed)).passes if needed else []


def _explained(found: list[Named], model: Model, before: list[Pass], target: Any, near: str | None) -> Explained:
    from graphopt.cli.explain_view import Explained
    from graphopt.engine.explain import explain as explain_rule
    from graphopt.engine.explain import nodes_named, obstacles
    from graphopt.engine.pipeline import Pipeline
    from graphopt.interop.clone import clone
    from graphopt.ir.model import Model

    if near is not None:
        nodes_named(model, near)  # a wrong name is said before any work is done
    nodes = model.node_count
    journal = Pipeline(before, target).run(model)
    if near is not None:
        _check_still_there(model, near, before)
    result = Explained(
        passes=[p.spelling() for p in before],
        required=sorted({n.pack for n in found}),
        rewrites=len(journal.entries),
        nodes=(nodes, model.node_count),
        target=target.name,
        near=near,
    )
    for named in found:
        mine = model if len(found) == 1 else Model(clone(model.ir))
        against = obstacles(named.rule, mine, target, named.name)
        fired = sum(entry.rule == named.name for entry in journal.entries)
        outcome = explain_rule(named.rule, mine, near=near, domains=frozenset(target.domains), name=named.name)
        result.add(named, outcome, against, fired)
    return result


def _check_still_there(model: Model, near: str, before: list[Pass]) -> None:
    from graphopt.engine.explain import nodes_named
    from graphopt.errors import UsageError

    try:
        nodes_named(model, near)
    except UsageError as error:
        gone = f"{near!r} is not there any more after {', '.join(p.name for p in before)}"
        raise UsageError(gone, hint=f"{error.hint} Or explain the model as it is: --as-is") from None

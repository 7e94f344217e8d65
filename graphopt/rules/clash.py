"""Parameters that would have to stand for two things in one match: lists of `many`, and nodes that are bound."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import RuleError
from graphopt.rules.expr import Alt, Many, Out, Tensor, Var

_Places = dict[str, set[int]]  # of a parameter: ids of what binds it, 0 where it stands for a tensor itself
_TENSOR = 0


def check_clashes(outputs: Iterable[Tensor], place: str) -> None:
    """Raises RuleError for a list or a node that is bound at two places of which one match may have both.

    In two alternatives they may be, and a tensor may stand anywhere: it is the same one then.
    """
    known: dict[int, _Places] = {}
    lists: set[int] = set()

    def join(parts: Iterable[_Places]) -> _Places:
        found: _Places = {}
        for part in parts:
            for label, ids in part.items():
                both = found.setdefault(label, set()) | ids
                if len(both) > 1 and both != {_TENSOR} and found[label]:
                    raise RuleError(f"the parameter {label!r} is bound at two places of one match", where=place,
                                    hint="a list of many(…), or a node of bind(…), stands at one place only")
                found[label] = both
        return found

    def operands(x: Out) -> Iterable[_Places]:
        for i in x.node.inputs:
            if isinstance(i, Many):
                inner = places(i.element)
                lists.add(id(i))
                nested = {k: v for k, v in inner.items() if k not in i.labels or v & lists}
                yield join([nested, {label: {id(i)} for label in i.labels}])
            elif i is not None:
                yield places(i)
        if x.node.capture:
            yield {x.node.capture: {id(x.node)}}

    def places(x: Tensor) -> _Places:
        if id(x) not in known:
            if isinstance(x, Var):
                known[id(x)] = {x.label: {_TENSOR}}
            elif isinstance(x, Alt):
                options = [places(o) for o in x.options]
                labels = dict.fromkeys(label for o in options for label in o)
                known[id(x)] = {label: set().union(*(o.get(label, ()) for o in options)) for label in labels}
            else:
                known[id(x)] = join(operands(x)) if isinstance(x, Out) else {}
        return known[id(x)]

    join(places(x) for x in outputs)

"""The types of activations and weights that are asked for, as far as a target has them, and the opset for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import TargetError, UsageError
from graphopt.quant.blocks import WEIGHT_TYPES
from graphopt.quant.types import qtype

if TYPE_CHECKING:
    from graphopt.ir.model import Model
    from graphopt.quant.options import QuantOptions
    from graphopt.quant.place import QuantSelection
    from graphopt.targets.table import QuantTable
    from graphopt.targets.target import Target

__all__ = ["opsets_of", "require_stored", "require_types", "table_of", "types_of"]

_AUTO = "auto"


def table_of(target: Target, options: QuantOptions) -> QuantTable:
    """The placement table of a target for the types of `options.activation` and `options.weight`.

    Raises `TargetError` for a type that the target has no table for, `UsageError` for two that do not go together.
    """
    table = target.require_quant()
    activation, weight = options.activation, options.weight
    if options.kind != "static" and weight in WEIGHT_TYPES:
        weight = _AUTO  # it is that of weights which are stored only
    if activation in (_AUTO, table.activation) and weight in (_AUTO, table.weight):
        return table
    name = weight if activation in (_AUTO, table.activation) else activation
    found = table.types.get(name)
    if found is None:
        raise TargetError(
            table.refused.get(name, f"activations and weights are not quantized to {name} here"),
            where=f"target {target.name!r}",
            hint=f"it takes {', '.join((table.activation, *table.types))}" + _stored_only(name),
        )
    for what, asked, taken in (("activation", activation, found.activation), ("weight", weight, found.weight)):
        if asked not in (_AUTO, taken):
            raise UsageError(
                f"quant.{what} cannot be {asked!r} where the other is {name}",
                hint=f"activations of {found.activation} go with weights of {found.weight}",
            )
    return found


def _stored_only(name: str) -> str:
    return f"; weights alone can be {name} with kind=weights" if name in WEIGHT_TYPES else ""


def types_of(table: QuantTable, selection: QuantSelection) -> tuple[str, ...]:
    """The types of activations and weights."""
    wide = table.wide and "16bit" in selection.values.values()
    return (table.activation, table.weight, *((table.wide,) if wide else ()))


def opsets_of(table: QuantTable) -> tuple[int, int]:
    """The oldest opsets for Q/DQ of a table's types: with one scale, and with one for each channel of a weight."""
    least = max(table.opset, qtype(table.activation).opset, qtype(table.weight).opset)
    return least, max(least, table.opset_per_channel, qtype(table.weight).opset_channel)


def require_types(model: Model, table: QuantTable, selection: QuantSelection, lifted: str | None) -> None:
    """Raise `TargetError` if a type that is wanted needs a newer opset than the model has; `lifted`: why it has not.

    Not for 8-bit integers: operators that these cannot be had for stay float one by one.
    """
    for name in types_of(table, selection):
        if name not in ("uint8", "int8"):
            _require(model, name, qtype(name).opset, lifted)


def require_stored(model: Model, options: QuantOptions, needed: int, lifted: str | None) -> None:
    """The same for weights that are stored only, of 4 bits or in blocks that were asked for."""
    if options.stored.endswith("4") or options.block:
        _require(model, options.stored + (f" in blocks of {options.block}" if options.block else ""), needed, lifted)


def _require(model: Model, what: str, needed: int, lifted: str | None) -> None:
    if model.opset() < needed:
        raise TargetError(
            f"{what} needs opset {needed}, and the model has {model.opset()}",
            hint=lifted or f"put opset{{to={needed}}} in front",
        )

"""What a target can do with integers besides Q/DQ with calibrated scales: the section `[kinds]` of its file.

[kinds]
dynamic = "standard"            activations are quantized at run time: by standard operators, or by `com.microsoft` ones
lstm, attention = true          com.microsoft.DynamicQuantizeLSTM, com.microsoft.QAttention
weights = "blocks"              weights alone: DequantizeLinear in front of the product, or com.microsoft.MatMulNBits
qoperator = "standard"          QLinearConv and QLinearMatMul, or com.microsoft's as well
measured = "measured/x.toml"    what each kind takes of the time of float, by size
[kinds.stored]                  types of weights alone, any if there are none here:
int4 = [128, 64]                with how many rows may share a scale, the best first, and 0 for a whole column
[kinds.float]                   operators that have no weights alone in integers, with the reason
[kinds.refused]                 what else is not there, with the reason
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError, UsageError, nearest
from graphopt.targets.table import check_keys

__all__ = ["Figures", "KindTable", "read_kind_table"]

_PAGE = "docs/quantization-kinds.md"
_FORMS = {
    "dynamic": ("", "standard", "com.microsoft"),
    "weights": ("", "blocks", "com.microsoft"),
    "qoperator": ("", "standard", "com.microsoft"),
}


_WRITTEN_BY = "make measure writes them"
_NEAREST = 4  # measured sizes that tell of one in between


@dataclass(frozen=True)
class Figures:
    """What was measured on a target, by the name of a table: sizes, and what each kind takes of the time of float."""

    tables: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    def ratio(self, table: str, kind: str, sizes: Mapping[str, int]) -> float | None:
        """The time of `kind` over that of float at `sizes`, from the measured sizes around it; None if there are none.

        Both are powers of something, so the mean is taken of logarithms, the nearer the weightier.
        """
        rows = [row for row in self.tables.get(table, ()) if kind in row]
        found = []
        for row in rows:
            far = sum(abs(math.log2(max(value, 1) / row[name])) for name, value in sizes.items())
            found.append((far, row[kind]))
        near = sorted(found)[:_NEAREST]
        if not near:
            return None
        weights = [1 / (far + 1e-6) ** 2 for far, _ in near]
        return math.exp(sum(w * math.log(r) for w, (_, r) in zip(weights, near, strict=True)) / sum(weights))


@dataclass(frozen=True)
class KindTable:
    """The forms that a target takes, as described above; an empty text for what it does not take.

    `stored`: where `weights` is `blocks`, a block has to divide the rows, too, unless nothing stands there.
    `refused`: reasons, by the name of a key or of an operator. `measured`: the file with `figures`, from this folder.
    """

    dynamic: str = ""
    lstm: bool = False
    attention: bool = False
    weights: str = ""
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    qoperator: str = ""
    measured: str = ""
    float: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)

    def require(self, kind: str, target: str) -> None:
        """Raises `TargetError` with the reason if the target has no form for `kind`, a key of the section."""
        if not getattr(self, kind):
            reason = self.refused.get(kind, f"no form of quant for {kind!r} is described for this target")
            raise TargetError(reason, where=f"target {target!r}", hint=f"see {_PAGE} for what this target takes")

    def require_stored(self, dtype: str, block: int | None, target: str) -> None:
        """Raises `TargetError` if weights alone cannot be of a type, or share a scale in blocks of that size."""
        if not self.weights or not self.stored:
            return
        where = f"target {target!r}"
        if dtype not in self.stored:
            raise TargetError(
                self.refused.get(dtype, f"it has no weights of {dtype}"),
                where=where,
                hint=f"weights alone can be {', '.join(self.stored)}",
            )
        sizes = self.stored[dtype]
        if block is not None and block not in sizes:
            known = ", ".join("whole columns" if size == 0 else str(size) for size in sizes)
            raise TargetError(f"it has no weights of {dtype} with block={block}", where=where, hint=f"it has {known}")


def read_kind_table(data: Mapping[str, Any], where: str, folder: Path) -> KindTable:
    """Build the table from TOML in `folder`. Raises `UsageError` that names the key at fault."""
    check_keys(data, {f.name for f in fields(KindTable)} - {"figures"}, where)
    for key, choices in _FORMS.items():
        if data.get(key, "") not in choices:
            raise UsageError(f"{key} is {data[key]!r}", where=where, hint=nearest(str(data[key]), choices))
    plain: dict[str, Any] = dict(data)
    plain["stored"] = {str(k): tuple(int(b) for b in v) for k, v in data.get("stored", {}).items()}
    for key in ("float", "refused"):
        plain[key] = {str(k): str(v) for k, v in data.get(key, {}).items()}
    if plain.get("measured"):
        plain["figures"] = _read_figures(folder / plain["measured"])
    return KindTable(**plain)


def _read_figures(path: Path) -> Figures:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        lists = {name: rows for name, rows in data.items() if isinstance(rows, list)}
        tables = {name: [{k: float(v) for k, v in row.items()} for row in rows] for name, rows in lists.items()}
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"no table of measurements: {error}", where=str(path), hint=_WRITTEN_BY) from None
    if any(figure <= 0 for rows in tables.values() for row in rows for figure in row.values()):
        raise UsageError("a size or ratio is not above 0", where=str(path), hint=_WRITTEN_BY)
    return Figures(tables)

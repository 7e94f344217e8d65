"""What a target can do with integers besides Q/DQ with calibrated scales: the section `[kinds]` of its file.

[kinds]
dynamic = "standard"            activations are quantized at run time: by standard operators, or by `com.microsoft` ones
lstm, attention = true          com.microsoft.DynamicQuantizeLSTM, com.microsoft.QAttention
weights = "blocks"              weights alone: DequantizeLinear in front of the product, or com.microsoft.MatMulNBits
blocks = [32, 64, 128]          rows of a weight that may share a scale; [] for any
qoperator = "standard"          QLinearConv and QLinearMatMul, or com.microsoft's as well
measured = "measured/x.toml"    what each kind takes of the time of float, by size
[kinds.refused]                 what is not there, with the reason
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from graphopt.errors import TargetError, UsageError, nearest
from graphopt.targets.table import check_keys

__all__ = ["KindTable", "read_kind_table"]

_PAGE = "docs/quantization-kinds.md"
_FORMS = {
    "dynamic": ("", "standard", "com.microsoft"),
    "weights": ("", "blocks", "com.microsoft"),
    "qoperator": ("", "standard", "com.microsoft"),
}


@dataclass(frozen=True)
class KindTable:
    """The forms that a target takes, as described above; an empty text for what it does not take.

    `refused`: reasons, by the name of a key or of an operator. `measured`: the file with figures, from this folder.
    """

    dynamic: str = ""
    lstm: bool = False
    attention: bool = False
    weights: str = ""
    blocks: tuple[int, ...] = ()
    qoperator: str = ""
    measured: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)

    def require(self, kind: str, target: str) -> None:
        """Raises `TargetError` with the reason if the target has no form for `kind`, a key of the section."""
        if not getattr(self, kind):
            reason = self.refused.get(kind, f"no form of quant for {kind!r} is described for this target")
            raise TargetError(reason, where=f"target {target!r}", hint=f"see {_PAGE} for what this target takes")


def read_kind_table(data: Mapping[str, Any], where: str) -> KindTable:
    """Build the table from TOML. Raises `UsageError` that names the key at fault."""
    check_keys(data, {f.name for f in fields(KindTable)}, where)
    for key, choices in _FORMS.items():
        if data.get(key, "") not in choices:
            raise UsageError(f"{key} is {data[key]!r}", where=where, hint=nearest(str(data[key]), choices))
    plain: dict[str, Any] = dict(data)
    plain["blocks"] = tuple(int(b) for b in data.get("blocks", ()))
    plain["refused"] = {str(k): str(v) for k, v in data.get("refused", {}).items()}
    return KindTable(**plain)

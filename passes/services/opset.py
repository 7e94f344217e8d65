"""The pass `opset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt import OPSET, Context, Pass, UsageError, newest_opset


@dataclass(frozen=True)
class Opset(Pass):
    """Convert the model to another version of the standard operators, `to`, with onnx's version converter.

    `timeout` in seconds.
    """

    name: ClassVar[str] = "opset"
    rewrites: ClassVar[Mapping[str, str]] = {"opset": "Use another version of the standard operators."}

    to: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.to < 7:
            raise UsageError(
                f"opset {self.to} is too old" if self.to else "there is no version to convert to",
                where="pass 'opset'", hint="say which, from 7 on: opset{to=21}",
            )  # fmt: skip
        if self.to > newest_opset():
            raise UsageError(
                f"opset {self.to} is not known", where="pass 'opset'",
                hint=f"the newest that the installed onnx knows is {newest_opset()}",
            )  # fmt: skip

    def run(self, ctx: Context) -> None:
        if ctx.model.opset() != self.to:
            ctx.run_tool(OPSET, timeout=self.timeout, version=self.to)


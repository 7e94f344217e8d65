"""The pass `ort`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt import ORT, Context, Pass, TargetError

_MICROSOFT = "com.microsoft"
_BLOCKED = "com.microsoft.nchwc"


@dataclass(frozen=True)
class Ort(Pass):
    """ONNX Runtime's own optimizer for the CPU, run on the whole model as one rewrite.

    `level`: `basic` keeps to standard operators. `extended` also uses those of com.microsoft, and `layout` and
    `all` those of com.microsoft.nchwc, which fit the processor of this machine; they are refused for targets that
    do not take these operators. `disable`: optimizers to leave out (`ConstantFolding|MatMulAddFusion`). `timeout`
    in seconds.
    """

    name: ClassVar[str] = "ort"
    settles: ClassVar[bool] = False
    rewrites: ClassVar[Mapping[str, str]] = {
        f"ort.{level}": f"Replace the model by what ONNX Runtime makes of it at its level {level}."
        for level in ("basic", "extended", "layout", "all")
    }

    level: Literal["basic", "extended", "layout", "all"] = "basic"
    disable: tuple[str, ...] = ()
    timeout: float = 600.0

    def run(self, ctx: Context) -> None:
        self._require(ctx)
        layout = self.level in ("layout", "all")
        made = ctx.run_tool(
            ORT,
            by=f"ort.{self.level}",
            domains=(_BLOCKED,) if layout else (),
            timeout=self.timeout,
            level=self.level,
            disable=self.disable,
        )
        if made and any(node.domain == _BLOCKED for graph in ctx.model.graphs() for node in graph.nodes):
            ctx.note(f"operators of {_BLOCKED} have blocks of channels of the size that this machine's processor wants")

    def _require(self, ctx: Context) -> None:
        target = ctx.target
        if self.level == "basic":
            return
        if _MICROSOFT not in target.domains:
            raise TargetError(
                f"ort{{level={self.level}}} uses operators of {_MICROSOFT}, which the target does not take",
                where=f"target {target.name!r}",
                hint="use ort{level=basic}, or a target that takes them, such as ort-cpu",
            )
        if self.level != "extended" and target.compiled_by != "onnxruntime":
            raise TargetError(
                f"ort{{level={self.level}}} uses layouts of this machine's processor, which the target does not take",
                where=f"target {target.name!r}",
                hint="use ort{level=extended}, or the target ort-cpu",
            )

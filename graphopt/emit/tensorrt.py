"""TensorRT for RTX: engines for named GPUs, built ahead of time on a machine that has none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.emit.emitter import EmitOptions, Emitted, Emitter
from graphopt.emit.profile import Range, profile_for
from graphopt.errors import GraphoptError, TargetError, UsageError

if TYPE_CHECKING:
    from graphopt.ir.model import Model

_ENGINE = "model.engine"


class TensorRTEmitter(Emitter):
    """Writes a TensorRT-RTX engine (`.engine`).

    The network is strongly typed: the engine computes in the types that the model says. The model goes to the
    builder through a file in the temporary folder; beyond 2 GB its weights lie beside it.
    """

    name: ClassVar[str] = "tensorrt"
    suffixes: ClassVar[tuple[str, ...]] = (".engine",)
    targets: ClassVar[tuple[str, ...]] = ("tensorrt-rtx",)

    def emit(self, model: Model, path: Path, options: EmitOptions) -> Emitted:
        """Build the engine and put it in place.

        Raises `TargetError` without the package, where TensorRT refuses the model, or if the builder dies or
        takes longer than `options.timeout`; `UsageError` for options that do not fit the model and for a file
        that cannot be written.
        """
        from graphopt.ir.files import Replacement, require_writable
        from graphopt.ir.tensors import FileRef

        require_package(path)
        require_writable(path)
        if not options.sm or len(set(options.sm)) != len(options.sm):
            raise UsageError("give at least one compute capability, each once", hint="--sm 80,86,89,120")
        profile, notes = profile_for(model.ir.graph, options.profile)
        with tempfile.TemporaryDirectory(prefix="graphopt-engine-") as folder:
            built = _build(model, path, Path(folder), options, profile)
            engine = FileRef(Path(folder) / _ENGINE)
            with Replacement(Path(os.path.realpath(path))) as out:
                out.copy(engine, 0, engine.size)
                out.finish()
                out.commit()
        names = ", ".join(map(str, options.sm))
        notes.append(f"tensorrt-rtx {built['version']} built for sm {names} in {built['seconds']:.1f} s")
        return Emitted(files=(path,), bytes=engine.size, notes=tuple(notes))


def require_package(path: Path) -> None:
    """Raise `TargetError` with the line to install where the builder is missing."""
    if find_spec("tensorrt_rtx") is None:
        raise TargetError(
            "an engine needs TensorRT for RTX, which is not installed",
            where=os.fspath(path),
            hint='install it: pip install "graphopt[tensorrt]" (it needs no GPU)',
        )


def _build(
    model: Model, path: Path, folder: Path, options: EmitOptions, profile: Mapping[str, Range]
) -> dict[str, Any]:
    """Build in a child process of its own, from a file in `folder` to a file in `folder`."""
    from graphopt.ir.save import write_model
    from graphopt.runtime.executor import Executor, ExecutorDied, ExecutorTimeout

    source = folder / "model.onnx"
    write_model(model.ir, source, source=model.source)
    shapes = {name: chosen.triple for name, chosen in profile.items()}
    child = Executor()
    try:
        built: dict[str, Any] = child.call(
            "graphopt.emit.tensorrt_build:build",
            os.fspath(source), os.fspath(folder / _ENGINE), options.sm, shapes,
            timeout=options.timeout,
        )  # fmt: skip
        return built
    except ExecutorTimeout as error:
        what = f"TensorRT did not finish within {options.timeout:g} s"
        raise TargetError(what, where=os.fspath(path), hint="allow it more time") from error
    except ExecutorDied as error:
        what = "TensorRT's builder crashed on this model"
        raise TargetError(what, where=os.fspath(path), hint=error.hint) from error
    except GraphoptError as error:
        error.where = error.where or os.fspath(path)
        raise
    finally:
        child.close()

"""Optimizers that behave in all the ways that one in a process of its own may."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import onnx

from graphopt.engine.tools import Tool


def tool(function: str, package: str = "onnx") -> Tool:
    """One of the functions below, as a tool."""
    return Tool(function, f"tests.unit.tools:{function}", package, "onnx")


def copy(source: str, target: str) -> None:
    onnx.save(onnx.load(source), target)


def rename(source: str, target: str, *, op: str, to: str) -> None:
    """Give all nodes of an operator another operator."""
    model = onnx.load(source)
    for node in model.graph.node:
        if node.op_type == op:
            node.op_type = to
    onnx.save(model, target)


def fix(source: str, target: str) -> None:
    """Let the first size of each input be 1."""
    model = onnx.load(source)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, target)


def fail(source: str, target: str) -> None:
    raise ValueError("no idea what to do")


def crash(source: str, target: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(source: str, target: str) -> None:
    time.sleep(600)


def garbage(source: str, target: str) -> None:
    Path(target).write_bytes(b"no model")


def nothing(source: str, target: str) -> None:
    pass

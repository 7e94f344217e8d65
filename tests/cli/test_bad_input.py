"""Bad input on the command line: the exact words, the exit code, and every file left as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.ir import files
from tests.unit.protos import contents, model, relu, summing, tensor

DAMAGED = "the file is damaged or cut off: copy, download or export it again"
OPSET = onnx.defs.onnx_opset_version()
FOLDER = Path(__file__).parents[2]
F = np.float32


def error(where: Path | str | None, what: str, hint: str | None = None) -> str:
    head = f"graphopt: error: {where}: {what}" if where else f"graphopt: error: {what}"
    return f"{head}\n  {hint}\n" if hint else f"{head}\n"


def refused(cli: Any, path: Path, code: int, text: str, *args: str | Path) -> None:
    """`run` over an output that exists, `run` in place, and `inspect` say the same and change nothing."""
    kept = path.parent / "out.onnx"
    kept.write_bytes(b"what stood here before")
    before = contents(path.parent)
    for call in (["run", path, "-o", kept], ["run", path, "-o", path], ["inspect", path]):
        assert cli(*call, *args) == (code, "", text)
        assert contents(path.parent) == before


# The model file


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = model()
    change(proto)
    return proto.SerializeToString()


def _second_initializer() -> bytes:
    other = tensor("w")
    other.raw_data = other.raw_data[:-1] + b"\x01"
    return model([helper.make_node("Add", ["x", "w"], ["y"])], tensor("w"), other).SerializeToString()


def _nested() -> bytes:
    data = b""
    for _ in range(40):
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            size, head = len(data), b""
            while size > 0x7F:
                head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
            data = tag + head + bytes([size]) + data
    return b"\x08\x08\x3a" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def _huge() -> bytes:
    bad = tensor("w", 4)
    bad.dims[:] = [2**62, 2**62]
    return model(None, bad).SerializeToString()


def _cycle() -> bytes:
    return model([relu("b", "a", "1"), relu("a", "b", "2"), relu("x", "y")]).SerializeToString()


INVALID = "is not a valid ONNX model: "
MISSING = "an initializer may be missing, or an input of the graph"
MODELS: dict[str, tuple[bytes, str, str | None]] = {
    "empty": (b"", "is empty", "copy, download or export the model again"),
    "no protobuf": (b"Dear all,\nplease find", "is not an ONNX model but text", "pass the binary .onnx file"),
    "wrong wire type": (
        b"\x08\x08\x3a\x02\x08\x01",
        f"{INVALID}graph.node[0] is stored as a varint where ONNX has a length and bytes, at byte 4",
        DAMAGED,
    ),
    "length beyond the file": (
        b"\x08\x08\x3a\x7f\x0a\x00",
        f"{INVALID}graph: a length of 127 bytes where 2 are left at byte 2",
        DAMAGED,
    ),
    "endless number": (b"\x3a" + b"\x80" * 10 + b"\x01", f"{INVALID}graph: a varint of more than 10 bytes at byte 1",
                       DAMAGED),
    "deep nesting": (
        _nested(),
        f"{INVALID}graph.node[0].attribute[0].g.node[0].att...0].attribute[0].g.node[0].attribute[0].g: "
        "messages nested deeper than 100 levels at byte 259",
        DAMAGED,
    ),
    "huge count": (_huge(), f"initializer 'w' has the shape {[2**62, 2**62]}, which no computer can hold", None),
    "unknown opset": (
        changed(lambda m: setattr(m.opset_import[0], "version", 999)),
        f"has operator set version 999; onnx {onnx.__version__} knows up to {OPSET}",
        f"install a newer onnx, or export the model with operator set version {OPSET} or lower",
    ),
    "unknown domain": (
        changed(lambda m: setattr(m.graph.node[0], "domain", "corp.ops")),
        "node 'r' (Relu) is of the operator set 'corp.ops', which the model does not import",
        "add an opset_import for it",
    ),
    "name used twice": (
        model([relu("x", "y", "a"), relu("x", "y", "b")]).SerializeToString(),
        "the name 'y' is defined twice: node 'a' (Relu) and node 'b' (Relu)",
        None,
    ),
    "two initializers": (_second_initializer(), "two initializers are named 'w' and differ", None),
    "cycle": (_cycle(), "the graph has a cycle: node '1' (Relu) -> node '2' (Relu) -> node '1' (Relu)", None),
    "missing initializer": (
        model([helper.make_node("Add", ["x", "w"], ["y"], name="a")]).SerializeToString(),
        "node 'a' (Add) reads 'w', which nothing produces",
        MISSING,
    ),
    "dangling output": (model([relu("x", "z")]).SerializeToString(), "the graph output 'y' is produced by no node",
                        None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models(cli, tmp_path, name):
    data, what, hint = MODELS[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(cli, path, 3, error(path, what, hint))


def test_every_truncation(cli, tmp_path):
    """Cut off at any byte: exit code 3, one error of two lines at most, and nothing is written."""
    whole = summing(tensor("w", 2)).SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        code, out, err = cli("run", path, "--no-verify", "-o", path)
        assert (code, out) == (3, ""), end
        assert err.startswith(f"graphopt: error: {path}: ")
        assert len(err.splitlines()) <= 2
        assert contents(tmp_path) == {"m.onnx": whole[:end]}


# External data


def external(folder: Path, location: str, **entries: str) -> Path:
    data = tensor("w")
    data.ClearField("raw_data")
    data.data_location = onnx.TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        data.external_data.add(key=key, value=text)
    path = folder / "m.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], data).SerializeToString())
    return path


LEAVES = "is a link that leaves the model's folder; allow links to follow it"


@pytest.mark.parametrize(
    ("location", "entries", "what"),
    [
        ("no.bin", {}, "which does not exist"),
        ("w.bin", {"offset": "4"}, "needs bytes 4 to 2004, the file has 2000"),
        ("w.bin", {"offset": str(2**62), "length": "2000"}, f"needs bytes {2**62} to {2**62 + 2000}, the file has"),
        ("/etc/passwd", {}, "which is an absolute path; it must lie in the model's folder"),
        ("../secret", {}, "which leads out of the model's folder"),
        ("link", {}, f"which {LEAVES}"),
        ("pipe", {}, "which is not a regular file"),
        ("device", {}, LEAVES),
    ],
)
def test_external_data(cli, tmp_path, location, entries, what):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(2000))
    (tmp_path / "secret").write_bytes(bytes(2000))
    (folder / "link").symlink_to("../secret")
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    path = external(folder, location, **entries)
    before = path.read_bytes()
    for call in (["run", path, "-o", path], ["inspect", path]):
        code, out, err = cli(*call)
        assert (code, out) == (3, "")
        assert err.startswith(f"graphopt: error: {path}: ")
        assert what in err
        assert "initializer 'w'" in err
        assert path.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["device", "link", "m.onnx", "pipe", "w.bin"]


def test_a_device_as_external_data_even_with_links(cli, tmp_path):
    (tmp_path / "device").symlink_to("/dev/zero")
    path = external(tmp_path, "device")
    code, _, err = cli("run", path, "--allow-links")
    assert code == 3
    assert "which is not a regular file" in err


def test_external_data_goes_along(cli, tmp_path):
    (tmp_path / "out").mkdir()
    path = external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(np.arange(500, dtype=F).tobytes())
    assert cli("run", path, "-o", tmp_path / "out" / "m.onnx").code == 0
    (tmp_path / "w.bin").unlink()
    moved = onnx.load(tmp_path / "out" / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(moved.graph.initializer[0]), np.arange(500, dtype=F))


# Saving


@pytest.fixture(params=[False, True], ids=["inline", "external"])
def weighty(request, tmp_path) -> Path:
    """A model with something to clean up and a weight, in a folder of its own."""
    folder = tmp_path / "model"
    folder.mkdir()
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"])]
    proto = model(nodes, tensor("w", 50_000))
    onnx.save(proto, folder / "m.onnx", save_as_external_data=request.param, location="w.bin", size_threshold=0)
    return folder / "m.onnx"


def test_full_disk(cli, weighty, monkeypatch):
    before = contents(weighty.parent)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("write", "copy_file_range"):
        monkeypatch.setattr(files.os, name, full, raising=False)
    code, out, err = cli("run", weighty, "-p", "cleanup", "--no-verify", "-o", weighty)
    monkeypatch.undo()
    assert (code, out) == (2, "")
    assert "cannot be written: No space left on device\n  make room in " in err
    assert contents(weighty.parent) == before


SLOW_SAVE = """
import sys, time
from graphopt.ir import files
from graphopt.cli.main import main
def slow(self, *_):
    print("saving", file=sys.stderr, flush=True)
    time.sleep(30)
setattr(files.Replacement, sys.argv[1], slow)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("step", ["write", "finish", "commit"])
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_during_save(weighty, step, how, code):
    before = contents(weighty.parent)
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, step, "run", weighty, "-p", "cleanup", "--no-verify", "-o", weighty],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=FOLDER,
    )  # fmt: skip
    assert run.stderr is not None
    assert run.stderr.readline() == b"saving\n"
    run.send_signal(how)
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (code, b"")
    after = contents(weighty.parent)
    if how == signal.SIGINT:
        assert err == b"graphopt: interrupted\n"
        assert after == before
    else:  # what a killed process leaves behind has a name of its own
        assert {name: data for name, data in after.items() if not name.startswith(".graphopt-")} == before


# Calibration data


def test_no_data_is_said_everywhere(cli, model):
    report = model.with_name("report.json")
    code, out, _ = cli("run", model, "-p", "quant", "-t", "ort-cpu", "--force", "--json", report)
    assert code == 0
    assert "SYNTHETIC CALIBRATION" in out
    assert json.loads(report.read_text())["calibration"] == "synthetic"
    written = onnx.load(model.with_name("net.opt.onnx"))
    assert {p.key: p.value for p in written.metadata_props}["graphopt.calibration"] == "synthetic"
    np.savez(model.with_name("d.npz"), image=np.ones((2, 2, 8, 8), F))
    code, out, _ = cli("run", model, "-p", "quant", "-t", "ort-cpu", "--force", "--data", "d.npz", "--json", report)
    assert code == 0
    assert "SYNTHETIC" not in out
    assert json.loads(report.read_text())["calibration"] == "data"
    written = onnx.load(model.with_name("net.opt.onnx"))
    assert "graphopt.calibration" not in {p.key for p in written.metadata_props}


IMAGE = np.ones((2, 2, 8, 8), F)
HOLE = np.where(np.arange(256).reshape(2, 2, 8, 8) == 133, np.nan, IMAGE).astype(F)
SHAPE = "the array for 'image' has shape [1, 3, 8, 8], but the input takes [batch, 2, 8, 8]"


@pytest.mark.parametrize(
    ("arrays", "what", "hint"),
    [
        ({"imag": IMAGE}, "no array for the input 'image'", "did you mean 'imag'? Known: imag"),
        ({}, "no array for the input 'image'", "there is no array at all"),
        ({"image": np.ones((1, 3, 8, 8), F)}, SHAPE, "one more axis in front is taken to count samples"),
        ({"image": IMAGE.astype(np.int64)}, "the array for 'image' is int64, but the input takes float32", None),
        ({"image": HOLE}, "the array for 'image' has NaN at [1, 0, 0, 5] of sample 0", None),
        ({"image": IMAGE[:0]}, "there are no samples in it", None),
    ],
)
def test_data(cli, model, tmp_path, arrays, what, hint):
    np.savez(tmp_path / "d.npz", **arrays)
    (tmp_path / "out.onnx").write_bytes(b"what stood here before")
    before = contents(tmp_path)
    for passes in ("cleanup", "quant"):
        got = cli("run", model, "-p", passes, "-t", "ort-cpu", "--data", "d.npz", "-o", "out.onnx")
        assert got == (2, "", error("d.npz", what, hint))
        assert contents(tmp_path) == before


def test_data_that_blocks(cli, model, tmp_path):
    os.mkfifo(tmp_path / "d.npz")
    code, _, err = cli("run", model, "--data", "d.npz")
    assert code == 2
    assert err.startswith("graphopt: error: d.npz: is not a regular file\n")

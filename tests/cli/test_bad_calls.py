"""Strange paths and flags: the exact words, the exit code, and every file left as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import graphopt
from graphopt.ir import files
from tests.unit.protos import contents


def error(where: Path | str | None, what: str, hint: str | None = None) -> str:
    head = f"graphopt: error: {where}: {what}" if where else f"graphopt: error: {what}"
    return f"{head}\n  {hint}\n" if hint else f"{head}\n"


def test_strange_paths_of_a_model(cli, model, tmp_path):
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "broken.onnx").symlink_to("gone")
    long = "a" * 300 + ".onnx"
    for path, where, what in [
        ("", ".", "is a directory, not a file"),
        ("-", "-", "there is no such file"),
        (long, long, "is no path: File name too long"),
        ("/dev/zero", "/dev/zero", "is not a regular file"),
    ]:
        assert cli("run", path, "-o", "out.onnx") == (2, "", error(where, what))
    for name in ("loop.onnx", "broken.onnx"):
        code, _, err = cli("run", name)
        assert code == 2
        assert err.startswith(f"graphopt: error: {name}: there is no such file\n")
        assert f"did you mean {name!r}" not in err
    odd = model.rename(tmp_path / "with space é\n.onnx")
    assert cli("run", odd.name, "-p", "cleanup", "--no-verify").code == 0
    assert (tmp_path / "with space é\n.opt.onnx").exists()


def test_strange_outputs(cli, model, tmp_path):
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "file").write_text("a file")
    os.mkfifo(tmp_path / "pipe.onnx")
    names = sorted(p.name for p in tmp_path.iterdir())
    long = "a" * 300 + ".onnx"
    untouched = "the previous file is untouched"
    loop = str(tmp_path / "loop.onnx")
    for output, text in [
        ("file/out.onnx", error("file/out.onnx", "the output's folder is a file", "name a folder")),
        (long, error(long, "is no path: File name too long")),
        ("loop.onnx", error(loop, "cannot be written: Too many levels of symbolic links", untouched)),
        ("pipe.onnx", error(tmp_path / "pipe.onnx", "cannot be written: it is not a regular file")),
    ]:
        assert cli("run", model, "-p", "cleanup", "--no-verify", "-o", output) == (2, "", text)
        assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_a_link_is_written_through(cli, model, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.onnx").symlink_to("far/real.onnx")
    assert cli("run", model, "-p", "cleanup", "--no-verify", "-o", "link.onnx").code == 0
    assert (tmp_path / "link.onnx").is_symlink()
    assert graphopt.load(tmp_path / "far" / "real.onnx").node_count == 3


@pytest.mark.parametrize(
    ("place", "what", "hint"),
    [
        ("net.onnx", "the JSON would be written over the model", "name another file"),
        ("./out.onnx", "the JSON would be written over the model", "name another file"),
        ("no/x.json", "cannot write the JSON: No such file or directory", None),
        ("folder", "cannot write the JSON: Is a directory", "name a file in it"),
    ],
)
def test_json_that_cannot_be_written_stops_the_run_before_it_starts(cli, model, tmp_path, place, what, hint):
    (tmp_path / "folder").mkdir()
    before = model.read_bytes()
    assert cli("run", model, "-o", "out.onnx", "--json", place) == (2, "", error(place, what, hint))
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "net.onnx"]


def test_json_over_a_model_that_is_only_read(cli, model):
    before = model.read_bytes()
    text = error("net.onnx", "the JSON would be written over the model", "name another file")
    assert cli("inspect", model, "--json", "net.onnx") == (2, "", text)
    assert cli("diff", model, model, "--json", "net.onnx") == (2, "", text)
    assert model.read_bytes() == before


def test_json_on_a_full_disk_keeps_the_old_one(cli, model, tmp_path, monkeypatch):
    (tmp_path / "old.json").write_text("{}")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    text = error("old.json", "cannot write the JSON: No space left on device")
    assert cli("inspect", model, "--json", "old.json") == (2, "", text)
    monkeypatch.undo()
    assert contents(tmp_path) == {"net.onnx": model.read_bytes(), "old.json": b"{}"}


WHOLE = "it takes a whole number from 0 on"
SM = "it takes compute capabilities, such as 80,86"
PROFILE = "write name=smallest:usual:largest, such as input=1x3x224x224:8x3x224x224:32x3x224x224"


@pytest.mark.parametrize(
    ("args", "where", "what", "hint"),
    [
        (["-O9"], "--level", "cannot be '9'", "it takes a whole number from 0 to 3"),
        (["--stop-after", "-1"], "--stop-after", "cannot be '-1'", WHOLE),
        (["--stop-after", "1e3"], "--stop-after", "cannot be '1e3'", WHOLE),
        (["--seed", "-1"], "--seed", "cannot be '-1'", WHOLE),
        (["--max-drop", "nan"], "--max-drop", "cannot be 'nan'", "it takes a percentage, such as 1 or 0.5%"),
        (["--sm", "garbage"], "--sm", "cannot be 'garbage'", SM),
        (["--profile", "garbage"], None, "cannot read the profile 'garbage'", PROFILE),
        (["--config", "."], ".", "cannot read the configuration: Is a directory", None),
        (["--config", "pipe"], "pipe", "is not a regular file", None),
        (["--eval", "end.py:f"], "end.py:1", "the file raised SystemExit: 3", "run again with -v for the traceback"),
        (["--in", "x"], None, "there is no option --in", "did you mean --inputs? See graphopt run --help"),
    ],
)
def test_flags(cli, model, tmp_path, args, where, what, hint):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "end.py").write_text("raise SystemExit(3)\n")
    assert cli("run", model, *args) == (2, "", error(where, what, hint))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["end.py", "net.onnx", "pipe"]


def test_huge_numbers_are_only_large(cli, model):
    huge = str(10**30)
    assert cli("run", model, "-p", "cleanup", "--stop-after", huge, "--seed", huge).code == 0

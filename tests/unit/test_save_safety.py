"""Whatever happens during a save, the old model or the new one is complete."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import UsageError
from graphopt.ir import files
from graphopt.ir.load import read_model
from graphopt.ir.save import write_model
from tests.unit.protos import contents, last, summing, tensor, write

UNTOUCHED = "the previous file is untouched"


# Replacing files


def test_in_place(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", summing(tensor("w"), tensor("v")))
    for _ in range(2):
        loaded, source = read_model(path)
        loaded.graph.initializers["v"].const_value = ir.Tensor(np.full(500, 7, np.float32))
        write_model(loaded, path, source=source)
        assert last(loaded) == 499  # the open file still has the old weights
    again, _ = read_model(path)
    assert (last(again), last(again, "v")) == (499, 7)
    assert sorted(contents(tmp_path)) == ["m.onnx"]


def test_in_place_with_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(summing(tensor("w")))[0], path, external=True)
    for expected in ("m.onnx.1.data", "m.onnx.data", "m.onnx.1.data"):
        loaded, source = read_model(path)
        write_model(loaded, path, source=source)
        assert sorted(contents(tmp_path)) == sorted(["m.onnx", expected])
        assert last(loaded) == last(read_model(path)[0]) == 499
    loaded, source = read_model(path)
    write_model(loaded, path, source=source, external=False)
    assert sorted(contents(tmp_path)) == ["m.onnx"]


def test_data_files_of_others_are_left_alone(tmp_path: Path) -> None:
    onnx.save_model(summing(tensor("w")), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin")
    (tmp_path / "m.onnx.data").write_bytes(b"somebody's")
    loaded, source = read_model(tmp_path / "m.onnx")
    write_model(loaded, tmp_path / "m.onnx", source=source)
    assert sorted(contents(tmp_path)) == ["m.onnx", "m.onnx.1.data", "m.onnx.data", "w.bin"]
    assert (tmp_path / "m.onnx.data").read_bytes() == b"somebody's"


def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    loaded, _ = read_model(summing(tensor("w")))
    path = tmp_path / "m.onnx"
    write_model(loaded, path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    write_model(loaded, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_links_are_written_through(tmp_path: Path) -> None:
    loaded, _ = read_model(summing(tensor("w")))
    (tmp_path / "far").mkdir()
    (tmp_path / "link.onnx").symlink_to("far/real.onnx")
    for _ in range(2):
        write_model(loaded, tmp_path / "link.onnx")
        assert (tmp_path / "link.onnx").is_symlink()
        assert last(read_model(tmp_path / "far/real.onnx")[0]) == 499
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "link.onnx", external=True)
    assert str(caught.value) == (
        f"{tmp_path / 'link.onnx'}: external data cannot be saved through a link to another folder: "
        f"it would not be found\n  save to {tmp_path / 'far/real.onnx'}"
    )


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    loaded, _ = read_model(summing(tensor("w")))
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for path, what in [
        (tmp_path, "it is a directory"),
        (tmp_path / "no/m.onnx", "its folder does not exist"),
        (tmp_path / "file/m.onnx", "its folder is a file"),
        (tmp_path / "pipe", "it is not a regular file"),
        (Path("/dev/null"), "it is not a regular file"),
    ]:
        with pytest.raises(UsageError) as caught:
            write_model(loaded, path)
        assert caught.value.what == f"cannot be written: {what}"
        assert caught.value.where == str(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


# Failures on the way


def failing(code: int, after: int) -> Any:
    """A stand-in for os.write that fails after some bytes."""
    real, done = os.write, [0]

    def write_some(fd: int, data: Any) -> int:
        done[0] += len(data)
        if done[0] > after:
            raise OSError(code, os.strerror(code))
        return real(fd, data)

    return write_some


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("after", [0, 100, 2050])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, external: bool
) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(summing(tensor("w")))[0], path, external=external)
    before = contents(tmp_path)
    loaded, source = read_model(path)
    loaded.graph.initializers["w"].const_value = ir.Tensor(np.ones(500, np.float32))
    monkeypatch.setattr(files.os, "write", failing(errno.ENOSPC, after))
    with pytest.raises(UsageError) as caught:
        write_model(loaded, path, source=source)
    assert caught.value.what == "cannot be written: No space left on device"
    assert caught.value.hint == f"make room in {tmp_path}, or write to another disk; {UNTOUCHED}"
    assert contents(tmp_path) == before


def test_a_full_disk_while_the_kernel_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx", summing(tensor("w")))
    before = contents(tmp_path)
    loaded, source = read_model(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "copy_file_range", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_model(loaded, path, source=source)
    assert contents(tmp_path) == before


def test_without_kernel_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx", summing(tensor("w", 700_000)))

    def refused(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    loaded, source = read_model(path)
    monkeypatch.setattr(files.os, "copy_file_range", refused)
    write_model(loaded, tmp_path / "a.onnx", source=source)
    monkeypatch.delattr(files.os, "copy_file_range")
    write_model(loaded, tmp_path / "b.onnx", source=source)
    assert len(set(contents(tmp_path).values())) == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    loaded, _ = read_model(summing(tensor("w")))

    def denied(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(UsageError) as caught:
        write_model(loaded, tmp_path / "m.onnx")
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: cannot be written: {os.strerror(code)}\n"
        f"  check the permissions of {tmp_path}, or write elsewhere"
    )


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("step", ["write", "finish", "commit"])
def test_an_interrupt_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, external: bool
) -> None:
    path = tmp_path / "m.onnx"
    write_model(read_model(summing(tensor("w")))[0], path, external=external)
    before = contents(tmp_path)
    loaded, source = read_model(path)
    real, calls = getattr(files.Replacement, step), [0]
    last = 2 if external and step != "write" else 1  # the call that is about the model file

    def interrupted(self: files.Replacement, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == last:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(files.Replacement, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(loaded, path, source=source)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("external", [False, True])
def test_a_kill_at_any_system_call_leaves_a_complete_model(tmp_path: Path, external: bool) -> None:
    """A child process saves in place and dies at its n-th call that changes the disk."""
    path = tmp_path / "m.onnx"
    initial, _ = read_model(summing(tensor("w"), tensor("v")))
    outcomes = set()
    for stop in range(1, 30):
        write_model(initial, path, external=external)
        code = save_and_die(path, stop)
        again, _ = read_model(path)
        assert last(again) == 499
        outcomes.add(last(again, "v"))
        for left in tmp_path.iterdir():
            left.unlink()
        if code == 0:
            break
        assert code == 9
    assert code == 0
    assert outcomes == {499, 7}


def save_and_die(path: Path, stop: int) -> int:
    """Change the model in place in a forked process; it exits with 9 just before system call number `stop`."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def watched(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:
                os._exit(9)
            return real(*args, **kwargs)

        return call

    try:
        loaded, source = read_model(path)
        loaded.graph.initializers["v"].const_value = ir.Tensor(np.full(500, 7, np.float32))
        for name in ("open", "write", "copy_file_range", "ftruncate", "fsync", "close"):
            setattr(files.os, name, watched(getattr(os, name)))
        for name in ("replace", "unlink"):
            setattr(files.Path, name, watched(getattr(Path, name)))
        write_model(loaded, path, source=source)
        os._exit(0)
    finally:
        os._exit(1)


def test_a_file_size_limit_is_like_a_full_disk(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", summing(tensor("w", 50_000)))
    script = """
import resource, sys
from graphopt.errors import UsageError
from graphopt.ir.load import read_model
from graphopt.ir.save import write_model
loaded, source = read_model(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_model(loaded, sys.argv[1], source=source)
except UsageError as error:
    print(error.what)
"""
    before = contents(tmp_path)
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.onnx")], capture_output=True, check=True)
    assert run.stdout.decode() == "cannot be written: File too large\n"
    assert contents(tmp_path) == before

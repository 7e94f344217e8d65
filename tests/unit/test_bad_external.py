"""External data that is out of the folder, out of range, or no data."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import onnx
import pytest
from onnx import helper

from graphopt.errors import UsageError
from tests.unit.protos import model, refusal, tensor


def external(folder: Path, **entries: str) -> Path:
    data = tensor("w")
    data.ClearField("raw_data")
    data.data_location = onnx.TensorProto.EXTERNAL
    for key, text in entries.items():
        data.external_data.add(key=key, value=text)
    path = folder / "m.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], data).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a data file that is long enough, beside a file that must not be reached."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "w.bin").write_bytes(bytes(2000))
    (tmp_path / "secret").write_bytes(bytes(2000))
    return made


def test_external_data_out_of_the_folder(folder: Path) -> None:
    (folder / "link").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    lies = "initializer 'w' lies in the external file"
    for location, problem in [
        (str(folder.parent / "secret"), "is an absolute path; it must lie in the model's folder"),
        (r"C:\secret", "is an absolute path; it must lie in the model's folder"),
        ("../secret", "leads out of the model's folder"),
        ("sub/../w.bin", "leads out of the model's folder"),
        (r"..\secret", "leads out of the model's folder"),
        ("link", "is a link that leaves the model's folder; allow links to follow it"),
        ("up/secret", "is a link that leaves the model's folder; allow links to follow it"),
        ("", "is not a file name"),
        ("w\0.bin", "is not a file name"),
    ]:
        error = refusal(external(folder, location=location))
        assert error.what == f"{lies} {location!r}, which {problem}"
        assert error.where == str(folder / "m.onnx")


def test_external_data_that_is_missing(folder: Path) -> None:
    error = refusal(external(folder, location="no.bin"))
    assert error.what == "initializer 'w' lies in the external file 'no.bin', which does not exist"
    assert error.hint == f"put it into {folder}"


def test_external_data_that_is_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # a socket's path may be only 100 bytes long
        listener.bind("socket")
        for name in ("pipe", "sub", "socket"):
            error = refusal(external(folder, location=name))
            assert error.what == f"initializer 'w' lies in the external file {name!r}, which is not a regular file"


def test_external_data_that_is_too_short(folder: Path) -> None:
    for offset, length in (("1", "2000"), ("8000000000000000000", "2000")):
        end = int(offset) + 2000
        error = refusal(external(folder, location="w.bin", offset=offset, length=length))
        assert error.what == (
            f"the external file 'w.bin' is too short: initializer 'w' needs bytes {offset} to {end}, the file has 2000"
        )


def test_external_data_with_a_strange_place(folder: Path) -> None:
    for key, text in (("offset", "-1"), ("length", "-5"), ("offset", "1e3"), ("length", ""), ("offset", "9" * 30)):
        error = refusal(external(folder, location="w.bin", **{key: text}))
        assert error.what == f"initializer 'w': the {key} {text!r} of its external data is not a number of bytes"
    error = refusal(external(folder, location="w.bin", length="1996"))
    assert error.what == "initializer 'w' has 1996 bytes of data where FLOAT [500] needs 2000"


def test_external_data_beside_raw_data(folder: Path) -> None:
    for count in (4, 500):
        data = tensor("w", count)
        data.data_location = onnx.TensorProto.EXTERNAL
        data.external_data.add(key="location", value="w.bin")
        (folder / "m.onnx").write_bytes(model(None, data).SerializeToString())
        assert refusal(folder / "m.onnx").what == "initializer 'w' has both raw data and external data"


def test_external_data_without_a_path(folder: Path) -> None:
    error = refusal(external(folder, location="w.bin").read_bytes(), UsageError)
    assert error.what == "initializer 'w' lies in the external file 'w.bin', which did not come with the model"
    assert error.hint == "pass the path of the model instead"


def test_no_file_can_forge_a_marker(folder: Path) -> None:
    error = refusal(external(folder, location="graphopt-000000000000000000000000:0", offset="0", length="2000"))
    assert error.what.endswith("which does not exist")

"""Settings: where they come from, which wins, and what they may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.cli.config import Settings, resolve
from graphopt.errors import UsageError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults(tmp_path):
    assert resolve({}, folder=tmp_path) == Settings()


def test_flags_win_over_the_file_and_the_file_over_pyproject(tmp_path):
    write(tmp_path / "pyproject.toml", '[tool.graphopt]\ntarget = "tensorrt"\nseed = 1\nlevel = 1\n')
    config = write(tmp_path / "run.toml", "seed = 2\nlevel = 3\n")
    found = resolve({"level": "0", "bench": None}, config, tmp_path)
    assert (found.target, found.seed, found.level, found.bench) == ("tensorrt", 2, 0, False)


def test_pyproject_of_others_is_ignored(tmp_path):
    write(tmp_path / "pyproject.toml", '[project]\nname = "x"\n')
    assert resolve({}, folder=tmp_path) == Settings()


def test_pyproject_may_be_named(tmp_path):
    config = write(tmp_path / "pyproject.toml", "[tool.other]\nx = 1\n[tool.graphopt]\nseed = 7\n")
    assert resolve({}, config, tmp_path / "elsewhere").seed == 7


def test_every_setting_in_toml(tmp_path):
    config = write(
        tmp_path / "run.toml",
        """
        passes = ["fuse", "quant{method=minmax}"]
        level = 2
        target = "ort-cpu"
        output = "out.onnx"
        data = "samples.npz"
        eval = "metric.py:accuracy"
        max-drop = 0.5
        verify = false
        bench = true
        stop-after = 3
        seed = 4
        external-data = true
        sm = [80, 86]
        allow-links = true
        json = "-"
        stats = true
        [profile]
        image = "1x3:2x3:4x3"
        """,
    )
    assert resolve({}, config, tmp_path) == Settings(
        passes="fuse,quant{method=minmax}",
        level=2,
        target="ort-cpu",
        output=tmp_path / "out.onnx",
        data=tmp_path / "samples.npz",
        eval=f"{tmp_path}/metric.py:accuracy",
        max_drop=0.5,
        verify=False,
        bench=True,
        stop_after=3,
        seed=4,
        external_data=True,
        sm=(80, 86),
        profile=("image=1x3:2x3:4x3",),
        allow_links=True,
        json="-",
        stats=True,
    )


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ({"passes": ["fuse", "quant"]}, "passes", "fuse,quant"),
        ({"max-drop": "1%"}, "max_drop", 1.0),
        ({"max-drop": "0.25"}, "max_drop", 0.25),
        ({"sm": "80, 86"}, "sm", (80, 86)),
        ({"output": "out.onnx"}, "output", Path("out.onnx")),
    ],
)
def test_flags_as_text(tmp_path, flags, field, value):
    assert getattr(resolve(flags, folder=tmp_path), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = -1", "seed: cannot be -1\n  it takes a whole number from 0 on"),
        ("seed = 1.5", "seed: cannot be 1.5\n  it takes a whole number from 0 on"),
        ("seed = true", "seed: cannot be true\n  it takes a whole number from 0 on"),
        ("level = 4", "level: cannot be 4\n  it takes a whole number from 0 to 3"),
        ('verify = "no"', "verify: cannot be 'no'\n  it takes true, false, 'end', 'pass' or 'local'"),
        ("target = 3", "target: cannot be 3\n  it takes a text"),
        ("passes = [1]", "passes: cannot be [1]\n  it takes a text or a list of texts"),
        ("max-drop = -1", "max-drop: cannot be -1\n  it takes a percentage, such as 1 or 0.5%"),
        ("max-drop = nan", "max-drop: cannot be nan\n  it takes a percentage, such as 1 or 0.5%"),
        ('sm = "8.6"', "sm: cannot be '8.6'\n  it takes compute capabilities, such as 80,86"),
        ("sm = []", "sm: cannot be []\n  it takes compute capabilities, such as 80,86"),
        ("max_drop = 1", "there is no setting 'max_drop'\n  did you mean 'max-drop'?"),
    ],
)
def test_wrong_values(tmp_path, text, message):
    config = write(tmp_path / "run.toml", text)
    with pytest.raises(UsageError) as caught:
        resolve({}, config, tmp_path)
    assert str(caught.value) == f"{config}: {message}"


def test_wrong_value_of_a_flag_names_the_flag(tmp_path):
    with pytest.raises(UsageError) as caught:
        resolve({"stop-after": "x"}, folder=tmp_path)
    assert str(caught.value) == "--stop-after: cannot be 'x'\n  it takes a whole number from 0 on"


def test_unknown_key_in_pyproject(tmp_path):
    project = write(tmp_path / "pyproject.toml", "[tool.graphopt]\nsed = 1\n")
    with pytest.raises(UsageError) as caught:
        resolve({}, folder=tmp_path)
    assert caught.value.where == f"{project} [tool.graphopt]"
    assert caught.value.hint.startswith("did you mean 'seed'?")


def test_table_that_is_none(tmp_path):
    project = write(tmp_path / "pyproject.toml", "[tool]\ngraphopt = 1\n")
    with pytest.raises(UsageError, match="this is no table of settings"):
        resolve({}, folder=project.parent)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError) as caught:
        resolve({}, tmp_path / "nowhere.toml", tmp_path)
    assert str(caught.value) == f"{tmp_path / 'nowhere.toml'}: cannot read the configuration: No such file or directory"
    with pytest.raises(UsageError, match="not valid TOML"):
        resolve({}, write(tmp_path / "bad.toml", "seed = "), tmp_path)

"""What goes wrong on the command line: the exact text, the exit code, and that nothing was touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.cli import main as cli_main
from graphopt.errors import RuleError, nearest

KNOWN_PASSES = "cleanup, contrib, dequant, fold, fuse, half, inline, layout, onnxscript, onnxsim, opset, ort, quant, simplify"


def error(text: str) -> str:
    return f"graphopt: error: {text}\n"


def test_unknown_verb_names_the_nearest(cli):
    assert cli("rnu") == (
        2,
        "",
        error(
            "there is no verb 'rnu'\n  did you mean 'run'? Known: bisect, diff, explain, inspect, passes, rules, run, targets"
        ),
    )


def test_unknown_verb_of_rules(cli):
    assert cli("rules", "lst") == (
        2,
        "",
        error("there is no verb 'lst'\n  did you mean 'list'? Known: check, list, new, show, test"),
    )


def test_unknown_option_names_the_nearest(cli):
    assert cli("run", "net.onnx", "--pases", "fuse") == (
        2,
        "",
        error("there is no option --pases\n  did you mean --passes? See graphopt run --help"),
    )


def test_unknown_option_like_no_other(cli):
    assert cli("diff", "a", "b", "--zzzz") == (2, "", error("there is no option --zzzz\n  see graphopt diff --help"))


def test_missing_argument(cli):
    assert cli("run") == (2, "", error("missing argument 'MODEL'\n  see graphopt run --help"))


def test_option_without_its_value(cli):
    assert cli("run", "net.onnx", "-p") == (2, "", error("option '-p' requires an argument\n  see graphopt run --help"))


def test_two_models(cli, model):
    expected = error("one model at a time, but there is 'other.onnx'\n  see graphopt run --help")
    assert cli("run", model, "other.onnx") == (2, "", expected)


def test_missing_file(cli):
    assert cli("run", "nowhere.onnx") == (2, "", error("nowhere.onnx: there is no such file"))


def test_missing_file_names_the_nearest(cli, model):
    near = model.with_name("nte.onnx")
    expected = error(f"{near}: there is no such file\n  did you mean {str(model)!r}?")
    assert cli("run", near) == (2, "", expected)


@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_folder(cli, tmp_path, verb):
    code, out, err = cli(verb, tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"graphopt: error: {tmp_path}: is a directory")


def test_empty_file(cli, tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    expected = error(f"{path}: is empty\n  copy, download or export the model again")
    assert cli("run", path) == (3, "", expected)
    assert [p.name for p in tmp_path.iterdir()] == ["empty.onnx"]


def test_no_model(cli, tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("this is no model\n")
    code, out, err = cli("run", path)
    assert (code, out) == (3, "")
    assert err.startswith(f"graphopt: error: {path}: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("fues", f"there is no pass 'fues'\n  did you mean 'fuse'? Known: {KNOWN_PASSES}"),
        ("quant{metod=minmax}", "the pass 'quant' has no option 'metod'\n  did you mean 'method'?"),
        (
            "quant{method=minmx}",
            "quant.method cannot be 'minmx'\n  did you mean 'minmax'? "
            "Known: auto, average, entropy, minmax, mse, percentile",
        ),
        ("fuse{", "cannot read the passes 'fuse{' at '{'"),
    ],
)
def test_unknown_passes_and_options(cli, model, spec, text):
    code, out, err = cli("run", model, "-p", spec)
    assert (code, out) == (2, "")
    assert err.startswith(f"graphopt: error: {text}")


def test_unknown_target(cli, model):
    code, _, err = cli("run", model, "-t", "ort-cpi")
    assert code == 2
    assert err.startswith("graphopt: error: no target is called 'ort-cpi'\n  did you mean 'ort-cpu'?")


def test_unknown_level(cli, model):
    expected = error("--level: cannot be '5'\n  it takes a whole number from 0 to 3")
    assert cli("run", model, "-O5") == (2, "", expected)


def test_unknown_config_key(cli, model, tmp_path):
    config = tmp_path / "graphopt.toml"
    config.write_text('tarfet = "onnx"\n')
    code, _, err = cli("run", model, "--config", config)
    assert code == 2
    assert err.startswith(f"graphopt: error: {config}: there is no setting 'tarfet'\n  did you mean 'target'? Known: ")


def test_unknown_suffix(cli, model):
    code, _, err = cli("run", model, "-o", "out.onx")
    assert code == 2
    assert err.startswith("graphopt: error: out.onx: no emitter writes '.onx'\n  did you mean '.onnx'?")


def test_output_in_no_folder(cli, model):
    expected = error("nowhere/out.onnx: the output's folder does not exist\n  mkdir -p nowhere")
    assert cli("run", model, "-o", "nowhere/out.onnx") == (2, "", expected)


def test_output_is_a_folder(cli, model, tmp_path):
    folder = tmp_path / "out.onnx"
    folder.mkdir()
    expected = error(f"{folder}: the output is a folder\n  name a file in it")
    assert cli("run", model, "-o", folder) == (2, "", expected)


def test_output_in_a_folder_that_takes_no_files(cli, model):
    expected = error("/proc/out.onnx: cannot be written: No such file or directory\n  the previous file is untouched")
    assert cli("run", model, "-p", "cleanup", "--no-verify", "-o", "/proc/out.onnx") == (2, "", expected)


def test_missing_data(cli, model):
    expected = error("nowhere.npz: there is no such data\n  give an .npz or .npy file, a folder of them or of images, or FILE.py:FUNCTION")
    assert cli("run", model, "--data", "nowhere.npz") == (2, "", expected)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"imag": np.zeros((1, 2, 8, 8), np.float32)}, "imag"),
        ({"image": np.zeros((1, 3, 8, 8), np.float32)}, "shape"),
        ({"image": np.zeros((1, 2, 8, 8), np.int64)}, "int64"),
        ({"image": np.full((1, 2, 8, 8), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_data(cli, model, tmp_path, arrays, words):
    data = tmp_path / "data.npz"
    np.savez(data, **arrays)
    code, out, err = cli("run", model, "--data", data)
    assert (code, out) == (2, "")
    assert str(data) in err
    assert words in err
    assert not (tmp_path / "net.opt.onnx").exists()


def test_max_drop_without_a_metric(cli, model):
    expected = error("--max-drop needs a metric\n  give one with --eval FILE.py:FUNCTION")
    assert cli("run", model, "--max-drop", "1") == (2, "", expected)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("metric.py", "--eval: cannot read 'metric.py'\n  write FILE.py:FUNCTION"),
        ("nowhere.py:f", "nowhere.py: there is no such file\n  write --eval FILE.py:FUNCTION"),
        (
            "metric.py:accurcy",
            "metric.py: there is no function 'accurcy'\n  did you mean 'accuracy'? Known: accuracy, fails, nothing",
        ),
        ("metric.py:fails", "metric.py:4: fails() raised KeyError: 'digits'\n  run again with -v for the traceback"),
        ("metric.py:nothing", "metric.py: nothing() returned nan, which is no metric"),
        (
            "broken.py:f",
            "broken.py:1: the file raised ZeroDivisionError: division by zero\n  run again with -v for the traceback",
        ),
    ],
)
def test_metrics_that_do_not_work(cli, model, tmp_path, spec, text):
    (tmp_path / "metric.py").write_text(
        "def accuracy(run):\n    return 1.0\ndef fails(run):\n    return {}['digits']\n"
        "def nothing(run):\n    return float('nan')\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert cli("run", model, "--eval", spec, "--no-verify", "-p", "cleanup") == (2, "", error(text))


def test_profile_that_cannot_be_read(cli, model):
    code, _, err = cli("run", model, "--profile", "image=1x2xA")
    assert code == 2
    assert err.startswith("graphopt: error: cannot read the profile 'image=1x2xA'\n  write name=")


def test_internal_error_is_one_line_without_v(cli, monkeypatch):
    monkeypatch.setattr("graphopt.targets.target.list_targets", lambda: 1 // 0)
    code, out, err = cli("targets")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("graphopt: error: internal error, ZeroDivisionError at test_errors.py:")
    assert lines[1:] == ["  run again with -v for the traceback"]


def test_internal_error_shows_its_traceback_with_v(cli, model, monkeypatch):
    monkeypatch.setattr("graphopt.report.overview.overview", lambda *_: 1 // 0)
    code, _, err = cli("inspect", model, "-v")
    assert code == 1
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].endswith("integer division or modulo by zero")


def test_error_of_a_rule_is_no_usage_error(cli, model, monkeypatch):
    def fail(*_: object) -> None:
        raise RuleError("a rule looped", where="my_rules.py:3", hint="lower a cost")

    monkeypatch.setattr("graphopt.report.overview.overview", fail)
    assert cli("inspect", model) == (1, "", error("my_rules.py:3: a rule looped\n  lower a cost"))


def test_interrupt(cli, model, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphopt.report.overview.overview", interrupt)
    assert cli("inspect", model) == (130, "", "graphopt: interrupted\n")


def test_main_takes_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["graphopt", "--version"])
    assert cli_main.main() == 0
    assert capsys.readouterr().out.startswith("graphopt ")


def test_unwritable_json(cli, model):
    code, _, err = cli("inspect", model, "--json", Path("nowhere") / "x.json")
    assert (code, err) == (2, error("nowhere/x.json: cannot write the JSON: No such file or directory"))


def test_of_many_names_a_hint_lists_some():
    names = [f"v{i:03}" for i in range(500)]
    assert nearest("v499x", names).startswith("did you mean 'v499'? Known: v000, v001,")
    assert nearest("nothing like it", names).endswith("v018, v019 and 480 more")
    assert nearest("nothing like it", ["a", "b"]) == "known: a, b"

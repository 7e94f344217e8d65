"""Help answers at once: it loads nothing of what a verb needs to work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.cli.main import VERBS

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "numpy", "networkx", "rich", "google", "pydantic"}
NAMES = [*VERBS, "rules list"]

PROBE = """
import sys
from graphopt.cli.main import main
code = main(sys.argv[1:])
print("LOADED", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("args", ["--help", "--version", "", *(f"{verb} --help" for verb in NAMES)])
def test_help_loads_nothing_heavy(args):
    done = subprocess.run([sys.executable, "-c", PROBE, *args.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    loaded = set(done.stderr.split("LOADED")[1].split())
    assert not loaded & HEAVY


def test_help_lists_each_verb_in_whole_sentences(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for verb, summary in VERBS.items():
        assert f"\n  {verb:7}  {summary}\n" in out
    assert "130  interrupted" in out


def test_no_verb_shows_the_help(cli):
    assert cli() == cli("--help")


@pytest.mark.parametrize("verb", NAMES)
def test_each_verb_has_help(cli, verb):
    code, out, err = cli(*verb.split(), "-h")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: graphopt {verb} ")
    if verb in VERBS:
        assert out.splitlines()[2].strip() == VERBS[verb]


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "graphopt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("graphopt ")


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
@pytest.mark.parametrize("reader", ["| true", "| head -1 > /dev/null", ">&-"])
def test_reader_that_leaves_early_is_no_error(reader, tmp_path):
    script = f"{sys.executable} -m graphopt targets {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_ascii_terminal_gets_question_marks(tmp_path: Path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "targets"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()

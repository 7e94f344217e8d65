"""`graphopt bisect`, and `graphopt run --verify=…`, from the command line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnx.parser
import pytest

from graphopt.emit import emitter as emitters
from graphopt.emit.emitter import EmitOptions, Emitted, Emitter
from graphopt.errors import TargetError
from tests.cli.conftest import Cli

RULES = """
from graphopt import op, rule


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x):
    "-(-x) = x"
    return x


@rule(lambda x: op.Sin(op.Cos(x)))
def wrong(x):
    "Not true."
    return op.Sin(x)


@rule(lambda x: op.Abs(op.Abs(x)))
def raising(x):
    "Cannot."
    raise ZeroDivisionError("one by zero")
"""

METRIC = """
import numpy as np


def sign(run):
    return float((run({"x": -np.ones((2, 4), np.float32)})["y"] > 0).mean())


def broken(run):
    raise ValueError("no data")
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two right rewrites and, between them, a wrong one: at the node /head/sin."""
    text = """
        <ir_version: 9, opset_import: ["" : 18]>
        net (float[N, 4] x) => (float[N, 4] y) {
            a = Neg (x)
            b = Neg (a)
            ["/head/cos"] c = Cos (b)
            ["/head/sin"] d = Sin (c)
            e = Neg (d)
            f = Neg (e)
            y = Identity (f)
        }"""
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    (tmp_path / "mine.py").write_text(RULES)
    (tmp_path / "metric.py").write_text(METRIC)
    return path


MINE = ("-p", "mine", "--rules", "mine.py")


def counting(least: int) -> str:
    """A command that fails for a model of fewer nodes."""
    code = f"import onnx, sys; n = len(onnx.load(sys.argv[1]).graph.node); print('nodes', n); sys.exit(n < {least})"
    return shlex.join([sys.executable, "-c", code, "{model}"])


class TestFindings:
    def test_wrong_values(self, cli: Cli, net: Path) -> None:
        code, out, err = cli("bisect", net, *MINE)
        lines = out.splitlines()
        assert code == 0
        assert lines[0] == "rewrite 2, mine.wrong at '/head/sin', is the first bad one"
        assert lines[1].startswith("  bad      output 'y': relative error ")
        assert lines[2] == "  rule     wrong (mine.py:11)"
        assert lines[3] == "  matched  /head/sin, /head/cos"
        assert "  alone    the region alone shows it, on inputs of the model: output 'd': relative error" in out
        assert '   ["/head/cos"] c = Cos (x)\n   ["/head/sin"] d = Sin (c)\n' in out
        assert lines[-1].startswith("3 rewrites, 3 replays, 3 probes, ")
        progress = err.splitlines()
        assert progress[0].startswith("graphopt: rewrites 1 to 3: bad: output 'y': relative error")
        assert "graphopt: rewrite 1: good" in progress

    def test_files_are_beside_the_model_and_the_test_fails(self, cli: Cli, net: Path) -> None:
        out = cli("bisect", net, *MINE).out
        folder = net.with_name("net.bisect")
        names = ["after.onnxtxt", "before.onnxtxt", "test_wrong.onnxtxt"]
        assert sorted(p.name for p in folder.iterdir()) == names
        assert all(str(folder / name) in out.replace("\n", "").replace(" ", "") for name in names)
        code, out, err = cli("rules", "test", folder / "test_wrong.onnxtxt")
        assert code != 0 and "other values are computed" in out + err

    def test_the_test_passes_once_the_rule_is_right(self, cli: Cli, net: Path) -> None:
        cli("bisect", net, *MINE)
        fixed = RULES.replace("return op.Sin(x)\n", "return op.Sin(op.Cos(x))\n").replace(
            "@rule(lambda x: op.Sin(op.Cos(x)))", "@rule(lambda x: op.Sin(op.Cos(x)), once=True)"
        )
        net.with_name("mine.py").write_text(fixed)
        test = net.with_name("net.bisect") / "test_wrong.onnxtxt"
        cli("rules", "test", test, "--update")
        assert cli("rules", "test", test).code == 0

    def test_a_folder_may_be_named(self, cli: Cli, net: Path, tmp_path: Path) -> None:
        assert cli("bisect", net, *MINE, "-o", "found").code == 0
        assert (tmp_path / "found" / "before.onnxtxt").is_file() and not net.with_name("net.bisect").exists()

    def test_a_file_of_somebody_else_stays(self, cli: Cli, net: Path) -> None:
        folder = net.with_name("net.bisect")
        folder.mkdir()
        (folder / "after.onnxtxt").write_text("mine")
        code, _, err = cli("bisect", net, *MINE, "-q")
        assert code == 2
        assert err == (
            f"graphopt: error: {folder}/after.onnxtxt: would be written over\n  name another folder with -o\n"
        )
        assert [p.name for p in folder.iterdir()] == ["after.onnxtxt"]

    def test_nothing_to_find(self, cli: Cli, net: Path) -> None:
        code, out, _ = cli("bisect", net, *MINE, "--ignore", "mine.wrong")
        assert code == 0
        assert out.startswith("nothing to find: the result of the whole run is good\n2 rewrites, 1 replay, 1 probe, ")
        assert not net.with_name("net.bisect").exists()

    def test_selectors_and_protection_are_those_of_run(self, cli: Cli, net: Path) -> None:
        assert "nothing to find" in cli("bisect", net, *MINE, "--select", "mine.twice").out
        assert "nothing to find" in cli("bisect", net, *MINE, "--protect", "/head/*").out

    def test_a_model_that_no_longer_loads(self, cli: Cli, net: Path) -> None:
        text = "from graphopt import op, rule\n\n\n@rule(lambda x: op.Neg(op.Neg(x)))\ndef odd(x):\n    return x\n"
        net.with_name("odd.py").write_text(text + PASS)
        code, out, _ = cli("bisect", net, "-p", "spoil", "--rules", "odd.py")
        assert code == 0
        assert out.startswith("rewrite 1, spoil at '/head/cos', is the first bad one\n  bad      ")
        assert "Nonsense" in out and "none: the pass 'spoil' made it" in out

    def test_a_metric_that_fell(self, cli: Cli, net: Path) -> None:
        args = ("--eval", "metric.py:sign", "--max-drop", "1")
        code, out, _ = cli("bisect", net, *MINE, *args)
        assert code == 0
        assert out.startswith("rewrite 2, mine.wrong at '/head/sin', is the first bad one\n")
        assert "  bad      the metric falls from 1 to 0\n" in out

    def test_a_command_decides(self, cli: Cli, net: Path) -> None:
        code, out, err = cli("bisect", net, *MINE, "--oracle", counting(5))
        assert code == 0
        assert out.startswith("rewrite 2, mine.wrong at '/head/sin', is the first bad one\n")
        assert "  bad      the command ended with exit code 1\n" in out and "nodes" not in err

    def test_verbose_shows_what_the_command_prints(self, cli: Cli, net: Path) -> None:
        err = cli("bisect", net, *MINE, "--oracle", counting(3), "-v").err
        assert "graphopt: nodes 7\n" in err and "graphopt: nodes 2\n" in err

    def test_no_shell_is_involved(self, cli: Cli, net: Path, tmp_path: Path) -> None:
        cli("bisect", net, *MINE, "--oracle", "true {model} ; touch hacked && $(touch hacked)")
        assert not (tmp_path / "hacked").exists()

    def test_an_engine_that_no_longer_builds(
        self, cli: Cli, net: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Picky(Emitter):
            """Builds nothing without a Cos."""

            name = "picky"
            suffixes: ClassVar[tuple[str, ...]] = (".picky",)

            def emit(self, model: Any, path: Path, options: EmitOptions) -> Emitted:
                if all(node.op != "Cos" for node in model.main.nodes):
                    raise TargetError("the builder wants a Cos")
                path.write_bytes(b"engine")
                return Emitted((path,), 6)

        monkeypatch.setattr(emitters, "emitters", lambda: {"picky": Picky()})
        code, out, _ = cli("bisect", net, *MINE, "--emit", ".picky")
        assert code == 0
        assert out.startswith("rewrite 2, mine.wrong at '/head/sin', is the first bad one\n")
        assert "  bad      the builder wants a Cos\n" in out

    def test_a_rule_that_raises(self, cli: Cli, net: Path, tmp_path: Path) -> None:
        model = onnx.parser.parse_model("""
            <ir_version: 9, opset_import: ["" : 18]>
            net (float[4] x) => (float[4] y) { a = Neg(x) b = Neg(a) [p] c = Abs(b) [q] d = Abs(c) y = Exp(d) }""")
        onnx.save(model, tmp_path / "abs.onnx")
        code, out, err = cli("bisect", "abs.onnx", *MINE)
        assert code == 0
        assert out.startswith("rewrite 2, mine.raising at 'q', fails\n") and "the run fails behind rewrite 1" in err
        test = tmp_path / "abs.bisect" / "test_raising.onnxtxt"
        assert cli("rules", "test", test).code != 0


PASS = '''

from dataclasses import dataclass

from graphopt import Pass


@dataclass(frozen=True)
class Spoil(Pass):
    """Puts an operator there that nobody knows."""

    name = "spoil"

    def run(self, ctx):
        for node in ctx.model.main.nodes:
            if node.op == "Cos":
                with ctx.edit.rewrite("spoil", at=node) as rewrite:
                    (new,) = rewrite.node("Nonsense", node.inputs, domain="nowhere", assume=node.inputs[0])
                    rewrite.replace(node.outputs[0], new)
'''


class TestRefusals:
    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--oracle", "false {model}"], "net.onnx: the original itself fails: the command ended with exit code 1\n"),
            (["--oracle", "check.py"], "--oracle: 'check.py' does not say where the model goes\n"
             "  write {model} where the path of the model shall stand\n"),
            (["--oracle", "'{model}"], "--oracle: cannot read \"'{model}\": No closing quotation\n"),
            (["--oracle", "nobody {model}"], "--oracle: cannot run 'nobody': No such file or directory\n"),
            (["--eval", "metric.py:sign"], "--eval needs the fall that is too much\n  give it with --max-drop PERCENT\n"),
            (["--max-drop", "1"], "--max-drop needs a metric\n  give one with --eval FILE.py:FUNCTION\n"),
            (["--emit", ".engine"], "model.engine: a .engine file cannot be built for the target 'onnx'\n"),
            (["--emit", ".xyz"], "model.xyz: no emitter writes '.xyz'\n"),
            (["-o", "net.onnx"], "net.onnx: is a file, not a folder\n  name a folder with -o\n"),
            (["-o", "no/such/folder"], "no/such: the folder to write in does not exist\n"),
            (["--select", "mine.tvice"], "there is no rule 'mine.tvice' to select\n  did you mean 'mine.twice'?\n"),
            (["--data", "none.npz"], "none.npz: there is no such data\n"),
            (["--seed", "x"], "--seed: cannot be 'x'\n  it takes a whole number from 0 on\n"),
            (["--timeout", "0"], "--timeout: cannot be 0\n  it takes seconds, more than 0\n"),
            (["-x"], "there is no option -x\n"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_bad_calls(self, cli: Cli, net: Path, args: list[str], said: str) -> None:
        code, out, err = cli("bisect", "net.onnx", *MINE, *args, "-q")
        assert (code, out) == (2, "")
        assert err.startswith(f"graphopt: error: {said}")

    def test_a_metric_that_fails_on_the_original(self, cli: Cli, net: Path) -> None:
        code, _, err = cli("bisect", net, *MINE, "--eval", "metric.py:broken", "--max-drop", "1")
        assert code == 2 and "broken() raised ValueError: no data" in err

    def test_no_model(self, cli: Cli, net: Path) -> None:
        code, _, err = cli("bisect", "nett.onnx", *MINE)
        assert code == 2 and "there is no such file" in err and "did you mean 'net.onnx'?" in err


class TestVerify:
    def run(self, cli: Cli, *args: str, why: str = "find the rewrite to blame") -> str:
        code, out, err = cli("run", *args, "net.onnx", *MINE)
        assert code == 4 and out == "" and not Path("net.opt.onnx").exists()
        assert err.endswith(f"nothing was written; {why}: graphopt bisect net.onnx -p mine --rules mine.py\n")
        return err

    @pytest.mark.parametrize("args", [(), ("--verify",), ("--verify=end",), ("--verify", "end")])
    def test_the_end(self, cli: Cli, net: Path, args: tuple[str, ...]) -> None:
        assert "net.onnx: the result does not compute what the original computes: " in self.run(cli, *args)

    @pytest.mark.parametrize("args", [("--verify=pass",), ("--verify", "pass")])
    def test_each_pass(self, cli: Cli, net: Path, args: tuple[str, ...]) -> None:
        assert "net.onnx: the pass 'mine' (rewrites 1 to 3) changes what the model computes" in self.run(cli, *args)

    @pytest.mark.parametrize("args", [("--verify=local",), ("--verify", "local")])
    def test_each_rewrite(self, cli: Cli, net: Path, args: tuple[str, ...]) -> None:
        err = self.run(cli, *args, why="make a test of it")
        assert "net.onnx: rewrite 2, mine.wrong at '/head/sin', does not compute what it replaces: output 'd': " in err
        assert '       ["/head/cos"] c = Cos (x)\n' in err

    def test_a_right_run_says_what_was_compared(self, cli: Cli, net: Path) -> None:
        code, out, _ = cli("run", "net.onnx", *MINE, "--select", "mine.twice", "--verify=local")
        assert code == 0 and "2 rewrites compared one by one" in out

    def test_the_configuration_takes_the_same_words(self, cli: Cli, net: Path) -> None:
        Path("c.toml").write_text('verify = "pass"\n')
        assert "the pass 'mine'" in self.run(cli, "--config", "c.toml")
        Path("c.toml").write_text("verify = false\n")
        assert cli("run", "net.onnx", *MINE, "--config", "c.toml").code == 0

    def test_the_next_command_repeats_the_run(self, cli: Cli, net: Path) -> None:
        options = ["-O3", "-t", "ort-cpu", "--seed", "3", "--select", "mine.*"]
        err = cli("run", "net.onnx", *MINE, *options).err
        command = err.rpartition("graphopt bisect ")[2]
        words = shlex.split(command)
        assert words[:5] == ["net.onnx", "-p", "mine", "--rules", "mine.py"]
        assert {"-O3", "ort-cpu", "3", "mine.*"} <= set(words)
        assert cli("bisect", *words).out.startswith("rewrite 2, mine.wrong at '/head/sin'")

    def test_it_may_be_switched_off(self, cli: Cli, net: Path) -> None:
        assert cli("run", "net.onnx", *MINE, "--no-verify").code == 0

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--verify=often"], "--verify: cannot be 'often'\n  it takes true, false, 'end', 'pass' or 'local'\n"),
            (["--verify", "--no-verify"], "--verify and --no-verify exclude each other\n"),
        ],
    )
    def test_bad_words(self, cli: Cli, net: Path, args: list[str], said: str) -> None:
        code, _, err = cli("run", "net.onnx", *MINE, *args)
        assert (code, err) == (2, f"graphopt: error: {said}")

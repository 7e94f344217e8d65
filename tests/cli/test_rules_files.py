"""`--rules`, `--select`, `--ignore`, `--protect` and `--keep-going` on the command line."""

from __future__ import annotations

import json

import onnx
import pytest

HEAD = "from graphopt import Tensor, op, require, rule\n\n\n"
MINE = HEAD + '''@rule(lambda x: op.Identity(op.Relu(x)), accuracy="exact")
def relu_identity(x: Tensor) -> Tensor:
    """An Identity behind a Relu passes its result on."""
    return op.Relu(x)


@rule(lambda x: op.Relu(op.Relu(x)), accuracy="exact")
def relu_relu(x: Tensor) -> Tensor:
    """A Relu of a Relu is that Relu."""
    return op.Relu(x)
'''
# What a replacement returns, and what is said of that.
RAISING = {
    "1 / (x.rank - 4)": "raised ZeroDivisionError: division by zero",
    "op.Relu(x) if x.rank == 3 else 'x'": "returned 'x', which is no tensor expression",
    "(x, x) if x.rank == 4 else op.Relu(x)": "returned 2 values for a pattern with 1 output",
    "op.Relu(x) if x.rank == 3 else [x] * 40": "returned a list, which is no tensor expression",
}


def rules_of(report: dict) -> dict[str, int]:
    """How often each rule fired, those left out that did not."""
    found = {name: rule["fired"] for item in report["passes"] for name, rule in item["rules"].items()}
    return {name: count for name, count in found.items() if count}


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return "mine.py"


@pytest.fixture
def ran(cli, model, tmp_path):
    """Runs `graphopt run` on the model, unverified, and returns its report."""

    def run(*args: str) -> dict:
        code, _, err = cli("run", model, "--no-verify", "--json", "report.json", *args)
        assert (code, err) == (0, "")
        return json.loads((tmp_path / "report.json").read_text())

    return run


def raising(tmp_path, body: str) -> str:
    text = HEAD + (
        "@rule(lambda x: op.Relu(x), bounded=True)\n"
        "def wrong(x: Tensor) -> Tensor:\n"
        '    """This rule is wrong."""\n'
        f"    return {body}\n"
    )
    (tmp_path / "wrong.py").write_text(text)
    return "wrong.py"


def line(body: str) -> int:
    """Where the file says that it is wrong: the line that raised, or where a rule begins that returned nonsense."""
    return 7 if RAISING[body].startswith("raised") else 4


class TestRules:
    def test_they_run_behind_the_preset(self, ran, mine):
        report = ran("--rules", mine)
        assert [item["name"] for item in report["passes"]] == ["cleanup", "fold", "simplify", "fuse", "layout", "mine"]

    def test_they_run_where_they_are_named(self, ran, mine):
        report = ran("--rules", mine, "-p", "mine,fuse")
        assert next(iter(report["passes"]))["name"] == "mine"
        assert rules_of(report)["mine.relu_identity"] == 1

    def test_names_behind_each_other(self, ran, mine):
        assert [p["name"] for p in ran("--rules", mine, "-p", "cleanup", "mine")["passes"]] == ["cleanup", "mine"]

    def test_two_files_need_two_flags(self, cli, model, mine):
        message = "one model at a time, but there is 'mine.py'\n  each file of rules has a --rules of its own"
        assert cli("run", model, "--rules", mine, mine) == (2, "", f"graphopt: error: {message}\n")

    def test_the_plan_shows_them(self, cli, model, mine):
        code, out, err = cli("run", model, "--dry-run", "--rules", mine, "-p", "fuse,quant")
        assert (code, err) == (0, "")
        rows = [line.split()[1] for line in out.splitlines() if line[:1].isdigit()]
        assert rows == ["cleanup", "fold", "simplify", "fuse", "layout", "mine", "quant"]

    def test_they_are_listed(self, cli, mine):
        assert "mine.relu_relu" in cli("rules", "list", "--rules", mine).out
        assert "\nmine " in cli("passes", "--rules", mine).out

    def test_from_a_configuration(self, cli, model, mine, tmp_path):
        folder = tmp_path / "settings"
        folder.mkdir()
        (folder / "mine_too.py").write_text(MINE)
        (folder / "graphopt.toml").write_text('rules = ["mine_too.py"]\nprotect = ["op:Relu"]\nkeep-going = true\n')
        code, out, err = cli("run", model, "--dry-run", "--config", "settings/graphopt.toml")
        assert (code, err) == (0, "")
        assert "mine_too" in out
        (tmp_path / "pyproject.toml").write_text('[tool.graphopt]\nrules = "mine.py"\n')
        assert "\n6  mine " in cli("run", model, "--dry-run").out

    def test_what_the_accuracy_does_not_allow_is_said(self, ran, tmp_path):
        (tmp_path / "loose.py").write_text(MINE.replace('"exact"', '"fast"'))
        notes = ran("--rules", "loose.py")["notes"]
        assert "loose.relu_relu is not applied: it is fast, and this run allows close" in notes
        assert not any("loose" in note for note in ran("--rules", "loose.py", "-O3")["notes"])

    @pytest.mark.parametrize(
        ("name", "text", "code", "message"),
        [
            ("nowhere.py", None, 2, "nowhere.py: there is no such file of rules"),
            ("mien.py", None, 2, "mien.py: there is no such file of rules\n  did you mean 'mine.py'?"),
            (".", None, 2, ".: is a folder, not a file of rules\n  name a file in it, such as mine.py"),
            ("net.onnx", None, 2, "net.onnx: is no Python file\n  rules are written in a file that ends in .py"),
            ("a.py", "x = (\n", 1, "a.py:1:5: does not parse: '(' was never closed\n  x = ("),
            ("a.py", "x = {}['y']\n", 1, "a.py:1: raised KeyError when it was loaded: 'y'\n"
                                         "  a file of rules is run like any Python file; -v shows the traceback"),
            ("a.py", "x = 1\n", 1, "a.py: defines no rule\n  write one with @rule at the top level of the file"),
            ("fold.py", MINE, 2, "fold.py: its rules would make a pass called 'fold', which is the name of an "
                                 "installed pass\n  rename it: rules are called after their file or module"),
        ],
    )  # fmt: skip
    def test_bad_files(self, cli, model, mine, tmp_path, name, text, code, message):
        if text is not None:
            (tmp_path / name).write_text(text)
        assert cli("run", model, "--rules", name) == (code, "", f"graphopt: error: {message}\n")
        assert not (tmp_path / "net.opt.onnx").exists()

    def test_verbose_shows_where_a_file_raised(self, cli, model, tmp_path):
        (tmp_path / "a.py").write_text("x = {}['y']\n")
        _, _, err = cli("run", model, "--rules", "a.py", "-v")
        assert "Traceback" in err
        assert 'a.py", line 1, in <module>' in err


class TestPasses:
    @pytest.mark.parametrize("text", ["", ",", " , "])
    def test_no_passes_are_an_error(self, cli, model, text):
        expected = f"--passes: cannot be {[text]!r}\n  it takes passes or presets; O0 is the preset without any"
        assert cli("run", model, "-p", text) == (2, "", f"graphopt: error: {expected}\n")

    def test_nor_may_a_configuration_name_none(self, cli, model, tmp_path):
        (tmp_path / "pyproject.toml").write_text("[tool.graphopt]\npasses = []\n")
        code, _, err = cli("run", model)
        assert code == 2
        assert "passes: cannot be []\n  it takes passes or presets; O0 is the preset without any" in err

    def test_the_preset_without_any(self, ran):
        assert ran("-p", "O0")["passes"] == []


class TestSelection:
    def test_select(self, ran):
        assert rules_of(ran("--select", "cleanup.*")) == {"cleanup.identity": 2}
        assert rules_of(ran("--select", "fuse.conv_*", "--select", "fuse.gelu_erf")) == {"fuse.conv_bn": 1}

    def test_ignore(self, ran):
        assert rules_of(ran("--ignore", "cleanup.identity")) == {"fuse.conv_bn": 1}
        assert rules_of(ran("--ignore", "fuse.*", "--ignore", "cleanup.*")) == {}

    def test_what_passes_do_to_the_whole_graph_can_be_ignored(self, cli, tmp_path):
        text = """<ir_version: 8, opset_import: ["" : 17]>
            net (float[4] x) => (float[4] y) {
                a = Neg (x)
                b = Neg (x)
                two = Constant <value = float {2}> ()
                c = Sqrt (two)
                d = Add (a, c)
                y = Mul (b, d)
            }"""
        path = tmp_path / "twice.onnx"
        onnx.save(onnx.parser.parse_model(text), path)

        def fired(*names: str) -> dict[str, int]:
            flags = [word for name in names for word in ("--ignore", name)]
            code, _, err = cli("run", path, "--no-verify", "-p", "cleanup,fold", "--json", "r.json", *flags)
            assert (code, err) == (0, "")
            return rules_of(json.loads((tmp_path / "r.json").read_text()))

        everything = {"cleanup.constant": 1, "cleanup.common_subexpression": 1, "fold": 1}
        assert fired() == everything
        for name in everything:
            assert fired(name) == {other: n for other, n in everything.items() if other != name}
        assert fired("cleanup.*", "fold") == {}

    def test_a_selection_without_effect_is_noted(self, ran):
        notes = ran("--select", "fuse.gelu_erf", "-p", "cleanup")["notes"]
        assert "select 'fuse.gelu_erf' has no effect: no pass of this run has such a rule" in notes

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--select", "fuse.gelu_ref"), "there is no rule 'fuse.gelu_ref' to select\n  did you mean 'fuse.gelu_erf'?"),
            (("--select", "gelu_erf"), "there is no rule 'gelu_erf' to select\n  did you mean 'fuse.gelu_erf'?"),
            (("--select", "fuse"), "there is no rule 'fuse' to select\n  did you mean 'fuse.*'?"),
            (("--select", "fold"), "there is no rule 'fold' to select: it is what a pass does to the whole graph\n"
                                   "  choose passes with -p, or leave this out with --ignore"),
            (("--ignore", "zzzzzz"), "there is no rewrite 'zzzzzz' to ignore\n  see: graphopt rules list"),
            (("--ignore", "simplify.same_sizes"), "there is no rewrite 'simplify.same_sizes' to ignore\n"
                                                  "  did you mean 'simplify.same_size'?"),
            (("--ignore", "mine.x"), "there is no rewrite 'mine.x' to ignore\n  did you mean 'mine.*'?"),
            (("--ignore", ""), "--ignore: cannot be ['']\n  it takes a text"),
        ],
    )  # fmt: skip
    def test_names_that_nothing_has(self, cli, model, mine, flags, message):
        for dry in ((), ("--dry-run",)):
            code, out, err = cli("run", model, "--rules", mine, *flags, *dry)
            assert (code, out, err) == (2, "", f"graphopt: error: {message}\n")

    def test_a_pass_that_does_not_name_its_rewrites_may_be_ignored_by_any_name(self, cli, model, tmp_path):
        text = (
            "from graphopt import Pass\n\n\n"
            "class Free(Pass):\n"
            "    name = 'free'\n\n"
            "    def run(self, ctx):\n"
            "        node = next(ctx.model.main.find('Relu'), None)\n"
            "        if node is not None:\n"
            "            with ctx.rewrite('free.relu', at=node) as rewrite:\n"
            "                rewrite.replace(node.outputs[0], rewrite.node('Abs', [node.inputs[0]])[0])\n"
        )
        (tmp_path / "free.py").write_text(text)
        run = ("run", model, "--rules", "free.py", "-p", "free", "--no-verify", "--stats")
        assert "relu ×1" in cli(*run).out
        out = cli(*run, "--ignore", "free.relu").out
        assert "relu ×1" in out
        assert "it is ignored" in out
        assert "Relu" in [n.op_type for n in onnx.load(tmp_path / "net.opt.onnx").graph.node]


class TestProtect:
    def test_an_operator_and_a_weight(self, cli, model, tmp_path):
        code, out, err = cli("run", model, "--protect", "op:BatchNormalization", "--protect", "w", "--stats")
        assert (code, err) == (0, "")
        assert "'op:BatchNormalization' is protected" in out
        found = onnx.load(tmp_path / "net.opt.onnx").graph
        assert [n.op_type for n in found.node] == ["Conv", "BatchNormalization", "Relu"]
        (norm,) = [n for n in found.node if n.op_type == "BatchNormalization"]
        assert (list(norm.input), list(norm.output)) == (["b", "gamma", "beta", "mean", "var"], ["c"])

    @pytest.mark.parametrize(
        ("pattern", "hint"),
        [("op:Rleu", "did you mean 'op:Relu'?"), ("gama", "did you mean 'gamma'?"),
         ("???????????", "there is, for example, 'a', 'b', 'beta', 'c'")],
    )  # fmt: skip
    def test_nothing_of_that_name(self, cli, model, tmp_path, pattern, hint):
        message = f"graphopt: error: there is nothing to protect that is called {pattern!r}\n  {hint}\n"
        assert cli("run", model, "--protect", pattern) == (2, "", message)
        assert not (tmp_path / "net.opt.onnx").exists()


class TestRaising:
    @pytest.mark.parametrize("body", RAISING)
    def test_the_run_ends(self, cli, model, tmp_path, body):
        file = raising(tmp_path, body)
        assert cli("run", model, "--rules", file, "-p", "wrong") == (
            1,
            "",
            f"graphopt: error: wrong.py:{line(body)}: rule 'wrong.wrong' {RAISING[body]}\n"
            f"  at node \"Relu of 'd'\" of {model}; the model is as it was before this rewrite. "
            "--keep-going runs on without the rule\n",
        )
        assert not (tmp_path / "net.opt.onnx").exists()

    @pytest.mark.parametrize("body", RAISING)
    def test_it_goes_on_without_the_rule(self, cli, model, tmp_path, body):
        file = raising(tmp_path, body)
        code, out, err = cli("run", model, "--rules", file, "-p", "wrong,fuse", "--keep-going", "--stats")
        assert (code, err) == (0, "")
        words = " ".join(out.split())
        assert f"rule 'wrong.wrong' {RAISING[body]}, at node \"Relu of 'd'\"" in words
        assert f"(wrong.py:{line(body)}); it was switched off" in words
        assert "conv_bn ×1" in words
        assert onnx.load(tmp_path / "net.opt.onnx").graph.node[-1].op_type == "Relu"

    def test_the_line_is_that_of_the_file(self, cli, model, tmp_path):
        file = raising(tmp_path, "helper(x)")
        (tmp_path / file).write_text((tmp_path / file).read_text() + "\n\ndef helper(x):\n    return {}[x.rank]\n")
        _, _, err = cli("run", model, "--rules", file, "-p", "wrong")
        assert err.startswith("graphopt: error: wrong.py:11: rule 'wrong.wrong' raised KeyError: 4\n")

    def test_exiting_is_raising(self, cli, model, tmp_path):
        code, _, err = cli("run", model, "--rules", raising(tmp_path, "exit(x.rank)"), "-p", "wrong")
        assert code == 1
        assert "raised SystemExit: 4" in err

    def test_other_rules_of_the_file_go_on(self, ran, tmp_path):
        file = raising(tmp_path, "{}[x.rank]")
        (tmp_path / file).write_text((tmp_path / file).read_text() + MINE.removeprefix(HEAD))
        report = ran("--rules", file, "-p", "wrong", "--keep-going")
        assert rules_of(report) == {"wrong.relu_identity": 1}

    def test_a_loop_names_rules_and_node(self, cli, model, tmp_path):
        text = HEAD + "".join(
            f"@rule(lambda x: op.{old}(x), bounded=True)\n"
            f"def to_{new.lower()}(x: Tensor) -> Tensor:\n"
            f'    """Not true."""\n    return op.{new}(x)\n\n\n'
            for old, new in (("Relu", "Abs"), ("Abs", "Neg"), ("Neg", "Relu"))
        )
        (tmp_path / "loop.py").write_text(text)
        code, out, err = cli("run", model, "--rules", "loop.py", "-p", "loop")
        assert (code, out) == (1, "")
        assert err.startswith("graphopt: error: node '")
        assert "…': rules rewrite each other's results without end: loop.to_" in err
        cycle = err.splitlines()[0].rpartition(": ")[2].split(" → ")
        assert len(cycle) == 4
        assert cycle[0] == cycle[-1]
        assert set(cycle) == {"loop.to_abs", "loop.to_neg", "loop.to_relu"}
        assert not (tmp_path / "net.opt.onnx").exists()

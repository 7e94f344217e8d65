"""`graphopt explain`: what a rule makes of a model, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import pytest

from tests.cli.conftest import Cli

GELU = """
    <ir_version: 10, opset_import: ["" : OPSET]>
    net (float[4,8] x, float[4,8] z) => (float[4,8] out, float[4,8] other) {
        half = Constant <value = float {0.5}> ()
        wrong = Constant <value = float {0.25}> ()
        one = Constant <value = float {1.0}> ()
        root = Constant <value = float {1.4142135}> ()
        [div1] d1 = Div (x, root)
        [erf1] e1 = Erf (d1)
        [add1] a1 = Add (e1, one)
        [mul1] m1 = Mul (x, a1)
        [out1] out = Mul (m1, half)
        [div2] d2 = Div (z, root)
        [erf2] e2 = Erf (d2)
        [add2] a2 = Add (e2, one)
        [mul2] m2 = Mul (z, a2)
        [out2] other = Mul (m2, wrong)
    }
"""


@pytest.fixture
def gelu(tmp_path: Path) -> Path:
    """Gelu once as it should be, once with another factor."""
    return write(tmp_path / "gelu.onnx", GELU.replace("OPSET", "20"))


def write(path: Path, text: str) -> Path:
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def lines(text: str) -> list[str]:
    """The lines of a table, its rules and the blanks that align it left out."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def test_one_rule(cli: Cli, gelu: Path) -> None:
    found = cli("explain", gelu.name, "--rule", "gelu_erf")
    assert (found.code, found.err) == (0, "")
    assert lines(found.out) == [
        "fuse.gelu_erf in gelu.onnx",
        "looked at the model after cleanup, fold, simplify, which fuse requires (14 → 10 nodes); then this",
        "rule alone",
        "nodes why, and where",
        "fired 1 at out1",
        "inside a match 2 at div1 and mul1",
        "no match 1 5 nodes fit, then operand 1 of out2 is 0.25, expected 0.5",
        "no match 1 2 nodes fit, then operand 1 of add2 is 1.0, expected 0.5",
        "no match 1 operand 0 of div2 is the input 'z' of the model, expected Mul or Add",
    ]


def test_the_nearest_misses_come_first_and_the_others_are_counted(cli: Cli, gelu: Path) -> None:
    found = lines(cli("explain", gelu, "--rule", "fuse.gelu_erf", "--limit", "1").out)
    assert found[-2:] == [
        "no match 1 5 nodes fit, then operand 1 of out2 is 0.25, expected 0.5",
        "and 2 more without a match: --limit 0 shows all",
    ]
    assert "more without" not in cli("explain", gelu, "--rule", "fuse.gelu_erf", "--limit", "0").out


def test_near_a_node(cli: Cli, gelu: Path) -> None:
    found = lines(cli("explain", gelu, "--rule", "gelu_erf", "--near", "erf2").out)
    assert found[-5:] == [
        "node why",
        "no match mul2 operand 1 of add2 is 1.0, expected 0.5",
        "what fits: mul2, add2",
        "no match out2 operand 1 of out2 is 0.25, expected 0.5",
        "what fits: out2, mul2, add2, erf2, div2",
    ]


def test_near_nothing(cli: Cli, gelu: Path) -> None:
    found = cli("explain", gelu, "--rule", "gelu_erf", "--near", "mull2")
    assert found.code == 2 and not found.out
    assert found.err == "graphopt: error: there is no node or value 'mull2'\n  did you mean 'mul2'?\n"


def test_near_a_node_that_the_passes_removed(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", """<ir_version: 10, opset_import: ["" : 20]>
        g (float[4] x) => (float[4] y) { [noop] u = Identity(x) [r] v = Relu(u) [n] y = Neg(v) }""")
    found = cli("explain", "m.onnx", "--rule", "relu_clip", "--near", "noop")
    assert found.code == 2
    assert "'noop' is not there any more after cleanup, fold" in found.err and "--as-is" in found.err
    found = cli("explain", "m.onnx", "--rule", "simplify.idempotent", "--near", "noop", "--as-is")
    assert found.code == 0 and "operand 0 of r comes from Identity (noop), expected Abs, Ceil" in found.out


def test_there_is_no_root(cli: Cli, gelu: Path) -> None:
    found = cli("explain", gelu, "--rule", "log_softmax").out
    assert "its accuracy is fast: only -O3 applies it" in found
    assert lines(found)[-1] == "there is no Log in the model; if another rule of fuse makes one, try -p fuse"
    near = cli("explain", gelu, "--rule", "log_softmax", "--near", "mul1").out
    assert lines(near)[-1] == "no match can be at or behind 'mul1': there is no Log near enough"


def test_what_is_in_the_way_everywhere(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "old.onnx", GELU.replace("OPSET", "13"))
    found = lines(cli("explain", "old.onnx", "--rule", "gelu_erf").out)
    assert "declined 1 Gelu does not exist at opset 13 of the model; it came with 20" in found


def test_passes_before(cli: Cli, gelu: Path) -> None:
    found = lines(cli("explain", gelu, "--rule", "gelu_erf", "-p", "fuse").out)
    assert found[1] == "looked at the model after cleanup, fold, simplify, fuse (14 → 6 nodes); then this rule alone"
    assert "note it fired once in the passes before" in found
    for flags in (["-p", ""], ["--as-is"]):
        assert lines(cli("explain", gelu, "--rule", "gelu_erf", *flags).out)[1] == "looked at the model as it is"


def test_several_rules_are_an_overview(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "old.onnx", GELU.replace("OPSET", "13"))
    found = lines(cli("explain", "old.onnx", "--rule", "fuse.gelu_*").out)
    assert found[0] == "2 rules in old.onnx"
    assert found[3:] == [
        "rule roots fired declined what is in the way",
        "fuse.gelu_erf 6 1 Gelu does not exist at opset 13 of the model; it came with",
        "20",
        "fuse.gelu_tanh 6 3 nodes fit, then operand 0 of Add comes from Erf, expected",
        "Tanh",
    ]


def test_rules_of_a_file(cli: Cli, gelu: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from graphopt import Tensor, op, rule\n\n\n"
        "@rule(lambda x: op.Erf(op.Neg(x)))\n"
        "def odd(x: Tensor) -> Tensor:\n"
        '    """The error function of what is negated."""\n'
        "    return x\n"
    )
    found = lines(cli("explain", gelu.name, "--rule", "mine.py").out)
    assert found == [
        "mine.odd in gelu.onnx",
        "looked at the model as it is: the pass of the rule requires no others",
        "nodes why, and where",
        "no match 2 operand 0 of erf1 comes from Div (div1), expected Neg",
        "and the same at erf2",
    ]
    named = lines(cli("explain", gelu.name, "--rule", "odd", "--rules", "mine.py", "-p", "cleanup").out)
    assert named[0] == "mine.odd in gelu.onnx"
    assert named[1].startswith("looked at the model after cleanup (")


def test_json(cli: Cli, gelu: Path) -> None:
    found = cli("explain", gelu.name, "--rule", "gelu_erf", "--json", "-")
    document = json.loads(found.out)
    assert document["schema"] == "graphopt.explain/1"
    assert (document["model"], document["target"], document["near"]) == ("gelu.onnx", "onnx", None)
    assert document["before"] == {"passes": ["cleanup", "fold", "simplify"], "rewrites": 4, "nodes": [14, 10]}
    (rule,) = document["rules"]
    assert (rule["rule"], rule["accuracy"], rule["operators"]) == ("fuse.gelu_erf", "close", ["Div", "Mul"])
    roots = {root["root"]: root for root in rule["roots"]}
    assert roots["out1"] == {"root": "out1", "operator": "Mul", "status": "fired", "reason": "", "matched": []}
    assert roots["out2"] == {
        "root": "out2", "operator": "Mul", "status": "missed",
        "reason": "operand 1 of out2 is 0.25, expected 0.5", "matched": ["out2", "mul2", "add2", "erf2", "div2"],
    }  # fmt: skip


def test_the_model_stays_as_it_is(cli: Cli, gelu: Path) -> None:
    before = gelu.read_bytes()
    cli("explain", gelu, "--rule", "fuse")
    assert gelu.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none.onnx", "--rule", "gelu_erf"], "none.onnx: no such file"),
        (["gelu.onnx", "--rule", "gelu_erv"], "there is no rule 'gelu_erv'\n  did you mean 'gelu_erf'?"),
        (["gelu.onnx", "--rule", "gelu_erf", "-t", "ort-cpo"], "no target is called 'ort-cpo'"),
        (["gelu.onnx", "--rule", "gelu_erf", "-p", "fuze"], "there is no pass 'fuze'\n  did you mean 'fuse'?"),
        (["gelu.onnx", "--rule", "gelu_erf", "--json", "gelu.onnx"], "the JSON would be written over the model"),
        (["gelu.onnx"], "missing option '--rule'"),
    ],
)
def test_bad_calls(cli: Cli, gelu: Path, args: list[str], said: str) -> None:
    assert gelu.is_file()
    found = cli("explain", *args)
    assert found.code == 2 and not found.out
    assert said in found.err


def test_a_rule_that_raises_is_named(cli: Cli, gelu: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from graphopt import Tensor, op, rule\n\n\n"
        "@rule(lambda x: op.Erf(x))\n"
        "def broken(x: Tensor) -> Tensor:\n"
        '    """Divides by zero."""\n'
        "    return x if 1 / (x.rank - 2) else x\n"
    )
    found = cli("explain", gelu, "--rule", "bad.py")
    assert found.code == 1
    assert "bad.broken" in found.err and "ZeroDivisionError" in found.err

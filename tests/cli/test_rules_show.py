"""`graphopt rules show`: a rule in words, as an equation, in ONNX text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.check.example import example
from graphopt.engine.catalog import all_rules, find_rules
from graphopt.ir.text import from_text
from tests.cli.conftest import Cli


def test_a_rule(cli: Cli) -> None:
    found = cli("rules", "show", "gelu_erf")
    assert (found.code, found.err) == (0, "")
    out = found.out
    assert out.startswith("fuse.gelu_erf: Half of x times one plus the error function of x over √2 is Gelu.\n")
    for line in (
        "equation    product(x, y, 0.5) | x * y / 2 | x * (y / 2) | x / 2 * y | x * (0.5 + erf * 0.5) | (x +",
        "              →  …",
        "              where y = 1 + erf",
        "                    erf = Erf(x * approx(0.707107, rtol=2.5e-07) | x / (approx(1.41421,",
        "parameters  x is a tensor",
        "            product(…): all multiplied, in any order and association",
        "accuracy    close: rounding may change, within the dtype's tolerance; NaN and infinities stay",
        "opset       from 9 on; where it makes Gelu, from 20 on",
        "targets     any",
        "pass        fuse",
    ):
        assert f"\n{line}\n" in out
    assert "activation.py:" in out
    before, after = out.split("# before\n")[1].split("# after\n")
    assert [n.op_type for n in from_text(after).graph.node] == ["Gelu"]
    assert {"Erf", "Mul"} <= {n.op_type for n in from_text(before).graph.node}


def test_a_rule_whose_result_depends_on_what_is_matched_is_shown_as_code(cli: Cli) -> None:
    out = cli("rules", "show", "fuse.swish", "--no-example").out
    assert "x * sigmoid | x * sigmoid  →  …" in out
    assert "def swish(x: Tensor, alpha: Tensor | None, sigmoid: Node) -> Tensor:\n" in out
    assert "alpha is a constant, or left out" in out
    assert "opset       any; where it makes Swish, from 24 on" in out
    assert "# before" not in out


def test_a_pack_is_shown_without_examples(cli: Cli) -> None:
    out = cli("rules", "show", "fuse.gelu_*", "gelu_erf").out
    assert out.count("\nequation ") == 2, "a rule that is named twice is shown once"
    assert "# before" not in out
    assert "# before" in cli("rules", "show", "fuse.mish", "fuse.gelu_erf", "--example").out


RULES = '''
from graphopt import Tensor, op, rule


@rule(lambda x: op.Neg(op.Neg(x)), accuracy="exact")
def twice(x: Tensor) -> Tensor:
    """Twice negated is as before."""
    return x
'''


def test_rules_of_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RULES)
    (tmp_path / "mine.onnxtxt").write_text(
        '# rule: twice\n# case: at the edge\n# before\n<ir_version: 10, opset_import: ["" : 18]>\n'
        "g (float[4] x) => (float[4] y) { a = Neg(x) y = Neg(a) }\n"
    )
    for args in (["mine.py"], ["mine.py::twice"], ["twice", "--rules", "mine.py"]):
        out = cli("rules", "show", *args).out
        assert "mine.twice: Twice negated is as before.\n" in out
        assert "equation    -(-x)  →  x\n" in out
        assert "defined     mine.py:5\n" in out


def test_json(cli: Cli) -> None:
    document = json.loads(cli("rules", "show", "simplify.where_constant", "--json", "-").out)
    assert document["schema"] == "graphopt.rules/1"
    (rule,) = document["rules"]
    assert rule["name"] == "simplify.where_constant"
    assert rule["equations"] == [
        {"left": ["Where(True, x, y)"], "right": ["x"], "where": {}},
        {"left": ["Where(False, y, x)"], "right": ["x"], "where": {}},
    ]
    assert rule["parameters"] == {"x": "a tensor", "y": "a tensor"}
    assert (rule["accuracy"], rule["single_use"], rule["bounded"], rule["once"]) == ("exact", False, False, False)
    assert rule["opsets"]["left"][0] == 9 and rule["opsets"]["replacement"] == {}
    assert "onnx" in rule["targets"] and rule["domains"] == []
    assert from_text(rule["example"]["before"]).graph.node[-1].op_type == "Where"
    assert rule["file"].endswith("algebra.py") and rule["line"] > 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["gelu_erv"], "there is no rule 'gelu_erv'\n  did you mean 'gelu_erf'?"),
        (["fold"], "the pass 'fold' applies no rules"),
        (["none.py"], "there is no such file of rules"),
        ([], "missing argument"),
    ],
)
def test_bad_calls(cli: Cli, args: list[str], said: str) -> None:
    found = cli("rules", "show", *args)
    assert found.code == 2 and not found.out
    assert said in found.err


def test_every_built_in_rule_can_be_shown(cli: Cli) -> None:
    packs = sorted({named.pack for named in all_rules()})
    out = cli("rules", "show", *packs).out
    for named in all_rules():
        assert f"{named.name}: " in out


@pytest.mark.parametrize("name", ["fuse.layer_norm", "simplify.clip_clip", "fuse.conv_bn", "cleanup.identity"])
def test_examples_are_small_and_always_the_same(name: str) -> None:
    (named,) = find_rules(name)
    first = example(named.rule)
    assert first is not None and first == example(named.rule)
    assert len(first[0].splitlines()) < 30

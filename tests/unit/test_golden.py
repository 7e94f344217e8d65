"""Golden files: how they are read and found, what passes, what fails and how that is shown."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from graphopt.check.golden import Result, run_cases
from graphopt.check.golden_file import is_golden, parse_golden
from graphopt.check.golden_find import find_cases
from graphopt.check.subject import rules_file_of
from graphopt.errors import UsageError
from tests.unit.golden import AFTER, HEADER, ONE, after, case, rules_in, run


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return rules_in(tmp_path)


# -- what passes and what fails -------------------------------------------------------------------


def test_a_right_rule_passes() -> None:
    assert run(ONE + AFTER) is None


def test_names_order_and_layout_do_not_count() -> None:
    other = f"# after\n{HEADER} other (float[N,4] x) => (float[N,4] y) <float unused = {{3}}> {{ [n] y = Relu(x) }}"
    assert run(ONE + other) is None


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("y = Relu (x)", "y = Tanh (x)", "-   y = Tanh (x)\n+   y = Relu (x)"),
        ("y = Relu (x)", "a = Relu (x) y = Relu (a)", "-   t1 = Relu (x)"),
        ("y = Relu (x)", "y = LeakyRelu <alpha = 0.5> (x)", "-   y = LeakyRelu <alpha = 0.5> (x)"),
        ("(float[N,4] y)", "(float[N,?] y)", "-graph (float[N,4] x) => (float[N,?] y)"),
        ("y = Relu (x)", "y = Relu (x) dead = Neg (x)", "-   t1 = Neg (x)"),
        (": 18]", ": 19]", '-<ir_version: 10, opset_import: ["" : 19]>'),
    ],
)
def test_everything_else_does(old: str, new: str, shown: str) -> None:
    failure = run(ONE + AFTER.replace(old, new))
    assert failure is not None
    assert failure.startswith("the result is not the expected one\n--- expected\n+++ found\n")
    assert shown in failure


def test_constants_are_compared_by_six_digits() -> None:
    mul = "h = Mul (x, a) y = Mul (h, b)"
    before = case("simplify.mul_mul", mul).replace("\n{", "\n<float a = {0.3}, float b = {0.7}>\n{", 1)
    expected = after("y = Mul (x, c)").replace("\n{", "\n<float c = {NUMBER}>\n{")
    assert run(before + expected.replace("NUMBER", "0.2100001")) is None
    assert "float c1 = {0.2101}" in str(run(before + expected.replace("NUMBER", "0.2101")))


def test_a_rule_that_does_not_fire_fails_with_the_reason() -> None:
    text = ONE.replace("{1}", "{2}") + AFTER
    assert run(text) == "nothing was rewritten: no pattern matches"
    declined = case("simplify.idempotent", "a = Ceil (x) y = Floor (a)") + after("y = Ceil (x)")
    assert run(declined) == "nothing was rewritten: declined: the operators differ"


def test_a_wrong_rule_fails_although_its_result_is_the_expected_one(rules: Path) -> None:
    failure = run(case("my.wrong", "a = Relu (x) y = Neg (a)") + after("y = Relu (x)"), rules)
    assert failure is not None
    assert failure.startswith("other values are computed: output 'y' under ONNX Runtime: ")
    assert "# feed: float[2,4] x = {" in failure and "   y = Relu (x)" in failure


def test_the_class_of_accuracy_is_the_rules_own_or_that_of_the_case() -> None:
    zero = (ONE.replace("mul_one", "add_zero").replace("Mul", "Add").replace("{1}", "{0}") + AFTER).replace("Relu", "Neg")
    assert run(zero) is None
    failure = run(zero.replace("# case", "# accuracy: exact\n# case"))
    assert "1 of 8 elements are not equal bit for bit; y[0, 1] is 0.0, expected -0.0" in str(failure)


def test_the_same_must_happen_inside_of_a_graph(rules: Path) -> None:
    failure = run(case("my.at_the_edge", "a = Abs (x) y = Neg (a)") + after("y = Relu (x)"), rules)
    assert str(failure).startswith("something else happens inside of a graph, between Identity operators\n--- at the edge")
    text = case("my.at_the_edge", "a = Abs (x) y = Neg (a)", "# unchanged: computed")
    assert run(text, rules) is not None, "at the edge it fires"
    edge = case("cleanup.identity", "y = Identity (x)", "# unchanged: a graph output keeps its name")
    assert "nothing was to change inside of a graph" in str(run(edge))
    assert run(edge.replace("# before", "# place: edge\n# before")) is None


def test_errors_of_the_rule_are_failures(rules: Path) -> None:
    raised = run(case("my.raises", "a = Tanh (x) y = Exp (a)") + after("y = Exp (x)"), rules)
    assert "raised AttributeError" in str(raised) and "my.py" in str(raised)
    retyped = run(case("my.retyped", "a = Exp (x) y = Sqrt (a)", "# unchanged: *shape of the replacement*"), rules)
    assert retyped is None
    endless = run(case("my.endless", "y = Relu (x)") + after("y = Relu (x)"), rules)
    assert "rewriting did not end" in str(endless) or "rewrite each other" in str(endless)


def test_a_target_has_its_domains(rules: Path) -> None:
    text = case("my.quick", "s = Sigmoid (x) y = Mul (x, s)")
    assert run(text + "# unchanged: the target does not take operators of 'com.microsoft'", rules) is None
    on_cpu = text.replace("# case", "# target: ort-cpu\n# case")
    imported = after("y = com.microsoft.QuickGelu <alpha = 1.0> (x)").replace('["" : 18', '["" : 18, "com.microsoft" : 1')
    assert run(on_cpu + imported, rules) is None
    mine = rules.parent / "mine.toml"
    mine.write_text('name = "m"\ntitle = "m"\nemit = [".onnx"]\ndomains = {"" = 0, "com.microsoft" = 1}\n')
    assert run(on_cpu.replace("ort-cpu", str(mine)) + imported, rules) is None
    with pytest.raises(UsageError, match=r"no target is called '.*theirs\.toml'"):
        run(on_cpu.replace("ort-cpu", "theirs.toml") + imported, rules)


def test_passes_can_be_tested_too() -> None:
    text = ONE.replace("# rule: simplify.mul_one", "# pass: simplify") + AFTER
    assert run(text) is None
    assert run(case("x", "y = Relu (x)", "# unchanged: no match").replace("# rule: x", "# pass: fuse")) is None


def test_a_case_may_bring_its_inputs() -> None:
    signature = "(float[2,3] x, int64[3] s) => (float[A,B,C] y)"
    text = case("simplify.double_negation", "r = Reshape (x, s) a = Neg (r) b = Neg (a) y = Abs (b)", signature=signature)
    text += after("r = Reshape (x, s) y = Abs (r)", signature)
    failure = run(text)
    assert str(failure).startswith("nothing here runs the model: ONNX Runtime: ")
    assert str(failure).endswith("give other inputs, in lines such as `# feed: float[2] x = {1, 2}`")
    assert run(text.replace("# before", "# feed: int64[3] s = {3, 1, -1}\n# before")) is None


# -- nothing changes ------------------------------------------------------------------------------

DECLINED = case("simplify.idempotent", "a = Ceil (x) y = Floor (a)")


@pytest.mark.parametrize("reason", ["the operators differ", "operators", "the * differ", "*differ"])
def test_the_reason_is_asserted(reason: str) -> None:
    assert run(f"{DECLINED}# unchanged: {reason}") is None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (f"{DECLINED}# unchanged: too large", "expected that it declines: too large\n  found: declined: the operators differ"),
        (f"{DECLINED}# unchanged: operators *", "expected that it declines: operators *\n  found: declined: the operators differ"),
        (f"{DECLINED}# unchanged: no match", "expected no match, but it matches; declined: the operators differ"),
        (f"{case('simplify.idempotent', 'y = Ceil (x)')}# unchanged: differ",
         "expected that it declines: differ\n  found: no pattern matches"),
    ],
)  # fmt: skip
def test_another_reason_fails(text: str, failure: str) -> None:
    assert run(text) == failure


def test_a_rule_that_fires_where_nothing_is_to_change_fails() -> None:
    failure = run(ONE + "# unchanged: no match")
    assert str(failure).startswith("nothing was to change (no match), but simplify.mul_one fired\n<ir_version")


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# rule: simplify.mul_one\n", "t.onnxtxt: has no case\n  a case begins"),
        ("# case: a\n", "t.onnxtxt:1: it is not said which rule is tested\n  write"),
        ("# rule:\n", "t.onnxtxt:1: `# rule:` says nothing\n  write the name"),
        ("# rule: a\n# case:\n", "t.onnxtxt:2: `# case:` says nothing"),
        ("# rule: a\n# case: a::b\n", "t.onnxtxt:2: a title has no `::` in it"),
        ("# rule: a\n# case: a\n", "t.onnxtxt:2: the case 'a' has no model"),
        ("# rule: a\n# case: a\n# before\n\n# after\n", "t.onnxtxt:3: the model is missing"),
        ("# rule: a\n# before\n", "t.onnxtxt:2: `# before` belongs to a case"),
        ("# rule: a\n# case: a\n# after\n", "t.onnxtxt:3: `# after` stands behind the model"),
        ("# rule: a\nmodel\n", "t.onnxtxt:2: only a comment may stand here"),
        ("# rule: a\n# case: a\n# before: x\n", "t.onnxtxt:3: `# before` stands alone in its line"),
        (ONE + "# unchanged:\n", "`# unchanged:` says nothing\n  write the reason"),
        (ONE + "# unchanged: a\nmore\n", "t.onnxtxt:12: only a comment may stand here"),
        (ONE + AFTER + "# unchanged: a\n", "t.onnxtxt:17: the case 'times one' has two expectations"),
        (ONE + "# feed: float x = {1}\n", "t.onnxtxt:11: `# feed:` stands ahead of `# before`"),
        (ONE.replace("# before", "# place: inside\n# before"), "t.onnxtxt:3: there is no place 'inside'\n  known: edge"),
        (ONE + "# target: onnx\n", "t.onnxtxt:11: `# target:` stands behind `# rule:`"),
        (ONE + AFTER + ONE, "two cases are called 'times one'\n  the other one is in line 2"),
        (ONE.replace("# before", "# before\nx\n# before"), "the case 'times one' has two models"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_golden(text, Path("t.onnxtxt"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("simplify.mul_one", "simplify.mul_on", "t.onnxtxt:2: there is no rule 'simplify.mul_on'\n  did you mean"),
        ("# case", "# target: moon\n# case", "t.onnxtxt:3: no target is called 'moon'"),
        ("# case", "# accuracy: good\n# case", "t.onnxtxt:3: there is no accuracy class 'good'"),
        ("# before", "# feed: float[2] z = {1, 2}\n# before", "t.onnxtxt:3: the model has no input 'z'\n  known: x"),
        ("# before", "# feed: float[2] x = {1}\n# before", "t.onnxtxt:3: 'x' of shape [2] takes 2 numbers, not 1"),
        ("h = Mul", "h = Mull", "t.onnxtxt:4: this is no valid model: "),
        ("Mul (x, one)", "Mul (x, one", "t.onnxtxt:9: expected"),
        (HEADER, "", "the model does not say its IR version and its opset\n  begin it with <ir_version"),
        ("simplify.mul_one", "nothing.py", "t.onnxtxt:2: "),
    ],
)
def test_cases_that_cannot_be_run(old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        run(ONE.replace(old, new) + AFTER)
    assert message in str(error.value)


def test_a_wrong_expectation_is_a_failure_with_its_line() -> None:
    assert "t.onnxtxt:12: this is no valid model" in str(run(ONE + AFTER.replace("Relu (x)", "Relu (z)")))
    assert run(ONE) == "it is not said what is expected: --update writes down what happens"


def test_only_files_that_say_what_they_test_are_golden(tmp_path: Path) -> None:
    path = tmp_path / "a.onnxtxt"
    for text, golden in [(ONE, True), ("# a model\n" + HEADER, False), ("# comment\n\n# pass: fuse\n", True), ("\xff", False)]:
        path.write_bytes(text.encode("latin-1"))
        assert is_golden(path) is golden
    assert not is_golden(tmp_path / "none.onnxtxt")


# -- where they are -------------------------------------------------------------------------------


def test_a_golden_file_belongs_to_the_rules_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "my.py").touch()
    for place in ("my.onnxtxt", "golden/my.onnxtxt", "tests/my.onnxtxt", "tests/golden/my.onnxtxt"):
        assert rules_file_of(tmp_path / place) == tmp_path / "my.py"
    for place in ("other.onnxtxt", "else/my.onnxtxt"):
        assert rules_file_of(tmp_path / place) is None
    assert rules_file_of(tmp_path / "tests" / "a.onnxtxt", "../my.py") == tmp_path / "tests" / "../my.py"


def results_of(what: str) -> list[Result]:
    found = find_cases(what)
    return run_cases(found.cases, found.files)


def test_cases_are_found_by_what_they_test(tmp_path: Path, rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = case("my.wrong", "y = Relu (x)", "# unchanged: no match\n")
    quick = case("my.quick", "y = Relu (x)", "# unchanged: no match\n")
    (tmp_path / "my.onnxtxt").write_text(wrong)
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    (tmp_path / "tests" / "golden" / "other.onnxtxt").write_text(quick.replace("# case", "# rules: ../../my.py\n# case"))
    (tmp_path / "tests" / "model.onnxtxt").write_text(HEADER)
    assert [r.case.id for r in results_of("my.py")] == ["my.onnxtxt::title", "tests/golden/other.onnxtxt::title"]
    assert [r.case.id for r in results_of("my.py::quick")] == ["tests/golden/other.onnxtxt::title"]
    assert [r.case.id for r in results_of("tests")] == ["tests/golden/other.onnxtxt::title"]
    assert all(r.ok for r in results_of("my.onnxtxt::title"))
    assert find_cases("my.py").untested == ("my.at_the_edge", "my.raises", "my.retyped", "my.endless")
    for what, message in [
        ("my.py::raises", "there is no golden test of my.py::raises"),
        ("my.onnxtxt::titl", "there is no case 'titl'"),
        ("tests/model.onnxtxt", "is no golden file"),
        ("mine.onnxtxt", "there is no such file\n  did you mean 'my.onnxtxt'"),
        ("nothing.py", "there is no such file of rules"),
    ]:
        with pytest.raises(UsageError) as error:
            find_cases(what)
        assert message in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no golden file in this folder"):
        find_cases("empty")


def test_those_of_an_installed_pack_lie_in_its_project() -> None:
    found = find_cases("simplify")
    assert {case.file.parts[-3] for case in found.cases} == {"golden"}
    assert all("simplify" in case.subject for case in found.cases)
    subjects = {case.subject for case in find_cases("simplify.mul_*").cases}
    assert {"simplify.mul_one", "simplify.mul_mul"} <= subjects
    assert all(subject.startswith("simplify.mul_") for subject in subjects)


def test_the_example_of_the_documentation_is_a_golden_file() -> None:
    from graphopt.check import golden_file

    text = textwrap.dedent(str(golden_file.__doc__).partition("\n\n")[2].partition("`# rule:`")[0])
    cases = parse_golden(text.replace("…", ONE.partition("# before\n")[2].replace("{1}", "{2}")), Path("doc.onnxtxt"))
    assert [result.failure for result in run_cases(cases)] == [None, None]

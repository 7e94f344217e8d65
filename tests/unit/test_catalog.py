"""Rules by name, from installed packages and from files, and what is wrong with files and packages."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from graphopt.engine import registry
from graphopt.engine.assemble import assemble
from graphopt.engine.catalog import all_rules, find_rules
from graphopt.engine.rules_file import load_rules_file, module_rules
from graphopt.errors import GraphoptError, RuleError, UsageError

HEAD = "from graphopt import Pass, RulePass, Tensor, op, rule\n\n\n"


def rule_text(name: str, operator: str = "Neg") -> str:
    return (
        f"@rule(lambda x: op.{operator}(op.{operator}(x)), accuracy='exact')\n"
        f"def {name}(x: Tensor) -> Tensor:\n"
        f'    """{name} states something."""\n'
        "    return x\n\n\n"
    )


GOOD = HEAD + rule_text("neg_neg") + rule_text("not_not", "Not")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file in the current folder, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return make


def names(found) -> list[str]:
    return [named.name for named in found]


class TestFind:
    def test_all_of_a_file_in_order(self, write):
        found = find_rules(write("my_rules.py", GOOD))
        assert names(found) == ["my_rules.neg_neg", "my_rules.not_not"]
        assert {(n.pack, n.file) for n in found} == {("my_rules", Path("my_rules.py").resolve())}
        assert [n.rule.name for n in found] == ["neg_neg", "not_not"]

    @pytest.mark.parametrize("name", ["not_not", "my_rules.not_not", "*t_not", "my_rules.not*"])
    def test_one_of_a_file(self, write, name):
        file = write("my_rules.py", GOOD)
        assert names(find_rules(f"{file}::{name}")) == ["my_rules.not_not"]

    def test_packs_and_patterns(self):
        assert len(find_rules("fuse")) > 10
        assert {n.pack for n in find_rules("fuse")} == {"fuse"}
        assert names(find_rules("fuse.gelu_erf")) == ["fuse.gelu_erf"]
        assert names(find_rules("gelu_erf")) == ["fuse.gelu_erf"]
        assert names(find_rules("fuse.gelu_*")) == ["fuse.gelu_erf", "fuse.gelu_tanh"]
        assert {n.pack for n in find_rules("*")} >= {"cleanup", "simplify", "fuse"}

    def test_files_beside_what_is_installed(self, write):
        file = write("my_rules.py", GOOD)
        assert names(find_rules("neg_neg", [file])) == ["my_rules.neg_neg"]
        assert names(find_rules("my_rules", [file])) == ["my_rules.neg_neg", "my_rules.not_not"]
        assert names(all_rules([file]))[-2:] == ["my_rules.neg_neg", "my_rules.not_not"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("fuse.gelu_erff", "there is no rule 'fuse.gelu_erff'\n  did you mean 'fuse.gelu_erf'?"),
            ("gelu_ref", "there is no rule 'gelu_ref'\n  did you mean 'gelu_erf'?"),
            ("fues", "there is no rule 'fues'\n  did you mean 'fuse'?"),
            ("?", "there is no rule '?'\n  see: graphopt rules list"),
            ("fold", "the pass 'fold' applies no rules: it works on the whole graph\n  see: graphopt rules list"),
            ("my_rules.py::not_nto", "there is no rule 'not_nto' in my_rules.py\n  did you mean 'not_not'?"),
        ],
    )
    def test_nothing_of_that_name(self, write, text, message):
        write("my_rules.py", GOOD)
        with pytest.raises(UsageError) as raised:
            find_rules(text)
        assert str(raised.value) == message


class TestFiles:
    def test_a_pack_is_called_after_its_file(self, write):
        file = load_rules_file(write("my rules-2.x.py", '"""What they are for.\n\nMore."""\n' + GOOD))
        assert file.name == "my_rules-2_x"
        (kind,) = file.passes
        assert (kind.name, kind.summary()) == ("my_rules-2_x", "What they are for.")
        assert kind.rules() == file.pack == file.rules()

    def test_without_a_docstring_the_file_is_named(self, write):
        assert load_rules_file(write("my_rules.py", GOOD)).passes[0].summary() == "The rules of my_rules.py."

    def test_a_file_is_executed_once_until_it_changes(self, write):
        write("my_rules.py", GOOD)
        first = load_rules_file("my_rules.py")
        assert load_rules_file(Path("my_rules.py").absolute()).pack == first.pack
        write("my_rules.py", GOOD + rule_text("abs_abs", "Abs"))
        assert [r.name for r in load_rules_file("my_rules.py").pack] == ["neg_neg", "not_not", "abs_abs"]

    def test_own_passes_come_under_their_own_names(self, write):
        text = GOOD + (
            "class Mine(RulePass):\n    name = 'mine'\n    pack = (not_not,)\n\n\n"
            "class Other(Pass):\n    name = 'other'\n\n    def run(self, ctx):\n        pass\n"
        )
        file = load_rules_file(write("my_rules.py", text))
        assert [kind.name for kind in file.passes] == ["my_rules", "mine", "other"]
        assert names(find_rules("my_rules.py")) == ["my_rules.neg_neg", "mine.not_not"]
        assert [r.name for r in file.pack] == ["neg_neg", "not_not"]

    def test_a_file_of_passes_alone(self, write):
        text = HEAD + "class Other(Pass):\n    name = 'other'\n\n    def run(self, ctx):\n        pass\n"
        assert [kind.name for kind in load_rules_file(write("my_rules.py", text)).passes] == ["other"]

    def test_imported_rules_belong_to_the_file(self, write):
        write("base.py", GOOD)
        text = HEAD + "from base import not_not\n\n\n" + rule_text("abs_abs", "Abs") + "alias = abs_abs\n"
        assert names(find_rules(write("my_rules.py", text))) == ["my_rules.not_not", "my_rules.abs_abs"]

    def test_neighbours_can_be_imported_and_are_forgotten(self, write):
        before = list(sys.path)
        for folder in ("one", "two"):
            write(f"{folder}/helpers.py", f"FACTOR = {folder!r}\n")
            write(f"{folder}/my_rules.py", HEAD + "from helpers import FACTOR\n\n\n" + rule_text("neg_neg"))
        found = [load_rules_file(f"{folder}/my_rules.py") for folder in ("one", "two")]
        factors = [file.pack[0].function.__globals__["FACTOR"] for file in found]
        assert factors == ["one", "two"]
        assert "helpers" not in sys.modules
        assert sys.path == before

    def test_a_file_does_not_shadow_a_module(self, write):
        import onnx

        load_rules_file(write("onnx.py", GOOD))
        assert sys.modules["onnx"] is onnx


class TestBadFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "my_rules.py: defines no rule\n  write one with @rule at the top level of the file"),
            ("x = 1\n", "my_rules.py: defines no rule\n  write one with @rule at the top level of the file"),
            ("def f(:\n", "my_rules.py:1:7: does not parse: invalid syntax\n  def f(:"),
            ("\n\nif x:\ny = 1\n", "my_rules.py:4:1: does not parse: expected an indented block after 'if' statement "
                                   "on line 3\n  y = 1"),
            (b"x = '\xff'\n", None),
            (b"x = 1\0\n", None),
            ("1 / 0\n", "my_rules.py:1: raised ZeroDivisionError when it was loaded: division by zero\n"
                        "  a file of rules is run like any Python file; -v shows the traceback"),
            ("def f():\n    raise ValueError('a\\nb')\n\n\nf()\n",
             "my_rules.py:2: raised ValueError when it was loaded: a b\n"
             "  a file of rules is run like any Python file; -v shows the traceback"),
            ("import numpi\n", "my_rules.py:1: raised ModuleNotFoundError when it was loaded: No module named 'numpi'\n"
                               "  a file of rules is run like any Python file; -v shows the traceback"),
            ("import sys\n\nsys.exit(3)\n", "my_rules.py:3: raised SystemExit when it was loaded: 3\n"
                                            "  a file of rules is run like any Python file; -v shows the traceback"),
            (GOOD + rule_text("neg_neg", "Abs"),
             "two rules are called 'neg_neg': neg_neg (my_rules.py:4) and neg_neg (my_rules.py:16)\n"
             "  the second would hide the first: give it another name"),
            (HEAD + "class Mine(Pass):\n    def run(self, ctx):\n        pass\n",
             "my_rules.py: the pass Mine has no name\n  write name: ClassVar[str] = \"mine\" in it"),
        ],
    )  # fmt: skip
    def test_what_is_in_it(self, write, text, message):
        file = write("my_rules.py", text)
        with pytest.raises(RuleError) as raised:
            load_rules_file(file)
        if message is None:
            assert str(raised.value).startswith("my_rules.py")
            assert "does not parse: " in str(raised.value)
        else:
            assert str(raised.value) == message

    def test_a_neighbour_that_does_not_parse(self, write, tmp_path):
        write("helpers.py", "x = (\n")
        with pytest.raises(RuleError) as raised:
            load_rules_file(write("my_rules.py", "import helpers\n"))
        assert str(raised.value) == f"{tmp_path / 'helpers.py'}:1:5: does not parse: '(' was never closed\n  x = ("

    def test_a_neighbour_that_raises(self, write, tmp_path):
        write("helpers.py", "\n\n{}['x']\n")
        with pytest.raises(RuleError) as raised:
            load_rules_file(write("my_rules.py", "import helpers\n"))
        assert str(raised.value).startswith(f"{tmp_path / 'helpers.py'}:3: raised KeyError when it was loaded: 'x'\n")

    def test_a_rule_that_is_wrong_in_itself(self, write):
        with pytest.raises(RuleError) as raised:
            load_rules_file(write("my_rules.py", HEAD + rule_text("neg_neg", "Negg")))
        assert "my_rules.py:4" in str(raised.value)
        assert "there is no operator 'Negg'" in str(raised.value)

    def test_two_rules_of_one_name_in_different_variables(self, write):
        text = HEAD + "def make():\n    @rule(lambda x: op.Neg(op.Neg(x)))\n    def inner(x: Tensor) -> Tensor:\n" + (
            '        """A sentence."""\n        return x\n\n    return inner\n\n\na, b = make(), make()\n'
        )
        with pytest.raises(RuleError, match=r"^my_rules.py: two rules are called 'inner'"):
            load_rules_file(write("my_rules.py", text))

    def test_where_it_is(self, write, tmp_path):
        write("my_rules.py", GOOD)
        (tmp_path / "empty").mkdir()
        write("folder/some.py", "")
        for path, message in {
            "my_rulse.py": "my_rulse.py: there is no such file of rules\n  did you mean 'my_rules.py'?",
            "nowhere/x.py": "nowhere/x.py: there is no such file of rules",
            "folder": "folder: is a folder, not a file of rules\n  name a file in it, such as folder/some.py",
            "empty": "empty: is a folder, not a file of rules\n  there is no Python file in it",
            "/dev/null": "/dev/null: is no Python file\n  rules are written in a file that ends in .py",
            "a\0b.py": "'a\\x00b.py': is no path: it has a zero byte",
            "x" * 300 + ".py": None,
        }.items():
            with pytest.raises(UsageError) as raised:
                load_rules_file(path)
            assert str(raised.value) == (message or f"{path}: cannot be read: File name too long")


class TestAssemble:
    def order(self, *args, **kwargs) -> list[str]:
        return [item.name for item in assemble(*args, **kwargs).passes]

    def test_rules_run_behind_what_settles(self, write):
        file = write("my_rules.py", GOOD)
        assert self.order("fuse", [file]) == ["cleanup", "fold", "simplify", "fuse", "my_rules"]
        assert self.order("fuse,quant", [file]) == ["cleanup", "fold", "simplify", "fuse", "layout", "my_rules", "quant"]
        assert self.order("O0", [file]) == ["my_rules"]

    def test_rules_run_where_they_are_named(self, write):
        file = write("my_rules.py", GOOD)
        assert self.order("my_rules,cleanup", [file]) == ["my_rules", "cleanup"]
        assert self.order("my_rules", [file, str(Path(file).absolute())]) == ["my_rules"]

    def test_passes_of_a_file(self, write):
        text = GOOD + (
            "class Early(RulePass):\n    name = 'early'\n    pack = (not_not,)\n    requires = ('fold',)\n\n\n"
            "class Late(Pass):\n    name = 'late'\n    settles = False\n\n    def run(self, ctx):\n        pass\n"
        )
        file = write("my_rules.py", text)
        assert self.order("cleanup", [file]) == ["cleanup", "my_rules", "fold", "early", "late"]
        assert assemble("cleanup", [file]).added == ["fold"]
        assert self.order("early", [file]) == ["fold", "early"]

    def test_rules_and_modules_in_a_list(self, write):
        rules = load_rules_file(write("my_rules.py", GOOD)).pack
        module = types.ModuleType("some.where.extra")
        module.not_not = rules[1]
        found = assemble(["cleanup", rules[0], rules[1], module, list(rules)])
        assert [item.name for item in found.passes] == ["cleanup", "rules", "extra", "rules_2"]
        assert [[r.name for r in item.rules()] for item in found.passes[1:]] == [
            ["neg_neg", "not_not"], ["not_not"], ["neg_neg", "not_not"],
        ]  # fmt: skip
        assert found.packs == ["rules", "extra", "rules_2"]

    def test_rules_beside_the_passes(self, write):
        rules = load_rules_file(write("my_rules.py", GOOD)).pack
        assert self.order("cleanup", rules) == ["cleanup", "rules"]
        assert self.order("rules,cleanup", rules) == ["rules", "cleanup"]
        assert self.order("cleanup", rules[0]) == ["cleanup", "rules"]
        assert self.order("cleanup", "my_rules.py") == ["cleanup", "my_rules"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fuse.py", "fuse.py: its rules would make a pass called 'fuse', which is the name of an installed pass\n"
                        "  rename it: rules are called after their file or module"),
            ("O2.py", "O2.py: its rules would make a pass called 'O2', which is the name of a preset\n"
                      "  rename it: rules are called after their file or module"),
            ("b/my_rules.py", "b/my_rules.py: its rules would make a pass called 'my_rules', which is the name of "
                              "those of my_rules.py\n  rename it: rules are called after their file or module"),
        ],
    )  # fmt: skip
    def test_names_that_are_taken(self, write, name, message):
        write("my_rules.py", GOOD)
        with pytest.raises(UsageError) as raised:
            assemble("cleanup", ["my_rules.py", write(name, GOOD)])
        assert str(raised.value) == message

    def test_what_is_no_pass(self, write):
        module = types.ModuleType("empty")
        with pytest.raises(UsageError, match="the module empty has no rules"):
            assemble([module])
        for item in (3, [], [3]):
            with pytest.raises(UsageError, match="is no pass\n  give names, Pass objects, rules, or modules"):
                assemble([item])

    def test_a_file_in_the_place_of_a_pass(self):
        with pytest.raises(UsageError) as raised:
            assemble("fuse,my_rules.py")
        assert str(raised.value) == (
            "there is no pass 'my_rules.py'\n  a file of rules: --rules my_rules.py, then -p my_rules"
        )


class TestEntryPoints:
    @pytest.fixture
    def offer(self, monkeypatch, tmp_path):
        """Offers entry points (name, value) besides those that are installed."""
        monkeypatch.syspath_prepend(str(tmp_path))
        ours = {group: list(registry.entry_points(group=group)) for group in (registry.PASSES, registry.PRESETS)}
        package = types.SimpleNamespace(name="their-package", version="1.2")

        def add(*points: tuple[str, str], group: str = registry.PASSES) -> None:
            theirs = [EntryPoint(name, value, group) for name, value in points]
            for point in theirs:
                vars(point).update(dist=package)
            both = {**ours, group: [*ours[group], *theirs]}
            monkeypatch.setattr(registry, "entry_points", lambda group: both[group])
            self.clear()

        yield add
        monkeypatch.undo()
        self.clear()

    @staticmethod
    def clear() -> None:
        for function in (registry._points, registry._presets):
            function.cache_clear()

    def test_a_module_with_rules(self, offer, tmp_path):
        (tmp_path / "their_rules.py").write_text('"""Their rules."""\n' + GOOD)
        offer(("theirs", "their_rules"))
        kind = registry.pass_class("theirs")
        assert (kind.name, kind.summary()) == ("theirs", "Their rules.")
        assert names(find_rules("theirs")) == ["theirs.neg_neg", "theirs.not_not"]
        assert module_rules(sys.modules["their_rules"]) == kind.rules()
        assert registry.pass_class("theirs") is kind
        assert "theirs" in [item.name for item in assemble("cleanup,theirs").passes]

    def test_a_pass(self, offer, tmp_path):
        text = "class Mine(RulePass):\n    name = 'mine_too'\n    pack = (not_not,)\n"
        (tmp_path / "their_pass.py").write_text(GOOD + text)
        offer(("mine_too", "their_pass:Mine"), ("mine", "their_pass:Mine"))
        assert registry.pass_class("mine_too").name == "mine_too"
        with pytest.raises(GraphoptError, match="the entry point 'mine' leads to a pass called 'mine_too'"):
            registry.pass_class("mine")

    @pytest.mark.parametrize(
        ("text", "value", "message"),
        [
            ("import nothing_here\n", "their_broken",
             "their-package 1.2: 'broken' cannot be loaded from their_broken: ModuleNotFoundError: "
             "No module named 'nothing_here'\n  update or uninstall the package; the others can be used without it"),
            ("", "their_broken:Missing",
             "their-package 1.2: 'broken' cannot be loaded from their_broken:Missing: AttributeError: "
             "module 'their_broken' has no attribute 'Missing'\n"
             "  update or uninstall the package; the others can be used without it"),
            ("x = 3\n", "their_broken:x",
             "their-package 1.2: 'broken' is neither a Pass nor a module with rules: their_broken:x\n"
             "  correct its entry point of graphopt.passes, or uninstall it"),
            ("", "their_broken",
             "their-package 1.2: 'broken' is neither a Pass nor a module with rules: their_broken\n"
             "  correct its entry point of graphopt.passes, or uninstall it"),
        ],
    )  # fmt: skip
    def test_a_broken_package(self, offer, tmp_path, monkeypatch, text, value, message):
        (tmp_path / "their_broken.py").write_text(text)
        monkeypatch.delitem(sys.modules, "their_broken", raising=False)
        offer(("broken", value))
        with pytest.raises(GraphoptError) as raised:
            registry.pass_class("broken")
        assert str(raised.value) == message
        assert [str(error) for error in registry.broken()] == [message]
        with pytest.raises(GraphoptError, match=r"their-package 1\.2"):
            find_rules("broken.*")
        assert "fuse" in {kind.name for kind in registry.usable_passes()}
        assert len(find_rules("fuse")) > 10
        assert [item.name for item in assemble("cleanup").passes] == ["cleanup"]
        monkeypatch.delitem(sys.modules, "their_broken", raising=False)

    def test_two_packages_with_one_name(self, offer, tmp_path):
        (tmp_path / "their_rules2.py").write_text(GOOD)
        offer(("twice", "their_rules2"), ("twice", "their_rules2:x"))
        with pytest.raises(GraphoptError, match=r"two packages offer 'twice' in graphopt\.passes"):
            registry.pass_class("twice")
        assert registry.pass_class("fuse").name == "fuse"

    def test_broken_presets(self, offer):
        offer(("theirs", "no_such_module:PRESETS"), ("list", "builtins:ord"), group=registry.PRESETS)
        assert "O2" in registry.presets()
        assert len(registry.broken()) == 2
        with pytest.raises(UsageError, match=r"their-package 1\.2: 'theirs' cannot be loaded from no_such_module"):
            registry.pass_class("their_preset")

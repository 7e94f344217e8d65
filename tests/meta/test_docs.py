"""The documentation is true: its examples run and print what it says, its commands parse, its links lead somewhere.

In a page, the ```python blocks are one program, run in a folder that has `fixtures/` and `build/`. A ```text block
right behind one is what it prints. A block that cannot run here stands behind `<!-- not run: reason -->`. In
```console blocks the lines behind `$` are commands; behind `<!-- run -->` they are run, in turn with the Python
blocks, and must print what follows each of them, where … stands for anything. Behind `<!-- file: NAME -->` a block is
the content of a file that is written then. A ```toml block begins with the name of its file.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli.config import KEYS, resolve
from graphopt.cli.main import _root, main
from graphopt.engine.rules_file import rule_pack
from graphopt.engine.spec import parse
from graphopt.targets.target import load_target

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "fixtures" / "README.md", ROOT / "CHANGELOG.md"]

_BLOCK = re.compile(
    r"^(?: *<!-- (?P<mark>not run|run|file)(?:: (?P<detail>[^\n]+?))? -->\n)?(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?P<to>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, the line it begins at, and how it is marked."""

    kind: str
    text: str
    line: int
    mark: str | None  # "not run", "run" or "file"
    detail: str | None
    adjoins: bool  # nothing but a newline between it and the block before


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found, end = [], -1
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        content = textwrap.dedent(match["text"])
        adjoins = text[end : match.start()] == "\n"
        found.append(Block(match["kind"], content, line, match["mark"], match["detail"], adjoins))
        end = match.end()
    return found


def programs(page: Path) -> list[tuple[Block, str | None]]:
    """The blocks that run or are files, Python ones with what they are said to print, None if nothing is said."""
    found = blocks(page)
    return [
        (block, next((after.text for after in found[i + 1 : i + 2] if after.kind == "text" and after.adjoins), None))
        for i, block in enumerate(found)
        if block.mark in ("run", "file") or (block.kind == "python" and block.mark is None)
    ]


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Commands of console blocks: line and words."""
    for block in blocks(page):
        if block.kind != "console":
            continue
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("$ "):
                yield block.line, shlex.split(line[2:], comments=True)


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=id_of)
def test_python_examples_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    (tmp_path / "build").mkdir()
    shutil.copy(ROOT / "fixtures/models/residual_cnn.onnx", tmp_path / "model.onnx")
    shutil.copy(ROOT / "fixtures/data/digits_calib.npz", tmp_path / "calibration.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    module = types.ModuleType("example")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, "example", module)
    for block, said in programs(page):
        if block.mark == "file":
            (tmp_path / str(block.detail)).write_text(block.text, encoding="utf-8")
            continue
        if block.mark == "run":
            check_console(block, f"{page.name}:{block.line}", capsys)
            continue
        padded = "\n" * block.line + block.text  # so that a traceback names the line of the page
        capsys.readouterr()
        exec(compile(padded, str(page), "exec"), vars(module))
        if said is not None:
            assert capsys.readouterr().out == said, f"{page.name}:{block.line}: not what is printed"


def check_console(block: Block, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the commands of a block, and compare what each prints with what stands under it."""
    for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        words = shlex.split(command, comments=True)
        assert words[0] == "graphopt", f"{where}: {command}"
        capsys.readouterr()
        main(words[1:])
        said = "".join(capsys.readouterr())
        pattern = "".join(".*" if piece == "…" else re.escape(piece) for piece in re.split("(…)", expected.strip()))
        printed = "\n".join(line.rstrip() for line in said.strip().splitlines())
        assert re.fullmatch(pattern, printed, re.DOTALL), f"{where}: {command} prints\n{printed}\nand not\n{expected}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(commands(p))], ids=id_of)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in commands(page):
        where = f"{page.name}:{line}: {shlex.join(words)}"
        if words[0] == "graphopt":
            check_graphopt(words[1:], where)
        elif words[0] == "make":
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert words[1] in targets, where
        else:
            assert words[0] in ("pip", "python", "git", "cd"), f"{where}: a command that is not checked"


def check_graphopt(args: list[str], where: str) -> None:
    """Parse the arguments as the command line would; for `run`, the settings, passes and target in them as well."""
    if args[-1].startswith("--") and args[-1] in ("--help", "--version"):
        assert main(args) == 0, where
        return
    command: Any = _root()
    while hasattr(command, "get_command"):
        command, args = command.get_command(None, args[0]), args[1:]
        assert command is not None, where
    try:
        context = command.make_context(command.name, list(args))
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error
    if command.name == "run":
        named = {name.replace("_", "-").replace("evaluate", "eval"): v for name, v in context.params.items()}
        settings = resolve({key: v for key, v in named.items() if key in KEYS and v}, folder=ROOT)
        parse(settings.passes, {file.stem: rule_pack(file.stem, [], "") for file in settings.rules})
        load_target(settings.target)


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.kind == "toml" for b in blocks(p))], ids=id_of)
def test_toml_examples_are_read(page: Path, tmp_path: Path) -> None:
    for block in (b for b in blocks(page) if b.kind == "toml"):
        first, _, _ = block.text.partition("\n")
        assert first.startswith("# ") and first.endswith(".toml"), f"{page.name}:{block.line}: name the file"
        path = tmp_path / first[2:]
        path.write_text(block.text, encoding="utf-8")
        if path.name == "pyproject.toml":
            resolve({}, folder=tmp_path)
        elif path.name.endswith("target.toml"):
            assert load_target(path).name
        else:
            resolve({}, path, folder=ROOT)


@pytest.mark.parametrize("page", LINKED, ids=id_of)
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = match["to"].partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {match['to']} leads nowhere"
        assert path.is_relative_to(ROOT), f"{page.name}: {match['to']} leaves the repository"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles], match["to"]


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) < (200 if page.name == "README.md" else 260)


def test_every_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, page.name

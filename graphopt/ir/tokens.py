"""The tokens of ONNX text, each with its line, and the errors that name it.

Comments run from `#` to the end of the line. Those that begin with `#:` say what the syntax has no words for
(`graphopt.ir.beyond`); they are kept aside.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from graphopt.errors import ModelError

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<note>\#:[^\n]*)
      | (?P<comment>\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>-?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|(?:inf|infinity|nan)\b))
      | (?P<name>[A-Za-z_][A-Za-z_0-9]*)
      | (?P<mark>=>|\.\.\.|…|[()<>\[\]{}=,:.@?])""",
    re.VERBOSE | re.DOTALL | re.ASCII | re.IGNORECASE,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Token(NamedTuple):
    """`kind`: string, number, name, mark or end; `text` as it stands there, a string's without quotes and escapes."""

    kind: str
    text: str
    line: int


class Tokens:
    """The tokens of a text, read one after another. `notes` are the lines that begin with `#:`."""

    def __init__(self, text: str, where: str, first_line: int = 1) -> None:
        self._where = where
        self.notes: list[Token] = []
        self._tokens = self._split(text, first_line)
        self._next = 0

    def _split(self, text: str, line: int) -> list[Token]:
        found: list[Token] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                what = "a string does not end" if text[position] == '"' else f"{text[position]!r} means nothing here"
                raise self.error(what, Token("end", "", line))
            kind, word = str(match.lastgroup), match.group()
            if kind == "string":
                found.append(Token(kind, _ESCAPED.sub(r"\1", word[1:-1]), line))
            elif kind == "note":
                self.notes.append(Token(kind, word, line))
            elif kind not in ("space", "comment"):
                found.append(Token(kind, word, line))
            line += word.count("\n")
            position = match.end()
        return [*found, Token("end", "", line)]

    def error(self, what: str, at: Token | None = None, hint: str | None = None) -> ModelError:
        """An error at a token, by default the next one."""
        return ModelError(what, where=f"{self._where}:{(at or self.peek()).line}", hint=hint)

    def peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    def take(self) -> Token:
        token = self.peek()
        self._next += 1
        return token

    def at(self, *marks: str) -> bool:
        """Whether the next token is one of these marks."""
        token = self.peek()
        return token.kind == "mark" and token.text in marks

    def accept(self, mark: str) -> bool:
        """Take the mark if it is the next token."""
        if self.at(mark):
            self._next += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise self.error(f"expected {mark!r}, found {self._shown()}")

    def take_kind(self, *kinds: str, what: str) -> str:
        """The text of the next token, which must be of one of these kinds."""
        if self.peek().kind not in kinds:
            raise self.error(f"expected {what}, found {self._shown()}")
        return self.take().text

    def name(self, what: str = "a name") -> str:
        """A name, quoted if it is no identifier."""
        # The spelling of a special number is a name where one is wanted.
        token = self.peek()
        if token.kind == "number" and token.text.isalpha():
            return self.take().text
        return self.take_kind("name", "string", what=what)

    def identifier(self, what: str) -> str:
        token = self.peek()
        if token.kind == "number" and token.text.isalpha():
            return self.take().text
        return self.take_kind("name", what=what)

    def string(self) -> str:
        return self.take_kind("string", what="a string in double quotes")

    def integer(self, low: int = -(2**63), high: int = 2**63 - 1) -> int:
        token = self.peek()
        if token.kind != "number" or not token.text.lstrip("-").isdigit():
            raise self.error(f"expected an integer, found {self._shown()}")
        self.take()
        value = int(token.text) if len(token.text) < 40 else 2**99
        if not low <= value <= high:
            raise self.error(f"{token.text} is not between {low} and {high}", token)
        return value

    def _shown(self) -> str:
        token = self.peek()
        return "the end" if token.kind == "end" else repr(token.text)

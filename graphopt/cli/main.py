"""The entry point `graphopt`: the verbs, and what becomes of errors.

Exit codes: 0 ok · 1 internal error · 2 usage · 3 the input is not a valid model · 4 verification failed ·
5 a gate was not met · 6 target not available · 130 interrupted. Each verb is a module, imported when somebody
asks for it, and that imports more than typer when it has something to do: `graphopt --help` answers at once.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from graphopt.errors import GraphoptError, UsageError, nearest

INTERRUPTED = 130

# Typer has the class from click, or from its own copy of it; only its descendants are public.
_TyperUsageError: Any = typer.BadParameter.__base__

VERBS = {
    "run": "Optimize a model, verify it, and write it.",
    "inspect": "Show what is in a model, and what it costs to run.",
    "diff": "Compare two models, in structure and in weights.",
    "explain": "Say where a rule fires, and where not and why.",
    "bisect": "Find the first rewrite that makes a model bad, and write it down as a failing test.",
    "passes": "List the passes, their options, and the presets.",
    "rules": "List, show, check, test and begin rewrite rules.",
    "targets": "List the places where a model may run.",
}

RULES_VERBS = {
    "list": "List the rules: name, accuracy class, and what they state.",
    "show": "Show a rule: both sides, accuracy, opset, targets, where it is defined.",
    "check": "Try rules on random models, and compare what is computed before and after.",
    "test": "Run the golden tests of rules.",
    "new": "Begin a file of rules, with its tests.",
}

_EPILOG = """\b
Exit codes:
  0  ok                               4  verification failed
  1  internal error                   5  a gate was not met
  2  usage                            6  target not available
  3  the input is not a valid model   130  interrupted
"""
_ALONE = {"--verify": ("end", "pass", "local")}  # values that may follow; the first if none does
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Verb(TyperCommand):
    """A verb whose help is printed before anything is converted: that alone would double its time."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else args
        if not {"-h", "--help"}.isdisjoint(own):
            typer.echo(self.get_help(ctx))
            ctx.exit()
        try:
            return super().parse_args(ctx, [*_with_values(own), *args[len(own) :]])
        except _TyperUsageError as error:
            error.ctx = error.ctx or ctx  # not every one knows the verb
            raise


def _with_values(args: list[str]) -> list[str]:
    """The arguments, in which options that may stand alone have their value attached with `=`."""
    made: list[str] = []
    waiting = False
    for arg in args:
        if waiting:
            known = _ALONE[made[-1]]
            made[-1] += f"={arg if arg in known else known[0]}"
            waiting = False
            if arg in known:
                continue
        made.append(arg)
        waiting = arg in _ALONE
    if waiting:
        made[-1] += f"={_ALONE[made[-1]][0]}"
    return made


class _Group(TyperGroup):
    """A group that names the nearest verb for one that it does not know, and shows its help without one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = args or ["--help"]
        self.add_help_option = args[0].startswith("-")  # converting it unasked takes longer than all else
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known:
            raise UsageError(f"there is no verb {args[0]!r}", hint=nearest(args[0], known))
        return super().resolve_command(ctx, args)


class _Lazy(_Group):
    """A group of verbs, each made when it is asked for: the function `verb` of its module, if not named otherwise."""

    verbs: ClassVar[dict[str, str]]
    module: ClassVar[str] = "graphopt.cli.{}"
    function: ClassVar[str] = "{}"

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = importlib.import_module(self.module.format(cmd_name))
        app = _typer()
        _add(app, cmd_name, getattr(module, self.function.format(cmd_name)))
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(self.verbs.items()))


class _Rules(_Lazy):
    verbs = RULES_VERBS
    module = "graphopt.cli.rules_{}"
    function = "{}_rules"


class _Root(_Lazy):
    verbs = VERBS

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != "rules":
            return super().get_command(ctx, cmd_name)
        app = _typer()
        app.callback(cls=_Rules, subcommand_metavar="VERB", help=VERBS[cmd_name])(lambda: None)
        return typer.main.get_command(app)


def _typer() -> typer.Typer:
    """An empty app, without rich: typer's own way to render help with it takes longer than the rest."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=_HELP
    )


def _add(app: typer.Typer, name: str, function: Any) -> None:
    # What stands behind `-p fuse` may be more passes, so `run` takes arguments that it has no name for.
    more = name in ("run", "bisect")
    app.command(name, cls=_Verb, context_settings={**_HELP, "allow_extra_args": more})(function)


def _version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


def _root() -> Any:
    app = _typer()

    @app.callback(
        cls=_Root,
        subcommand_metavar="VERB",
        help="Makes ONNX models smaller and faster, and checks that they compute the same.",
        epilog=_EPILOG,
    )
    def graphopt(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        del version

    return typer.main.get_command(app)


def main(args: Sequence[str] | None = None) -> int:
    """Run `graphopt` with these arguments, those of the process by default; the exit code."""
    given = list(sys.argv[1:] if args is None else args)
    verbose = not {"-v", "--verbose"}.isdisjoint(given)
    _prepare_streams()
    try:
        code = _root().main(given, prog_name="graphopt", standalone_mode=False)
    except GraphoptError as error:
        return _fail(str(error), error.exit_code, error if verbose else None)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except _TyperUsageError as error:
        return _fail(*_usage(error))
    except Exception as error:
        return _fail(_internal(error, verbose), 1, error if verbose else None)
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(text: str, code: int, cause: BaseException | None = None) -> int:
    """Print an error, after its traceback if there is to be one."""
    if cause is not None:
        import traceback

        traceback.print_exception(cause)
    word = "graphopt:" if code == INTERRUPTED else "graphopt: error:"
    print(f"{word} {text}", file=sys.stderr)
    return code


def _usage(error: Any) -> tuple[str, int]:
    """What typer has against the arguments, in our own form."""
    import difflib

    wrong = getattr(error, "option_name", None)
    context = error.ctx
    name = context.command_path if context is not None else "graphopt"
    hint = f"see {name} --help"
    if wrong is not None and type(error).__name__ == "NoSuchOption":
        text = f"there is no option {wrong}"
        known = [o for p in context.command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")]
        close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? {hint[0].upper()}{hint[1:]}" if close else hint
    else:
        text = error.format_message().rstrip(".")
        text = text[:1].lower() + text[1:]
    return f"{text}\n  {hint}", 2


def _internal(error: Exception, verbose: bool) -> str:
    """One line for an error that should not happen: what and where it was raised."""
    import traceback
    from pathlib import Path

    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())
    line = f"internal error, {type(error).__name__}{place}: {text}"
    return line if verbose else f"{line}\n  run again with -v for the traceback"


def _prepare_streams() -> None:
    """A stream that is closed swallows what is printed; one that lacks a character prints a question mark."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

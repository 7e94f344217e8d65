"""`graphopt bisect`: find the rewrite that breaks a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.config import Settings, resolve
from graphopt.cli.flags import (
    AllowLinks,
    Data,
    Ignore,
    KeepGoing,
    Level,
    Preprocess,
    Profile,
    Protect,
    Rules,
    Seed,
    Select,
    Sm,
    Target,
)
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.bisection import Bisection
    from graphopt.culprit import Culprit

_TIMEOUT = 600.0


def bisect(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX file.", show_default=False)],
    passes: Annotated[
        list[str] | None,
        typer.Option("-p", "--passes", metavar="LIST", help="The passes of the run that goes wrong, as for `run`."),
    ] = None,
    rules: Rules = None,
    select: Select = None,
    ignore: Ignore = None,
    protect: Protect = None,
    keep_going: KeepGoing = None,
    level: Level = None,
    target: Target = None,
    data: Data = None,
    preprocess: Preprocess = None,
    oracle: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Bad is a model for which this command fails: 'python check.py {model}'. It ends with exit code 0 "
            "for a good one; {model} is the path of a temporary file. No shell is involved.",
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="FILE.py:FUNCTION",
            help="Bad is a model whose metric falls by more than --max-drop. The function is that of `run`.",
        ),
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="The fall of the metric that is too much.")
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(metavar="SUFFIX", help="Bad is a model that cannot be written in this form: .engine"),
    ] = None,
    sm: Sm = None,
    profile: Profile = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time that one run of the command may take.")
    ] = _TIMEOUT,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Where to write what was found. By default MODEL.bisect beside the input.",
        ),
    ] = None,
    seed: Seed = None,
    allow_links: AllowLinks = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show what the command prints; show the traceback of an error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress.")] = False,
) -> None:
    """Find the first rewrite that makes a model bad, and write it down as a failing test.

    Bad is a model that does not load, or computes something else; --oracle, --eval and --emit say otherwise. The
    beginning of the run is replayed a few times: eight times for 2500 rewrites.

    \b
    graphopt bisect model.onnx -p fuse
    graphopt bisect model.onnx -p my_rules --rules my_rules.py --oracle 'python check.py {model}'
    graphopt bisect model.onnx -p quant --data samples.npz --eval accuracy.py:accuracy --max-drop 1
    graphopt bisect model.onnx -O3 -t tensorrt-rtx --emit .engine
    """
    from graphopt.cli.run import check_input, positional

    path, passes = positional([model, *ctx.args], passes or [], rules or [])
    flags: dict[str, Any] = {
        "passes": passes or None, "rules": rules or None, "select": select or None, "ignore": ignore or None,
        "protect": protect or None, "keep-going": keep_going, "level": level, "target": target, "data": data,
        "preprocess": preprocess, "eval": evaluate, "max-drop": max_drop, "sm": sm, "profile": profile or None,
        "seed": seed, "allow-links": allow_links or None,
    }  # fmt: skip
    settings = resolve(flags)
    check_input(path, settings)
    if timeout <= 0:
        raise UsageError(f"cannot be {timeout:g}", where="--timeout", hint="it takes seconds, more than 0")
    if settings.eval is not None and settings.max_drop is None:
        raise UsageError("--eval needs the fall that is too much", hint="give it with --max-drop PERCENT")
    folder = Path(output) if output is not None else path.with_name(f"{path.stem}.bisect")
    _check_folder(folder)
    found = _search(path, settings, oracle, emit, timeout, verbose=verbose, quiet=quiet)
    _present(found, folder)


def _check_folder(folder: Path) -> None:
    """Say before the search that what is found could not be written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file, not a folder", where=str(folder), hint="name a folder with -o")
    if not folder.parent.is_dir():
        raise UsageError("the folder to write in does not exist", where=str(folder.parent))


def _search(
    path: Path,
    settings: Settings,
    oracle: str | None,
    emit: str | None,
    timeout: float,
    *,
    verbose: bool,
    quiet: bool,
) -> Bisection:
    import graphopt
    from graphopt.cli.evaluate import load_metric
    from graphopt.cli.run import pipeline_of
    from graphopt.cli.terminal import log
    from graphopt.emit.profile import parse_profile

    passes, accuracy = pipeline_of(settings)
    options: dict[str, Any] = {"profile": dict(parse_profile(text) for text in settings.profile)}
    if settings.sm:
        options["sm"] = settings.sm

    def ignore(text: str) -> None:
        del text

    return graphopt.bisect(
        path,
        passes,
        **settings.choice,
        target=settings.target,
        data=settings.data,
        preprocess=settings.preprocess,
        oracle=oracle,
        evaluate=load_metric(settings.eval) if settings.eval is not None else None,
        max_drop=settings.max_drop,
        build=emit,
        options=graphopt.EmitOptions(**options),
        accuracy=accuracy,
        seed=settings.seed,
        allow_links=settings.allow_links,
        timeout=timeout,
        tell=ignore if quiet else log,
        show=log if verbose else ignore,
    )


def _present(found: Bisection, folder: Path) -> None:
    from rich.console import Group

    from graphopt.cli.terminal import show, write

    counts = (("rewrite", found.rewrites), ("replay", found.replays), ("probe", found.probes))
    work = ", ".join([*(f"{n} {name}{'s' * (n != 1)}" for name, n in counts), f"{found.seconds:.1f} s"])
    culprit = found.culprit
    if culprit is None:
        show(f"nothing to find: the result of the whole run is good\n{work}")
        return
    files = culprit.save(folder)
    show(Group(_headline(culprit), _facts(culprit, [str(file) for file in files])))
    for name, text in _sides(culprit):
        write(f"\n{name}\n{text.rstrip()}\n")  # as it is: a line that is broken cannot be pasted anywhere
    show(f"\n{work}")


def _headline(culprit: Culprit) -> str:
    what = "fails" if culprit.failed else "is the first bad one"
    return f"{culprit.title}, {what}"


def _sides(culprit: Culprit) -> list[tuple[str, str]]:
    return [(name, text) for name, text in (("before", culprit.before), ("after", culprit.after)) if text is not None]


def _facts(culprit: Culprit, files: list[str]) -> Any:
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(overflow="fold")
    rows = [
        ("bad", culprit.reason),
        ("rule", culprit.where or f"none: the pass {culprit.rule.partition('.')[0]!r} made it"),
        ("matched", ", ".join(culprit.matched)),
        ("added", ", ".join(culprit.added)),
        ("alone", culprit.alone),
        ("no test", culprit.no_test),
        ("files", "\n".join(files)),
    ]
    for name, text in rows:
        if text:
            made.add_row(f"  {name}", text)
    return made

"""`bai`: look at studies and the store from a terminal."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bai_pipeline.errors import BaiPipelineError, StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import Store
from bai_pipeline.study import load_study, preset_names

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
store_app = typer.Typer(no_args_is_help=True, help="The store of artefacts.")
study_app = typer.Typer(no_args_is_help=True, help="Study files.")
app.add_typer(store_app, name="store")
app.add_typer(study_app, name="study")

StudyOption = Annotated[str | None, typer.Option("--study", help="Preset or YAML file; default BAI_STUDY, else micro.")]
StoreOption = Annotated[Path, typer.Option("--store", envvar="BAI_STORE", help="Root of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

console = Console()


@app.callback()
def bai() -> None:
    """Balanced Actor Initialization: merge, PPO, tables."""


@study_app.command("check")
def study_check(study: StudyOption = None) -> None:
    """Validate a study file; every fault is listed with its line."""
    loaded = load_study(study)
    console.print(f"{loaded.name}: valid; {len(loaded.sft)} SFT models, alphas {', '.join(loaded.alphas)}")


@study_app.command("show")
def study_show(study: StudyOption = None) -> None:
    """Print a study with everything that it inherits, as JSON."""
    console.print_json(load_study(study).model_dump_json())


@study_app.command("presets")
def study_presets() -> None:
    """List the presets that a study can extend."""
    for name in preset_names():
        console.print(name)


@app.command()
def status(study: StudyOption = None, store: StoreOption = Path("store"), as_json: JsonOption = False) -> None:
    """Say of every asset of a study whether it is fresh, stale or absent, and why."""
    states = Plan(load_study(study), Store(store)).status()
    if as_json:
        console.print_json(json.dumps({str(key): [s.state, s.reason] for key, s in states.items()}))
        return
    table = Table("asset", "state", "reason")
    colours = {"fresh": "green", "stale": "yellow", "absent": "red"}
    for key, state in states.items():
        table.add_row(escape(str(key)), f"[{colours[state.state]}]{state.state}[/]", escape(state.reason))
    console.print(table)


@app.command()
def verify(store: StoreOption = Path("store")) -> None:
    """Read every byte of every object and compare it with its digest."""
    failed = 0
    if not (store / "objects").is_dir():
        raise StoreError(f"{store} is not a store: it has no directory objects")
    objects = Store(store).objects()
    for uri in objects:
        try:
            Store(store).verify(uri)
        except BaiPipelineError as error:
            failed += 1
            console.print(escape(str(error)), style="red")
    console.print(f"{len(objects)} objects, {failed} damaged")
    if failed:
        raise typer.Exit(1)


@store_app.command("gc")
def store_gc(
    store: StoreOption = Path("store"),
    older_than: Annotated[float, typer.Option("--older-than", help="Hours; what is younger is spared.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
) -> None:
    """Remove the objects that no ref names, and what interrupted jobs left."""
    garbage = Store(store).collect_garbage(older_than=older_than * 3600, dry_run=dry_run)
    for uri in garbage:
        console.print(uri)
    console.print(f"{len(garbage)} objects {'would be ' if dry_run else ''}removed")


def main() -> None:
    """Entry point of the console script: expected errors are one message and exit code 1."""
    try:
        app()
    except BaiPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

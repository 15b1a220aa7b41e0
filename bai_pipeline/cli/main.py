"""`bai`: merge and look at checkpoints, studies and the store from a terminal.

A command imports what it needs when it is called: a merge does not wait for the libraries of a study.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bai_pipeline.cli.checkpoints import compare, inspect, verify_directory
from bai_pipeline.cli.data import data_app
from bai_pipeline.cli.diagnose import diagnose
from bai_pipeline.cli.evals import evals_app
from bai_pipeline.cli.export import export
from bai_pipeline.cli.merge import SUMMARY, merge
from bai_pipeline.cli.plan import plan
from bai_pipeline.errors import BaiPipelineError, StoreError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
store_app = typer.Typer(no_args_is_help=True, help="The store of artefacts.")
study_app = typer.Typer(no_args_is_help=True, help="Study files.")
app.add_typer(store_app, name="store")
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")
app.add_typer(evals_app, name="evals")
app.command("inspect")(inspect)
app.command("compare")(compare)
app.command("export")(export)
app.command("diagnose")(diagnose)
app.command("plan")(plan)

StudyOption = Annotated[str | None, typer.Option("--study", help="Preset or YAML file; default BAI_STUDY, else micro.")]
StoreOption = Annotated[
    str, typer.Option("--store", envvar="BAI_STORE", help="Directory, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")
]
Paths = Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Checkpoints or recipe directories.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _console() -> "Console":
    from rich.console import Console

    return Console()


@app.callback()
def bai() -> None:
    """Balanced Actor Initialization: merge, PPO, tables."""


@app.command(
    "merge",
    help=SUMMARY,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def merge_command(context: typer.Context) -> None:
    merge(context.args)


@study_app.command("check")
def study_check(study: StudyOption = None) -> None:
    """Validate a study file; every fault is listed with its line."""
    from bai_pipeline.study import load_study

    loaded = load_study(study)
    typer.echo(f"{loaded.name}: valid; {len(loaded.sft)} SFT models, alphas {', '.join(loaded.alphas)}")


@study_app.command("show")
def study_show(study: StudyOption = None) -> None:
    """Print a study with everything that it inherits, as JSON."""
    from bai_pipeline.study import load_study

    _console().print_json(load_study(study).model_dump_json())


@study_app.command("presets")
def study_presets() -> None:
    """List the presets that a study can extend."""
    from bai_pipeline.study import preset_names

    for name in preset_names():
        typer.echo(name)


@app.command()
def status(study: StudyOption = None, store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """Say of every asset of a study whether it is fresh, stale, absent or a hole, and why."""
    from rich.markup import escape
    from rich.table import Table

    from bai_pipeline.plan import Plan
    from bai_pipeline.store import open_store
    from bai_pipeline.study import load_study

    states = Plan(load_study(study), open_store(store)).status()
    if as_json:
        _console().print_json(json.dumps({str(key): [s.state, s.reason] for key, s in states.items()}))
        return
    table = Table("asset", "state", "reason")
    colours = {"fresh": "green", "stale": "yellow", "absent": "red", "hole": "magenta"}
    for key, state in states.items():
        table.add_row(escape(str(key)), f"[{colours[state.state]}]{state.state}[/]", escape(state.reason))
    _console().print(table)


@app.command()
def verify(paths: Paths = None, store: StoreOption = "store") -> None:
    """Read every byte of checkpoints, or without a PATH of the store, and compare it with what was recorded."""
    from bai_pipeline.store import open_store

    if not paths and "://" not in store and not (Path(store) / "objects").is_dir():
        raise StoreError(f"{store} is not a store: it has no directory objects")
    opened = open_store(store)
    items, failed = paths or opened.objects(), 0
    for item in items:
        try:
            if isinstance(item, Path):
                typer.echo(f"{item}: {verify_directory(item)}")
            else:
                opened.verify(item)
        except BaiPipelineError as error:
            failed += 1
            typer.secho(str(error), fg=typer.colors.RED)
    if not paths:
        typer.echo(f"{len(items)} objects, {failed} damaged")
    if failed:
        raise typer.Exit(1)


@store_app.command("evict")
def store_evict(
    store: StoreOption = "store",
    older_than: Annotated[float, typer.Option("--older-than", help="Hours; what is younger is spared.")] = 24.0,
) -> None:
    """Remove this machine's copies of what is in object storage."""
    from bai_pipeline.store import open_store

    removed = open_store(store).evict(older_than=older_than * 3600)
    for path in removed:
        typer.echo(path)
    typer.echo(f"{len(removed)} copies removed")


@store_app.command("gc")
def store_gc(
    store: StoreOption = "store",
    older_than: Annotated[float, typer.Option("--older-than", help="Hours; what is younger is spared.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
) -> None:
    """Remove the objects that no ref names, and what interrupted jobs left."""
    from bai_pipeline.store import open_store

    garbage = open_store(store).collect_garbage(older_than=older_than * 3600, dry_run=dry_run)
    for uri in garbage:
        typer.echo(uri)
    typer.echo(f"{len(garbage)} objects {'would be ' if dry_run else ''}removed")

"""`bai data`: the benchmarks' data on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bai_pipeline.errors import DataError

if TYPE_CHECKING:
    from bai_pipeline.evals.data import Source

data_app = typer.Typer(no_args_is_help=True, help="The data of benchmarks.")

Names = Annotated[list[str] | None, typer.Argument(metavar="BENCHMARK", help="As `bai data list` calls them.")]
Everything = Annotated[bool, typer.Option("--all", help="Every benchmark.")]
Root = Annotated[
    Path | None,
    typer.Option("--to", metavar="DIR", help="Data root; default BAI_DATA, else ~/.cache/bai_pipeline/data."),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag; default: the pinned one.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what was fetched before if it is not this revision.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@data_app.command("fetch")
def fetch_data(
    benchmarks: Names = None,
    everything: Everything = False,
    to: Root = None,
    revision: Revision = None,
    force: Force = False,
) -> None:
    """Download benchmarks from the Hugging Face hub, each with its licence; what is there is kept."""
    from bai_pipeline.cli.progress import LineReporter
    from bai_pipeline.eval_settings import data_root
    from bai_pipeline.evals.fetching import fetch

    sources = benchmark_sources()
    names = list(sources) if everything else list(dict.fromkeys(benchmarks or ()))
    unknown = [name for name in names if name not in sources]
    if bool(benchmarks) == everything:
        raise typer.BadParameter("name benchmarks or give --all")
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(sources)}")
    if revision is not None and len(names) != 1:
        raise typer.BadParameter("--revision is that of one benchmark")
    failed = 0
    for name in names:
        try:
            directory = fetch(
                name, sources[name], to or data_root(), revision=revision, force=force, progress=LineReporter()
            )
        except DataError as error:
            failed += 1
            typer.secho(str(error), fg=typer.colors.RED, err=True)
        else:
            typer.echo(f"{name}: {directory} ({sources[name].licence})")
    if failed:
        raise typer.Exit(1)


@data_app.command("list")
def list_data(to: Root = None, as_json: JsonOption = False) -> None:
    """Say where every benchmark's data comes from and whether it is there."""
    from bai_pipeline.eval_settings import benchmark_directory
    from bai_pipeline.evals.fetching import described

    rows = [
        {
            "benchmark": name,
            "repository": source.repository,
            "licence": source.licence,
            "here": described(benchmark_directory(name, to), source),
            "directory": str(benchmark_directory(name, to)),
        }
        for name, source in benchmark_sources().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = ("benchmark", "repository", "licence", "here")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def benchmark_sources() -> "dict[str, Source]":
    """Where the data of each benchmark that has any comes from, by name."""
    from bai_pipeline.evals.registry import BENCHMARKS

    return {name: benchmark.source for name, benchmark in BENCHMARKS.items() if benchmark.source is not None}

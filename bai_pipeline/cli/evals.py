"""`bai evals`: the benchmarks, and the evaluation of a checkpoint outside a study."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bai_pipeline.cli.progress import progress_to_stderr
from bai_pipeline.errors import DataError

if TYPE_CHECKING:
    from bai_pipeline.evals import Benchmark

evals_app = typer.Typer(no_args_is_help=True, help="Benchmarks, and the evaluation of a checkpoint.")

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where benchmarks are; default $BAI_DATA.")
]


@evals_app.command("list")
def evals_list(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the benchmarks: what each measures, how it asks, where its data comes from, and whether it is there."""
    from rich.console import Console
    from rich.table import Table

    from bai_pipeline.eval_settings import benchmark_directory
    from bai_pipeline.evals import BENCHMARKS

    described = [_described(benchmark, benchmark_directory(benchmark.name, data)) for benchmark in BENCHMARKS.values()]
    if as_json:
        typer.echo(json.dumps(described, indent=1))
        return
    table = Table("benchmark", "metric", "asked", "score is the mean", "data", "licence", "there")
    for entry in described:
        table.add_row(
            entry["name"],
            entry["metric"],
            entry["asked"],
            entry["aggregation"],
            entry["source"],
            entry["licence"],
            "yes" if entry["there"] else "no",
        )
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print("Not there: bai data fetch NAME, or put the files into the directory that it names.", style="dim")


@evals_app.command("run")
def evals_run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint or recipe directory.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; must not exist yet.")],
    benchmark: Annotated[list[str], typer.Option("--benchmark", "-b", help="Name, or NAME=DIR for data elsewhere.")],
    study: Annotated[str, typer.Option("--study", help="Whose settings of the evaluation are used.")] = "paper",
    engine: Annotated[Literal["embedded", "vllm"], typer.Option("--engine", help="Who answers.")] = "embedded",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Questions of each benchmark; default the study's.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="OpenAI-compatible server that has MODEL by this name."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of sampled responses.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Answers that are not asked for again; default OUT's parent."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Evaluate a checkpoint: scores with standard errors, and every response to browse."""
    from bai_pipeline.eval_settings import REGISTERED, EvalSettings, benchmark_directory
    from bai_pipeline.evals import evaluate_checkpoint
    from bai_pipeline.native import use_native_products
    from bai_pipeline.study import load_study

    if out.exists():
        raise DataError(f"{out} exists; nothing was evaluated")
    directories: dict[str, Path] = {}
    for entry in benchmark:
        name, _, place = entry.partition("=")
        if not place and name not in REGISTERED:
            known = ", ".join(sorted(REGISTERED))
            raise DataError(f"expected a benchmark of {known}, or NAME=DIR, got {entry!r}; nothing was evaluated")
        if place and not Path(place).is_dir():
            raise DataError(f"expected the data of {name} in {place}, got no such directory; nothing was evaluated")
        directories[name] = Path(place) if place else benchmark_directory(name, data)
    given: dict[str, Any] = load_study(study, require_paths=False).evals.model_dump()
    given |= {"benchmarks": tuple(directories), "engine": engine} | ({} if limit is None else {"limit": limit})
    settings = EvalSettings.model_validate(given)
    there = {name: directory for name, directory in directories.items() if directory.is_dir()}
    kept = cache or out.parent / ".bai-evals"
    kept.mkdir(parents=True, exist_ok=True)
    digest = _unfinished(server, model, out) if server else _digest(model, kept / "checkpoints.json")
    use_native_products()  # as in a job
    staged = out.parent / f".{out.name}.{os.getpid()}"
    staged.mkdir(parents=True)
    try:
        with progress_to_stderr(of_bytes=False) as report:
            metrics = evaluate_checkpoint(
                model, digest, there, staged, settings, seed, report, cache=kept, server=server
            )
        staged.rename(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    if server:
        (kept / "responses" / f"{digest}.jsonl").unlink(missing_ok=True)
    typer.echo(json.dumps(metrics, indent=1))


def _digest(model: Path, cache: Path) -> str:
    """Of a checkpoint's content, or of a recipe, which names the content of its models."""
    from hashlib import sha256

    from bai_pipeline.checkpoints import checkpoint_digest
    from bai_pipeline.merging.recipe_directory import MERGE_FILE, is_recipe_directory

    if is_recipe_directory(model):
        return sha256((model / MERGE_FILE).read_bytes()).hexdigest()[:32]
    return checkpoint_digest(model, cache)


def _unfinished(server: str, model: Path, out: Path) -> str:
    """Names what was answered for this output until it is written: another time a server may have another model."""
    from hashlib import sha256

    return "server-" + sha256(f"{server} {model} {out.resolve()}".encode()).hexdigest()[:32]


def _described(benchmark: "Benchmark", directory: Path) -> dict[str, Any]:
    from bai_pipeline.evals.data import has_split

    asking = benchmark.asking
    parts = [f"{asking.shots} shots", "chat template" if asking.chat else "plain text"]
    if benchmark.kind == "choice":
        parts.append("options by likelihood")
    else:
        way = "greedy" if asking.temperature == 0 else f"temperature {asking.temperature:g}, top-p {asking.top_p:g}"
        parts += [
            f"{asking.samples} sample{'s' * (asking.samples > 1)}, {way}",
            f"up to {asking.max_new_tokens} tokens",
        ]
    parts += [f"needs {'a judge' if need == 'judge' else 'a sandbox for code'}" for need in benchmark.needs]
    mains = ("test",) if directory.is_dir() and has_split(directory, "test") else benchmark.main_splits
    source = benchmark.source
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "kind": benchmark.kind,
        "metric": benchmark.metric,
        "asked": ", ".join(parts),
        "aggregation": benchmark.aggregation,
        "source": source.repository if source else "",
        "files": dict(source.files) if source else {},
        "licence": source.licence if source else "",
        "note": benchmark.note,
        "directory": str(directory),
        "there": directory.is_dir() and all(has_split(directory, split) for split in mains),
    }

"""`bai diagnose`: what the dynamics of a run were, from its tables or from any trainer's log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bai_pipeline.dynamics.diagnosis import Diagnosis
    from bai_pipeline.dynamics.verdicts import Verdict
    from bai_pipeline.dynamics_settings import DynamicsSettings

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE", help="A run's directory, or a log: .csv, .tsv, .parquet, .jsonl, trainer_state.json."
    ),
]
StudyOption = Annotated[
    str | None, typer.Option("--study", help="Preset or YAML file whose section `dynamics` has the thresholds.")
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="bai, plain, trl-grpo, trl-ppo, openrlhf or verl; default: told from the columns."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
FailOption = Annotated[
    list[str] | None,
    typer.Option("--fail-on", metavar="VERDICT", help="Exit with 1 if a detector says this, such as collapsed."),
]

_DEFAULTS = "Thresholds are the defaults, with length buckets of {width} tokens; --study takes a study's."


def diagnose(
    files: Files,
    study: StudyOption = None,
    log_format: FormatOption = None,
    as_json: JsonOption = False,
    fail_on: FailOption = None,
) -> None:
    """Say of each run in FILE whether its lengths collapsed, its score made a hockey stick, and what else is known.

    A log needs a step and a mean length; what else it has is used. See docs/guide/dynamics.md for the detectors.
    """
    from bai_pipeline.dynamics.diagnosis import diagnose as diagnose_run
    from bai_pipeline.dynamics.logs import read_runs

    settings = _settings(study)
    found: dict[str, Diagnosis] = {}
    for file in files:
        for label, run in read_runs(file, log_format).items():
            found[label if label not in found else f"{file}: {label}"] = diagnose_run(run, settings)
    if as_json:
        values = {label: diagnosis.to_dict() for label, diagnosis in found.items()}
        typer.echo(json.dumps(values if len(values) > 1 else next(iter(values.values())), indent=1, allow_nan=False))
    else:
        _show(found)
    if study is None:
        typer.echo(_DEFAULTS.format(width=settings.bucket_width), err=True)
    said = {verdict.verdict for diagnosis in found.values() for verdict in diagnosis.verdicts.values()}
    if said & set(fail_on or ()):
        raise typer.Exit(1)


def _settings(study: str | None) -> "DynamicsSettings":
    from bai_pipeline.dynamics_settings import DynamicsSettings
    from bai_pipeline.study import load_study

    return DynamicsSettings() if study is None else load_study(study, require_paths=False).dynamics


def _show(found: "dict[str, Diagnosis]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    for label, diagnosis in found.items():
        table = Table("detector", "verdict", "confidence", "reason", title=escape(label), title_justify="left")
        for name, verdict in diagnosis.verdicts.items():
            confidence = "" if verdict.confidence is None else f"{min(verdict.confidence, 0.999):.3f}"
            table.add_row(name, f"[{_colour(verdict)}]{verdict.verdict}[/]", confidence, escape(verdict.reason))
        console.print(table)


def _colour(verdict: "Verdict") -> str:
    from bai_pipeline.dynamics.diagnosis import IN_ORDER

    return "dim" if not verdict.determined else "green" if verdict.verdict in IN_ORDER else "yellow"

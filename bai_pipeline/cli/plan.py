"""`bai plan`: what a study will need, before it is run."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from bai_pipeline.deepspeed_file import read_deepspeed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bai_pipeline.sizing.fit import Fit
    from bai_pipeline.sizing.footprint import Footprint
    from bai_pipeline.sizing.ppo_memory import Models
    from bai_pipeline.sizing.shape import Head, ModelShape
    from bai_pipeline.study import Study

Json = dict[str, Any]

MIB: Final = 1 << 20
GIB: Final = 1 << 30

StudyArgument = Annotated[str | None, typer.Argument(help="Preset or YAML file; default BAI_STUDY, else micro.")]
Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="Of a node, one rank each; 0: on CPUs.")]
GpuMemory = Annotated[str, typer.Option("--gpu-memory", metavar="SIZE", help="Of one GPU.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1)]
Ranks = Annotated[int, typer.Option("--ranks", min=1, help="Processes of a node, where there are no GPUs.")]
ZeroStage = Annotated[int | None, typer.Option("--zero-stage", min=0, max=3, help="Default: 3 on GPUs, 1 on CPUs.")]
Offload = Annotated[
    Literal["none", "optimizer", "all"], typer.Option("--offload", help="To the host; all: parameters too.")
]
DeepSpeed = Annotated[Path | None, typer.Option("--deepspeed", metavar="FILE", help="DeepSpeed's JSON.")]
Precision = Annotated[
    Literal["float32", "bfloat16"] | None, typer.Option("--dtype", help="Of training; default: the study's.")
]
MicroBatch = Annotated[
    int | None, typer.Option("--micro-batch", min=1, help="Responses a rank reads at once; default: 1 on GPUs.")
]
Checkpointing = Annotated[
    bool | None, typer.Option("--activation-checkpointing/--no-activation-checkpointing", help="Default: on GPUs.")
]
Frozen = Annotated[Literal["plain", "zero3"], typer.Option("--frozen", help="The reference: whole, or spread.")]
TensorParallel = Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs that share a copy for rollouts.")]
Asleep = Annotated[bool, typer.Option("--rollouts-asleep", help="vLLM gives its memory back during training.")]
RewardOn = Annotated[Literal["host", "gpu"], typer.Option("--reward-on", help="Where the reward model scores.")]
KvCache = Annotated[str | None, typer.Option("--kv-cache", metavar="SIZE", help="Of a GPU; default: what is left.")]
Throughput = Annotated[
    float | None,
    typer.Option("--throughput", min=1e-3, help="Tokens a second of all GPUs, in rollouts and in training alike."),
]
RolloutThroughput = Annotated[float | None, typer.Option("--rollout-throughput", min=1e-3, help="Of rollouts.")]
TrainingThroughput = Annotated[float | None, typer.Option("--training-throughput", min=1e-3, help="Of training.")]
ResponseTokens = Annotated[
    int | None, typer.Option("--response-tokens", min=1, help="Mean length of a response; default: the longest.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output, in bytes and seconds.")]


def plan(
    study: StudyArgument = None,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = "80GiB",
    nodes: Nodes = 1,
    ranks: Ranks = 1,
    zero_stage: ZeroStage = None,
    offload: Offload = "none",
    deepspeed: DeepSpeed = None,
    dtype: Precision = None,
    micro_batch: MicroBatch = None,
    activation_checkpointing: Checkpointing = None,
    frozen: Frozen = "plain",
    tensor_parallel: TensorParallel = 1,
    rollouts_asleep: Asleep = False,
    reward_on: RewardOn = "host",
    kv_cache: KvCache = None,
    throughput: Throughput = None,
    rollout_throughput: RolloutThroughput = None,
    training_throughput: TrainingThroughput = None,
    response_tokens: ResponseTokens = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a study's PPO will need: parameters, memory, disk and, at a throughput, days.

    Checkpoints need not be there yet: their shape is then that of the study's `model`. What is counted, and how far it
    can be trusted, is in docs/guide/sizing.md.
    """
    from bai_pipeline.cli.merge import parse_size
    from bai_pipeline.sizing.fit import fit, offloading, remedies
    from bai_pipeline.sizing.ppo_memory import Layout, process_memory
    from bai_pipeline.sizing.study_models import models_of
    from bai_pipeline.sizing.sweep import disk_of, duration_of
    from bai_pipeline.study import load_study

    loaded = load_study(study, require_paths=False)
    settings = loaded.ppo.model_copy(update={"precision": dtype} if dtype else {})
    loaded = loaded.model_copy(update={"ppo": settings})
    if gpus is None:
        gpus = 8 if settings.rollout_engine == "vllm" else 0
    config = {} if deepspeed is None else read_deepspeed(deepspeed)
    if offload != "none":
        config = offloading(config, "offload_optimizer")
    if offload == "all":
        config = offloading(config, "offload_param")
    layout = Layout(
        ranks=(gpus or ranks) * nodes,
        ranks_per_host=gpus or ranks,
        zero_stage=_stage(zero_stage, on_gpu=gpus > 0),
        deepspeed=config,
        micro_batch_size=micro_batch or (1 if gpus else None),
        activation_checkpointing=gpus > 0 if activation_checkpointing is None else activation_checkpointing,
        frozen=frozen,
        tensor_parallel=tensor_parallel,
        rollouts_asleep=rollouts_asleep,
        reward_on_host=reward_on == "host",
        rollout_cache_bytes=None if kv_cache is None else parse_size(kv_cache),
    )
    found = models_of(loaded, _vocabulary(loaded))
    models, notes, found_fit = found.models, list(found.notes), None
    if gpus:
        found_fit = fit(models, settings, layout, parse_size(gpu_memory))
        footprint = found_fit.footprint
        notes += _remarks(found_fit, remedies(models, settings, layout, parse_size(gpu_memory)))
    else:
        footprint = process_memory(models, settings, layout)
    result: Json = {
        "study": loaded.name,
        "models": _models(models, found.sources),
        "layout": {**asdict(layout), "precision": settings.precision, "nodes": nodes},
        "gpu": found_fit and {**_memory(footprint.place(on_host=False)), **_fit(found_fit)},
        "host": _host(footprint.place(on_host=True), layout.ranks_per_host),
        "disk": asdict(disk_of(loaded, models, settings, layout.zero_stage)),
        "time": None,
        "notes": notes,
    }
    rollout, training = rollout_throughput or throughput, training_throughput or throughput
    if (rollout is None) != (training is None):
        raise typer.BadParameter("give --throughput, or both --rollout-throughput and --training-throughput")
    if rollout is not None and training is not None:
        tokens = response_tokens or settings.max_new_tokens
        result["time"] = asdict(
            duration_of(loaded, settings, rollout=rollout, training=training, response_tokens=tokens, gpus=gpus * nodes)
        )
    if as_json:
        typer.echo(json.dumps(result, indent=1, allow_nan=False))
    else:
        _show(result)


def _vocabulary(study: "Study") -> int:
    """Rows of the embedding where no config.json says it: the embedded tokenizer's, or OLMoE's."""
    from bai_pipeline.sizing.shape import OLMOE_VOCABULARY

    if study.base.train is None:
        return OLMOE_VOCABULARY
    from bai_pipeline.synthetic.tokenizer import VOCABULARY

    return len(VOCABULARY)


def _stage(asked: int | None, *, on_gpu: bool) -> Literal[0, 1, 2, 3]:
    stages: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
    return stages[asked if asked is not None else 3 if on_gpu else 1]


def _models(models: "Models", sources: dict[str, str]) -> Json:
    """Parameters of each model; the critic and the reward model have a score head."""
    named: dict[str, tuple[ModelShape, Head]] = {
        "actor": (models.actor, "language"),
        "critic": (models.critic, "score"),
    }
    if models.reward is not None:
        named["reward model"] = (models.reward, "score")
    return {
        name: {
            "parameters": shape.parameters(head),
            "active": shape.active_parameters(head),
            "source": sources[name],
        }
        for name, (shape, head) in named.items()
    }


def _memory(footprint: "Footprint") -> Json:
    from bai_pipeline.sizing.footprint import Phase

    totals = {phase.value: footprint.at(phase) for phase in Phase}
    return {"items": dict(footprint.breakdown()), "totals": totals, "peak": footprint.peak}


def _host(footprint: "Footprint", ranks: int) -> Json:
    return {**_memory(footprint), "ranks_of_a_node": ranks, "peak_of_a_node": footprint.peak * ranks}


def _fit(found: "Fit") -> Json:
    return {
        "usable": found.usable,
        "fits": found.fits,
        "kv_cache": found.cache,
        "responses_at_once": found.responses_at_once,
    }


def _remarks(found: "Fit", options: list[str]) -> list[str]:
    """Whether it fits, in words."""
    usable = f"{found.usable / GIB:.1f} GiB (90% of the GPU)"
    cache, responses = f"{found.cache / GIB:.1f}", f"{found.responses_at_once:.1f} responses of full length"
    if found.fits:
        return [f"fits: of {usable} the KV cache can have {cache}, which hold {responses} at a time"]
    if found.peak > found.usable:
        phase = found.footprint.place(on_host=False).peak_phase
        text = f"does not fit: {found.peak / GIB:.1f} GiB in {phase.value!r}, of {usable}"
    else:
        text = f"does not fit: of {usable} the KV cache can have {cache}, which hold {responses}"
    return [text, *(f"fits with {option}" for option in options)]


def _show(result: Json) -> None:
    """Tables for people."""
    models = [(name, f"{m['parameters']:,}", f"{m['active']:,}", m["source"]) for name, m in result["models"].items()]
    _table("", ("model", "parameters", "active per token", "shape from"), models)
    layout, gpu, host, disk = (result[part] for part in ("layout", "gpu", "host", "disk"))
    ranks = f"{layout['ranks']} rank" + "s" * (layout["ranks"] > 1)
    how = f"ZeRO {layout['zero_stage']}, {layout['precision']}, {ranks}"
    if gpu:
        _memory_table(f"of a GPU ({how})", gpu)
    _memory_table("of the host, for each rank of a node" if gpu else f"of a process ({how})", host)
    rows = {
        f"host memory of a node (ranks: {host['ranks_of_a_node']})": host["peak_of_a_node"],
        "disk: a training state (actor, critic, optimizers)": disk["training_state"],
        "disk: actor and critic, kept after a step": disk["kept_models"],
        "disk: a run, at most": disk["run"],
        "disk: Stage 1 merge and written actors": disk["merged"],
        f"disk: the study, {disk['runs']} runs": disk["sweep"],
    }
    unit, scale = _unit(max(rows.values()))
    _table("", ("", unit), [(name, f"{value / scale:,.1f}") for name, value in rows.items()])
    if time := result["time"]:
        duration = [
            ("seconds a step", f"{time['step_seconds']:,.0f}"),
            ("steps a day", f"{time['steps_per_day']:,.1f}"),
            ("days a run", f"{time['run_days']:,.1f}"),
            (f"days of {disk['runs']} runs, one after another", f"{time['sweep_days']:,.1f}"),
        ]
        _table("", ("time", ""), duration + ([("GPU hours", f"{time['gpu_hours']:,.0f}")] if gpu else []))
    for note in result["notes"]:
        typer.echo(note)


def _memory_table(title: str, memory: Json) -> None:
    """Items by phase, without the phases in which there is nothing."""
    phases = [phase for phase, total in memory["totals"].items() if total]
    if not phases:
        return
    unit, scale = _unit(memory["peak"])
    rows = [
        (name, *(f"{row[phase] / scale:,.1f}" if phase in row else "" for phase in phases))
        for name, row in [*memory["items"].items(), ("total", memory["totals"])]
    ]
    _table(f"{unit} {title}", ("", *phases), rows)


def _unit(largest: float) -> tuple[str, int]:
    return ("GiB", GIB) if largest >= GIB else ("MiB", MIB)


def _table(title: str, columns: tuple[str, ...], rows: "Iterable[tuple[str, ...]]") -> None:
    """Where nobody watches no width is given: a pipe cuts no column."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number and column != "shape from" else "left")
    for row in rows:
        table.add_row(*map(escape, row), end_section=row[0] == "total")
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)

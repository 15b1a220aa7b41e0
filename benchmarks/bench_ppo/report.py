"""The Markdown page of a record; every number in it is computed from the record's raw ones."""

from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from benchmarks.bench_merge.report import table
from benchmarks.bench_ppo.contestants import OURS, OURS_BY_TORCH, SAMPLERS, TRL_VARIANTS
from benchmarks.bench_ppo.parts import SCENARIOS
from benchmarks.bench_ppo.summary import Summary, phase_seconds, rate, ratios

DIFFERENCES: Final = """\
- Same weights, prompts, response lengths or end-token probability, rollout batch, mini-batches, epochs, number of
  optimizer updates, learning rates, reference model with KL penalty, reward model and value model; float32, one thread.
- Sampled tokens differ: each trainer has its own random numbers, and seeds differ by round.
- TRL sums both losses, goes backward once and steps one fused AdamW without clipping gradients; ours goes backward and
  clips for actor and critic apart, each in a DeepSpeed engine (ZeRO 1).
- TRL's reward model reads the sampled tokens; ours reads text, so responses are decoded and encoded again.
- TRL samples until the last response of the batch has ended, and scores and trains on rows padded to that length; ours
  drops finished rows from the sampling batch and trims what it scores and trains on.
- torch's products of float32 matrices are MKL's, which uses AVX-512 on Intel's CPUs alone. On AMD's with AVX-512 our
  jobs have native code for them; "products by torch" is our PPO without it, as it is everywhere else.
- Both compute their metrics; neither writes metrics, checkpoints or sample completions here.
"""
COLUMNS: Final = (
    "trainer",
    "samples / CPU s",
    "samples / s",
    "tokens / CPU s",
    "tokens a response",
    "peak RSS, MB",
    "times TRL, CPU",
    "round by round",
    "times TRL, wall",
)
NONE: Final = "–"


def markdown(record: Mapping[str, Any]) -> str:
    """The whole page."""
    machine, settings, versions = record["machine"], record["settings"], record["versions"]
    batch = settings["batch_size"]
    circumstances = (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory'] / 2**30:.0f} GiB, {machine['system']}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}. "
        "OLMoE of 1.9 million parameters (4 layers, d 128, 8 experts top-2, vocabulary 256), "
        f"{batch} prompts of {settings['prompt_tokens']} tokens a step, at most {settings['new_tokens']} new tokens, "
        f"mini-batches of {settings['mini_batch_size']}. "
        f"A process each, in turns, {settings['repeats']} rounds; {settings['warmup']} step of warm-up, then "
        f"{settings['steps']} steps counted; medians of the rounds. CPU is that of all threads of the process during "
        "these steps; peak memory is the whole process's."
    )
    lines = [
        "# PPO: ours and TRL's",
        "",
        f"{record['date']}, commit {record['commit']}; `{record['command']}`",
        "",
        circumstances,
    ]
    if "train" in record:
        lines += ["", *targets(record["train"], batch)]
        for scenario, runs in record["train"].items():
            lines += ["", *training(scenario, runs, record["trl"][scenario], batch)]
    for scenario, sampled in record.get("sampling", {}).items():
        lines += ["", *sampling(scenario, sampled, batch)]
    if record.get("ranks"):
        lines += ["", *ranks(record["ranks"], batch)]
    if "pilot" in record:
        lines += ["", *pilot(record["pilot"], batch)]
    lines += ["", "## What is the same and what differs", "", *DIFFERENCES.splitlines()]
    if record["notes"]:
        lines += ["", "## Not measured", "", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def heading(scenario: str) -> str:
    title, probability, _ = SCENARIOS[scenario]
    return f"{title} (end token 1 in {1 / probability:.0f})" if probability else f"{title} (no end token)"


def targets(part: Mapping[str, Any], batch: int) -> list[str]:
    """What was aimed at and what was reached."""
    rows = []
    for scenario, runs in part.items():
        aim = SCENARIOS[scenario][2]
        reached = median(ratios(runs["ours"], runs["trl"], batch, "cpu"))
        met = NONE if aim is None else "yes" if reached >= aim else "no"
        rows.append([heading(scenario), f"{aim:.1f}" if aim else NONE, f"{reached:.2f}", met])
    return table(("ours / TRL, samples per CPU second", "target", "measured", "met"), rows)


def training(scenario: str, runs: Mapping[str, Any], variant: str, batch: int) -> list[str]:
    """Ours and TRL's, and where their time goes."""
    titles = {"ours": OURS.title, "ours by torch": OURS_BY_TORCH.title, "trl": TRL_VARIANTS[variant].title}
    rows = []
    for name, one in runs.items():
        by_round = ratios(one, runs["trl"], batch, "cpu")
        by_wall = median(ratios(one, runs["trl"], batch, "wall"))
        compared = [f"{median(by_round):.2f}", f"{min(by_round):.2f}–{max(by_round):.2f}", f"{by_wall:.2f}"]
        rows.append([titles[name], *numbers(Summary.of(one, batch)), *compared])
    phases = {titles[name]: phase_seconds(one) for name, one in runs.items()}
    names = list(dict.fromkeys(name for found in phases.values() for name in found))
    shares = [
        [title, *(f"{found[name]:.2f}" if name in found else NONE for name in names), f"{sum(found.values()):.2f}"]
        for title, found in phases.items()
    ]
    return [
        f"## Training, {heading(scenario)}",
        "",
        *table(COLUMNS, rows),
        "",
        "CPU seconds a step; TRL's `estimate` includes its scoring:",
        "",
        *table(("trainer", *names, "all"), shares),
    ]


def numbers(own: Summary) -> list[str]:
    return [
        f"{own.samples_per_cpu:.2f}",
        f"{own.samples_per_wall:.2f}",
        f"{own.tokens_per_cpu:.0f}",
        f"{own.mean_length:.1f}",
        f"{own.peak_rss / 1e6:.0f}",
    ]


def sampling(scenario: str, runs: Mapping[str, Any], batch: int) -> list[str]:
    """Every sampler, against the fastest `generate`."""
    found = {name: Summary.of(one, batch) for name, one in runs.items()}
    best = max(own.samples_per_cpu for name, own in found.items() if name.startswith("generate"))
    titles = {**{name: one.title for name, one in SAMPLERS.items()}, "vllm": "vLLM on the CPU"}
    rows = [[titles[name], *numbers(own), f"{own.samples_per_cpu / best:.2f}"] for name, own in found.items()]
    return [
        f"## Sampling alone, {heading(scenario)}",
        "",
        *table(("sampler", *COLUMNS[1:6], "CPU, times the faster generate"), rows),
    ]


def ranks(part: Mapping[str, Any], batch: int) -> list[str]:
    """The same work by one process and by several."""
    found = {count: Summary.of(runs, batch) for count, runs in part["runs"].items()}
    one = found["1"]
    rows = []
    for count, own in found.items():
        times = (own.samples_per_cpu / one.samples_per_cpu, own.samples_per_wall / one.samples_per_wall)
        rows.append([count, *numbers(own), *(f"{value:.2f}" for value in times)])
    note = "Started by torchrun, one thread a rank; CPU seconds of all ranks, wall seconds of the slowest, memory of "
    return [
        f"## Our PPO by ranks, {heading(part['scenario'])}",
        "",
        note + "the largest process.",
        "",
        *table(("ranks", *COLUMNS[1:6], "times one rank, CPU", "times one rank, wall"), rows),
    ]


def pilot(part: Mapping[str, Any], batch: int) -> list[str]:
    """TRL's settings, a few counted steps each."""
    names = list(dict.fromkeys(name for runs in part.values() for name in runs))
    rows = [[name, *(f"{rate(part[scenario][name], batch, 'cpu'):.2f}" for scenario in part)] for name in names]
    titles = ("samples / CPU s", *(SCENARIOS[scenario][0] for scenario in part))
    return ["## Pilot: TRL's settings, a few steps each; the fastest is measured above", "", *table(titles, rows)]

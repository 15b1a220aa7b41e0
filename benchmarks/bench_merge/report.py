"""The Markdown tables of a record; every number in them is computed from the record's raw ones."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.bench_merge.contestants import BACKENDS, TITLES
from benchmarks.bench_merge.measurement import Cost, Median
from benchmarks.bench_merge.parts import ALPHAS

COLUMNS = (
    "contestant",
    "wall, s",
    "CPU, s",
    "peak RSS, MB",
    "CPU − floor, s",
    "wall / floor",
    "CPU / floor",
    "mergekit / this, wall",
    "mergekit / this, CPU",
)
NONE = "–"


def markdown(record: Mapping[str, Any]) -> str:
    """The whole page."""
    machine, settings = record["machine"], record["settings"]
    circumstances = (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory'] / 2**30:.0f} GiB, {machine['system']}; "
        f"inputs on {settings['work_file_system']}, outputs on {settings['out_file_system']}. "
        "Whole processes, start-up included, in turns; medians; CPU is user + system."
    )
    lines = [
        f"# Merging three checkpoints of {record['bytes'] / 1e9:.2f} GB",
        "",
        f"{record['date']}, commit {record['commit']}; `{record['command']}`",
        "",
        circumstances,
    ]
    if "warm" in record:
        title = f"Inputs in the page cache, {settings['repeats']} runs each"
        lines += ["", f"## {title}", "", *merges(record["warm"])]
    if "cold" in record:
        title = f"Inputs on the disk only, {settings['cold_repeats']} runs each"
        lines += ["", f"## {title}", "", *merges(record["cold"])]
    if "alphas" in record:
        lines += ["", *alphas(record["alphas"])]
    if record.get("rss"):
        lines += ["", *rss(record["rss"])]
    if "load" in record:
        lines += ["", *load(record["load"])]
    if record.get("checks"):
        lines += ["", *checks(record["checks"])]
    if record["notes"]:
        lines += ["", "## Not measured", "", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def merges(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """One row a contestant."""
    medians = {name: Median.of([Cost(**one) for one in costs]) for name, costs in runs.items()}
    floor, peer = medians.get("floor"), medians.get("mergekit")
    rows = []
    for name, own in medians.items():
        row = [TITLES[name], f"{own.wall:.2f}", f"{own.cpu:.2f}", f"{own.peak_rss / 1e6:.0f}"]
        row += [f"{own.cpu - floor.cpu:.2f}" if floor else NONE]
        row += [f"{own.wall / floor.wall:.2f}", f"{own.cpu / floor.cpu:.2f}"] if floor else [NONE] * 2
        row += [f"{peer.wall / own.wall:.1f}", f"{peer.cpu / own.cpu:.1f}"] if peer else [NONE] * 2
        rows.append(row)
    return table(COLUMNS, rows)


def alphas(part: Mapping[str, Any]) -> list[str]:
    """Nine in one pass against nine merges; the writes are those of programs/floor.py without inputs."""
    runs = {name: Median.of([Cost(**one) for one in costs]) for name, costs in part["runs"].items()}
    write_nine, write_one = median(part["write_cpu"]["nine"]), median(part["write_cpu"]["one"])
    rows = []
    for backend in (backend for backend in BACKENDS if f"{backend} nine" in runs):
        one_pass, singles = runs[f"{backend} nine"], [runs[f"{backend} {alpha}"] for alpha in ALPHAS]
        cpu = sum(one.cpu for one in singles)
        rest, rest_one_pass = cpu - len(ALPHAS) * write_one, one_pass.cpu - write_nine
        wall = sum(one.wall for one in singles)
        row = [f"{value:.2f}" for value in (cpu, one_pass.cpu, rest, rest_one_pass)]
        row += [f"{rest / rest_one_pass:.2f}" if rest_one_pass > 0 else NONE]
        row += [f"{wall:.2f}", f"{one_pass.wall:.2f}", f"{one_pass.peak_rss / 1e6:.0f}"]
        rows.append([TITLES[backend], *row])
    titles = (
        "contestant",
        "nine merges, CPU s",
        "one pass, CPU s",
        "nine merges, writes excluded",
        "one pass, writes excluded",
        "ratio",
        "nine merges, wall s",
        "one pass, wall s",
        "one pass, peak RSS MB",
    )
    note = (
        "Writes excluded: less the CPU of a program that writes files of the same sizes, and does nothing else, in the "
        f"same chunks, from two threads, to the same place: {write_one:.2f} s for one checkpoint (nine times that for "
        f"nine merges), {write_nine:.2f} s for nine, each chunk to all of them. Nine merges start nine times, one once."
    )
    return [f"## Nine alphas, {part['bytes'] / 1e9:.2f} GB each", "", *table(titles, rows), "", note]


def rss(part: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [[TITLES[e["backend"]], f"{e['bytes'] / 1e9:.2f}", f"{e['peak_rss'] / 1e6:.0f}"] for e in part]
    return ["## Peak memory by size", "", *table(("contestant", "checkpoint, GB", "peak RSS, MB"), rows)]


def load(part: Mapping[str, Any]) -> list[str]:
    """Merge-on-load against loading the file, and against writing the file first."""
    seconds = {
        kind: [median(one[name] for one in runs) for name in ("loaded", "touched")]
        for kind, runs in part["runs"].items()
    }
    written, recipe, merge = seconds["written"], seconds["recipe"], part["writing"]["wall"]
    rows = [
        ["written checkpoint", *(f"{value:.2f}" for value in written), "1.00"],
        ["recipe, merged on load", *(f"{value:.2f}" for value in recipe), f"{recipe[1] / written[1]:.2f}"],
        ["merge, then load what it wrote", *(f"{merge + value:.2f}" for value in written), NONE],
    ]
    titles = ("loading of", "until loaded, s", "until every value was read, s", "ratio of the latter")
    return ["## Loading", "", "Page cache warm, imports not counted, a process each.", "", *table(titles, rows)]


def checks(part: Mapping[str, Any]) -> list[str]:
    lines = ["## Outputs", ""]
    if "backends_equal" in part:
        lines += [f"All backends wrote the same bytes: {'yes' if part['backends_equal'] else 'NO'}.", ""]
    titles = {"ours": "bai merge", **TITLES}
    rows = [
        [titles[name], *(f"{100 * e[key]:.4g} %" for key in ("equal_to_ours", "within_rounding", "nearest"))]
        for name, e in part.get("closeness", {}).items()
    ]
    columns = ("values of", "equal to ours", "within bf16 rounding of ours", "nearest to the float64 sum")
    note = "Within bf16 rounding: no further from ours than 2⁻⁷ Σ wᵢ|xᵢ|."
    return [*lines, *table(columns, rows), "", note] if rows else lines


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; numbers stand to the right."""
    cells = ["---", *["---:"] * (len(titles) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (titles, cells, *rows)]

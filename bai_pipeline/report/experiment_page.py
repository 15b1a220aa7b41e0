"""The page of the small-scale experiment: statuses first, then the rules, then each setting."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from bai_pipeline.report.blocks import Block, Cell, Column, Details, Hole, Items, Links, Page, Section, Table, Text
from bai_pipeline.report.chain_tables import CRITIC, announcements, effect_table, verdict_table
from bai_pipeline.report.claims import CLAIMS, FINDINGS, Claim
from bai_pipeline.report.contrasts import Setting
from bai_pipeline.report.experiment_words import ANNOUNCED, CONFOUNDED, OWN, POOLED, READING, RULES
from bai_pipeline.report.judgements import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, Judgement
from bai_pipeline.report.run_numbers import QUANTITIES, incomplete_runs
from bai_pipeline.report.setting_results import RUN, SettingResults
from bai_pipeline.report.statements import short_starts
from bai_pipeline.report.summary import summarize

COMMAND = "make study"
SHOWN = 20
"""Missing parts of a chain that are named; missing.txt has all of them."""


def experiment_page(
    settings: Mapping[str, SettingResults],
    numbers: Mapping[str, Setting],
    judgements: Sequence[Judgement],
    figures: Mapping[str, Sequence[Block]],
) -> Page:
    """The whole page; `numbers` and `figures` have an entry per setting."""
    sections = [
        Section("What the experiment shows", list(_claims(settings, judgements))),
        Section("Findings of our own", list(_findings(settings, numbers, judgements))),
        Section("How a status is decided", [Items(RULES), *_criteria()]),
    ]
    for name, results in settings.items():
        mine = [judgement for judgement in judgements if judgement.setting == name]
        sections.append(Section(f"Setting {name}", list(_setting(results, numbers[name], mine, figures[name]))))
    again = f"`{COMMAND}` runs what is not yet run, and writes this directory anew from all that is."
    return Page("The small-scale experiment", [*sections, Section("Run it again", [Text(again)])])


def _claims(settings: Mapping[str, SettingResults], judgements: Sequence[Judgement]) -> Iterator[Block]:
    yield _status_table("Claims of the paper by setting", CLAIMS, settings, judgements)
    found = [judgement.status for judgement in judgements if judgement.claim.of_paper]
    counts = ", ".join(f"{found.count(word)} {word}" for word in (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE))
    yield Text(f"{len(CLAIMS)} claims in {len(settings)} settings: {counts}.")
    yield from map(Text, READING)
    yield Text("Every effect and interval: [claims.csv](claims.csv).")


def _findings(
    settings: Mapping[str, SettingResults], numbers: Mapping[str, Setting], judgements: Sequence[Judgement]
) -> Iterator[Block]:
    """What the project's prototype found, labelled as such."""
    yield Text(OWN)
    yield _status_table("Own findings by setting", FINDINGS, settings, judgements)
    tables = {name: announcements(setting.numbers) for name, setting in numbers.items()}
    rows = [[name, *row] for name, table in tables.items() for row in table.itertuples(index=False)]
    if not rows:
        yield Hole("Critic offset and length", f"No setting has both lengths and verdicts of {CRITIC}")
        return
    columns = ["setting", f"{CRITIC} in the first steps", "runs that then became shorter", "longer"]
    yield _plain("Critic offset and length", pd.DataFrame(rows, columns=columns))
    yield Text(ANNOUNCED)


def _status_table(
    caption: str, claims: Sequence[Claim], settings: Mapping[str, SettingResults], judgements: Sequence[Judgement]
) -> Table:
    found = {(judgement.claim.id, judgement.setting): judgement for judgement in judgements}
    rows = [
        [Cell(f"{claim.id}: {claim.statement}"), *(_status_cell(found.get((claim.id, name))) for name in settings)]
        for claim in claims
    ]
    return Table(caption, [Column("claim", prose=True), *(Column(name, prose=True) for name in settings)], rows)


def _status_cell(judgement: Judgement | None) -> Cell:
    """ "**reproduced**, 0.58 [0.45, 0.74]": the status, and beside it the criteria's effects."""
    if judgement is None:
        return Cell("not about this setting")
    text = f"**{judgement.status}**" + (f" ({judgement.reason})" if judgement.reason else "")
    effects = [m.numbers for m in judgement.measured if m.interval.chains]
    return Cell(f"{text}, {'; '.join(effects)}" if effects else text)


def _criteria() -> Iterator[Block]:
    """What was tested: of every claim, and what the quantities are."""
    columns = [Column("claim"), Column("where", prose=True), Column("criteria", prose=True), Column("premise")]
    for caption, claims in (("Claims of the paper", CLAIMS), ("Own findings", FINDINGS)):
        rows = []
        for claim in claims:
            tests = [f"{c.effect.words()}: {c.side} {c.threshold:g}{' (alone)' * c.alone}" for c in claim.criteria]
            text = "; ".join(tests) or f"none: {claim.untestable}"
            rows.append([Cell(claim.id), Cell(claim.where), Cell(text), Cell(claim.premise or "–")])
        yield Text(f"{caption}:")
        yield Table(caption, columns, rows)
    yield Text("Quantities of a run. A factor is computed as a logarithm and shown, like its threshold, without it:")
    lines = [{"quantity": q.words, "equation": q.equation, "unit": q.unit} for q in QUANTITIES.values()]
    yield _plain("Quantities", pd.DataFrame(lines))


def _setting(
    results: SettingResults, setting: Setting, judgements: Sequence[Judgement], figures: Sequence[Block]
) -> Iterator[Block]:
    yield Text(results.description)
    yield Items(list(_design(results)))
    yield from _missing(results)
    if setting.numbers.empty:
        yield Hole("Results", "Nothing of this setting was run to its end")
        return
    yield Text("What became of each claim:")
    yield Items([f"{j.claim.id}{'' if j.claim.of_paper else ' (own)'}: {j.sentence}" for j in judgements])
    yield Text("Means over chains with 95 % intervals; changes are taken run by run. Dashes: not recorded.")
    yield _plain("Effects by init", effect_table(setting.numbers))
    verdicts = verdict_table(setting.numbers)
    if verdicts.empty:
        yield Hole("Verdicts of the detectors", "No run was diagnosed")
    else:
        yield Text("Verdicts of the detectors, in numbers of runs:")
        yield _plain("Verdicts", verdicts)
    yield Section("What is confounded", [Items(list(_confounded(results)))])
    yield Section("Figures", [Text(POOLED), *figures])
    yield Links([(f"{name}.csv", f"{results.study}/{name}.csv") for name in ("curves", "runs", "verdicts", "scores")])


def _design(results: SettingResults) -> Iterator[str]:
    yield f"Chains {_list(results.chains)}, PPO seeds {_list(results.seeds)} of each. BAI is {results.headline}."
    if results.runs.empty:
        return
    steps = results.runs.groupby(RUN).size()
    counts = steps.groupby("chain").size()
    runs = ", ".join(f"{counts.get(chain, 0)} of chain {chain}" for chain in results.chains)
    yield f"Runs: {runs}. Steps: {steps.max()}{', but for the runs named below' if incomplete_runs(results) else ''}."
    if results.versions:
        versions = ", ".join(f"{kind} {version}" for kind, version in sorted(results.versions.items()))
        yield f"Computed by jobs of the versions {versions}. Where `{COMMAND}` has another version, it runs them again."


def _missing(results: SettingResults) -> Iterator[Block]:
    """What was not run, chain by chain."""
    short = incomplete_runs(results)
    if short:
        yield Details("Runs that were not finished, and count for nothing", [Items(short)])
    if not results.missing:
        return
    chains: dict[str, list[str]] = {}
    for line in results.missing:
        chain, _, part = line.partition(": ")
        chains.setdefault(chain, []).append(part or line)
    items = []
    for chain, parts in chains.items():
        more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        items.append(f"{chain}, {len(parts)}: {', '.join(parts[:SHOWN])}{more}")
    yield Details("What was not run", [Items(items), Links([("missing.txt", f"{results.study}/missing.txt")])])


def _confounded(results: SettingResults) -> Iterator[str]:
    yield from CONFOUNDED.get(results.study, ())
    yield from CONFOUNDED[""]
    if {"score_mean", "length_mean"} <= set(results.runs.columns):
        yield short_starts(summarize(results.pooled(results.runs)))


def _plain(caption: str, frame: pd.DataFrame) -> Table:
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    columns = [Column(str(name), number) for name, number in zip(frame.columns, numeric, strict=True)]
    return Table(caption, columns, [[Cell(str(value)) for value in row] for row in frame.itertuples(index=False)])


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))

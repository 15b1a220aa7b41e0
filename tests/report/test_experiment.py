import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from bai_pipeline.errors import DataError
from bai_pipeline.report.claims import CLAIMS, FINDINGS
from bai_pipeline.report.experiment import KEPT, SettingResults, write_experiment

INITS = ("paradigm_1", "paradigm_3", "alpha 0.1", "alpha 0.5")
STEPS = 5
TABLES = ("runs", "responses", "prefixes", "verdicts", "scores")


def results(
    study: str = "micro", chains: Sequence[int] = (0, 1, 2), inits: Sequence[str] = INITS, missing: Sequence[str] = ()
) -> SettingResults:
    """Paradigm 3 falls from 60 tokens to 30, everything else rises from 20 to 24; two PPO seeds."""
    runs, responses, prefixes, verdicts, scores = [], [], [], [], []
    for chain in chains:
        for model in ("reasoning_sft", *inits):
            for seed in (-1,) if model == "reasoning_sft" else (0, 1):
                scores += [{"chain": chain, "model": model, "seed": seed, "benchmark": b, "score": 0.5} for b in "ab"]
        for init in inits:
            for seed in (0, 1):
                run = {"chain": chain, "init": init, "seed": seed}
                start, end = (60.0, 30.0) if init == "paradigm_3" else (20.0, 24.0)
                verdict = "collapsed" if init == "paradigm_3" else "healthy"
                verdicts.append(run | {"detector": "length_collapse", "verdict": verdict, "confidence": 0.987654321})
                offset = "underestimates_long_prefixes" if init == "paradigm_3" else "calibrated"
                verdicts.append(run | {"detector": "critic_offset", "verdict": offset, "confidence": 0.9})
                for step, length in enumerate(np.linspace(start, end, STEPS)):
                    row = run | {"step": step}
                    length *= 1 + 0.01 * chain * step / STEPS
                    runs.append(row | metrics(step) | {"length_mean": length})
                    responses += [
                        row | {"length": int(length) + k, "score": 0.1 * k + 0.05 * step} for k in range(-8, 8)
                    ]
                    prefixes.append(row | {"prefix": 0, "tokens": 100, "value_error": 0.1 * step - 0.1 * seed})
    tables: dict[str, Any] = dict(
        zip(TABLES, map(pd.DataFrame, (runs, responses, prefixes, verdicts, scores)), strict=True)
    )
    return SettingResults(
        study=study,
        description="What the setting is.",
        headline_alpha="0.5",
        bucket_width=20,
        chains=tuple(chains),
        seeds=(0, 1),
        missing=tuple(missing),
        versions={"ppo": "7", "evaluate": "2"},
        **tables,
    )


def metrics(step: int) -> dict[str, float]:
    values = {"score_mean": 0.1 * step, "score_std": 1.0, "accuracy": 0.5, "entropy": 0.1, "truncated_share": 0.0}
    return values | {"kl_train_sample": 0.001}


def nothing(study: str = "micro", **changes: Any) -> SettingResults:
    empty: dict[str, Any] = {name: pd.DataFrame() for name in TABLES}
    return replace(results(study, chains=(0,), inits=()), **(empty | changes))


def rows_of(page: str, claim: str) -> list[str]:
    """The cells of a claim's row in the first table that has it."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {claim}: "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    missing = ("chain 2: micro.chain-2/ppo_run/0.9/0", "chain 2: micro.chain-2/ppo_run/0.9/1")
    settings = {"micro": results(missing=missing), "micro-kl": results("micro-kl", chains=(0,))}
    files = write_experiment(out, settings)
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file())
    return out


def test_the_page_begins_with_the_statuses_of_the_papers_claims(written: Path) -> None:
    page = (written / "README.md").read_text()
    first = page.split("\n\n")[2].splitlines()
    assert first[0] == "| claim | micro | micro-kl |"
    assert len(first) == 2 + len(CLAIMS)
    collapse = rows_of(page, "length_collapse")
    assert collapse[0].startswith("**reproduced**, 0.5")
    assert collapse[1].startswith("**not testable at this scale** (one chain), 0.50 (one chain: no interval)")


def test_own_findings_are_apart_and_labelled(written: Path) -> None:
    page = (written / "README.md").read_text()
    own = page.index("## Findings of our own")
    assert page.index("These are not claims of the paper.") > own
    assert all(page.index(f"| {claim.id}: ") > own for claim in FINDINGS)
    assert all(page.index(f"| {claim.id}: ") < own for claim in CLAIMS)
    assert rows_of(page, "kl_penalty_keeps_accuracy")[0] == "not about this setting"


def test_what_the_critic_announced_is_counted(written: Path) -> None:
    page = (written / "README.md").read_text()
    assert "| micro | calibrated | 0 | 18 |" in page
    assert "| micro | underestimates_long_prefixes | 6 | 0 |" in page


def test_every_setting_says_what_it_is_what_is_confounded_and_what_was_not_run(written: Path) -> None:
    page = (written / "README.md").read_text()
    micro = page[page.index("## Setting micro\n") : page.index("## Setting micro-kl")]
    assert "What the setting is." in micro
    assert "Runs: 8 of chain 0, 8 of chain 1, 8 of chain 2. Steps: 5." in micro
    assert "Computed by jobs of the versions evaluate 2, ppo 7. Where `make study` has another" in micro
    assert "chain 2, 2: micro.chain-2/ppo_run/0.9/0, micro.chain-2/ppo_run/0.9/1" in micro
    assert "Preference pairs are sampled from the instruct SFT alone" in micro
    assert "Below 0.75 of that start: Paradigm 1 (20.0 tokens, 0.33)" in micro
    assert "| Paradigm 3 | underestimates_long_prefixes 6 | collapsed 6 |" in micro
    assert (written / "micro" / "missing.txt").read_text().count("\n") == 2
    assert not (written / "micro-kl" / "missing.txt").exists()
    assert "`make study` runs what is not yet run" in page


def test_claims_csv_has_every_criterion_of_every_setting(written: Path) -> None:
    table = pd.read_csv(written / "claims.csv")
    lines = sum(max(1, len(c.criteria)) for c in (*CLAIMS, *FINDINGS) if not c.settings)
    assert (table["setting"] == "micro").sum() == lines
    collapse = table[(table["claim"] == "length_collapse") & (table["setting"] == "micro")].iloc[0]
    # 0.5 (1 + 0.008 chain) at the last of five steps, geometric mean over the chains 0, 1, 2
    assert collapse["effect"] == pytest.approx(0.5 * (1.008 * 1.016) ** (1 / 3), rel=1e-3)
    assert (collapse["chains"], collapse["runs"], collapse["status"]) == (3, 6, "reproduced")


def test_curves_have_their_errors_over_chains(written: Path) -> None:
    table = pd.read_csv(written / "micro" / "curves.csv").set_index(["init", "step"])
    last = table.loc[[("paradigm_3", STEPS - 1)]].iloc[0]
    lengths = pd.Series([30.0, 30 * 1.008, 30 * 1.016])
    assert last["chains"] == 3
    assert last["length_mean"] == pytest.approx(lengths.mean(), rel=1e-3)
    assert last["length_mean sem"] == pytest.approx(lengths.sem(), rel=1e-3)
    assert pd.read_csv(written / "micro-kl" / "curves.csv")["length_mean sem"].isna().all()


def test_tables_hold_every_run_once(written: Path) -> None:
    runs = pd.read_csv(written / "micro" / "runs.csv")
    assert len(runs) == 24 + 3  # and the reasoning SFT of each chain
    assert not runs.duplicated(["chain", "init", "seed"]).any()
    verdicts = pd.read_csv(written / "micro" / "verdicts.csv")
    assert list(verdicts.columns) == ["chain", "init", "seed", "detector", "verdict", "confidence"]
    assert len(pd.read_csv(written / "micro" / "scores.csv")) == 2 * 27


def test_links_of_the_page_lead_to_files(written: Path) -> None:
    page = (written / "README.md").read_text()
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert any(target.endswith(".png") for target in targets)
    assert all((written / target).is_file() for target in targets)


def test_every_picture_has_its_numbers_and_keeps_the_color_of_paradigm_3(written: Path) -> None:
    pictures = list((written / "micro").glob("*.png"))
    assert {picture.stem for picture in pictures} <= set(KEPT)
    assert all(picture.with_suffix(".csv").is_file() for picture in pictures)
    pixels = imread(written / "micro" / "figure_4_length_all_ratios.png")[..., :3]
    red = np.abs(pixels - np.array([0xD6, 0x27, 0x28]) / 255).max(axis=-1) < 0.06
    assert red.sum() > 100


def test_pictures_without_room_are_named(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"micro": results()}, picture_bytes=0)
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob("figure_*.csv"))
    assert "Left out to keep this directory small: Figure 4." in (tmp_path / "README.md").read_text()


def test_six_full_settings_stay_below_three_megabytes(tmp_path: Path) -> None:
    """Pictures are bounded; tables grow with runs, of which a full setting has 12 x 9."""
    inits = ("paradigm_1", "paradigm_3", *(f"alpha 0.{k}" for k in range(10)))
    files = write_experiment(tmp_path, {"micro": results(inits=inits)}, picture_bytes=0)
    tables = sum(path.stat().st_size for path in files)
    # 3 seeds where here are 2, 20 steps where here are 5 (curves alone), 8 detectors where here are 2 (verdicts)
    verdicts, curves = ((tmp_path / "micro" / f"{name}.csv").stat().st_size for name in ("verdicts", "curves"))
    full = 1.5 * (tables - verdicts - curves) + 1.5 * 4 * verdicts + 4 * curves
    from bai_pipeline.report.experiment import PICTURE_BYTES

    assert 6 * (full + PICTURE_BYTES) < 3_000_000


def test_a_second_call_replaces_what_the_first_one_wrote(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"micro": results(missing=("chain 0: x",))})
    kept = {path: path.read_bytes() for path in write_experiment(tmp_path, {"micro": results()})}
    assert sorted(kept) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    again = write_experiment(tmp_path, {"micro": results()})
    assert {path: path.read_bytes() for path in again} == kept


def test_one_chain_decides_nothing(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"micro": results(chains=(0,))}, picture_bytes=0)
    table = pd.read_csv(tmp_path / "claims.csv")
    assert set(table["status"]) == {"not testable at this scale"}
    assert table[["low", "high"]].isna().all(axis=None)
    assert set(table.loc[table["effect"].notna(), "reason"]) <= {"one chain", "no data"}


def test_a_setting_of_which_nothing_was_run_has_no_number(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"micro": nothing(missing=("chain 0: ppo_run",))})
    table = pd.read_csv(tmp_path / "claims.csv")
    assert set(table["status"]) == {"not testable at this scale"}
    assert table[["effect", "low", "high"]].isna().all(axis=None)
    page = (tmp_path / "README.md").read_text()
    assert "*Not here: Results. Nothing of this setting was run to its end.*" in page
    assert "chain 0, 1: ppo_run" in page


@pytest.mark.parametrize("absent", TABLES)
def test_a_table_that_is_missing_leaves_holes_and_breaks_nothing(tmp_path: Path, absent: str) -> None:
    change: dict[str, Any] = {absent: pd.DataFrame()}
    write_experiment(tmp_path, {"micro": replace(results(), **change)}, picture_bytes=0)
    found = pd.read_csv(tmp_path / "claims.csv").groupby("claim")["reason"].first()
    gone = {"runs": "length_collapse", "responses": "hockey_stick", "scores": "bai_scores_best"}
    gone["verdicts"] = "critic_announces_shortening"
    if absent in gone:
        assert found[gone[absent]] == "no data"


def test_metrics_that_were_not_recorded_are_said_to_be_missing(tmp_path: Path) -> None:
    full = results()
    bare = replace(full, runs=full.runs[["chain", "init", "seed", "step", "length_mean"]])
    write_experiment(tmp_path, {"micro": bare}, picture_bytes=0)
    page = (tmp_path / "README.md").read_text()
    assert "KL(training ‖ sampling), median of the steps: not recorded for Paradigm 3 in micro" in page


def test_text_of_others_begins_no_element(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"micro": nothing(description="<script>alert(1)</script>")})
    assert "<script>" not in (tmp_path / "README.md").read_text().replace("\\<script>", "")


def test_a_line_twice_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    full = results()
    with pytest.raises(DataError, match="one line per"):
        write_experiment(tmp_path, {"micro": replace(full, verdicts=pd.concat([full.verdicts, full.verdicts]))})
    assert not list(tmp_path.iterdir())

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from bai_pipeline.report import dynamics_figures
from bai_pipeline.report.figures import FIGURES, WIDTH_PX, colour, figure, marker, panel_curve

INITS = ("paradigm_1", "paradigm_3", "alpha 0.1", "alpha 0.5")


def runs(inits: tuple[str, ...] = INITS, seeds: int = 2, **changes: Any) -> pd.DataFrame:
    rows = [
        {
            "init": init,
            "seed": seed,
            "step": step,
            "length_mean": 20.0 + 10 * k + step + seed,
            "score_mean": 0.1 * step + 0.01 * seed,
            "accuracy": 0.5,
            "kl_train_sample": 0.001 * (k + 1),
        }
        for k, init in enumerate(inits)
        for seed in range(seeds)
        for step in range(6)
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_every_init_has_a_colour_of_its_own() -> None:
    inits = ["paradigm_1", "paradigm_3", *(f"alpha {i / 10}" for i in range(11))]
    assert len({colour(init) for init in inits}) == len(inits)


def test_the_way_an_alpha_is_written_does_not_change_its_look() -> None:
    assert (colour("alpha 0.1"), marker("alpha 0.1")) == (colour("alpha 0.10"), marker("alpha 0.10"))


def test_neighbouring_alphas_have_different_markers() -> None:
    assert all(marker(f"alpha {i / 10}") != marker(f"alpha {(i + 1) / 10}") for i in range(10))


def test_every_figure_is_written_with_its_numbers(tmp_path: Path) -> None:
    pngs = dynamics_figures(runs(), tmp_path)
    assert [p.stem for p in pngs] == list(FIGURES)
    for png in pngs:
        assert imread(png).shape[1] == WIDTH_PX
        assert png.with_suffix(".csv").is_file()


def test_the_csv_holds_the_plotted_numbers(tmp_path: Path) -> None:
    dynamics_figures(runs(), tmp_path)
    numbers = pd.read_csv(tmp_path / "length.csv")
    panel = FIGURES["length"][0]
    drawn = figure([panel], [panel_curve(runs(), panel)]).axes[0].get_lines()
    for line, (_, group) in zip(drawn, numbers.groupby("init", sort=False), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == group["step"].tolist()
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx(group["mean"].tolist())


def test_axes_carry_units() -> None:
    for panels in FIGURES.values():
        for ax in figure(panels, [panel_curve(runs(), panel) for panel in panels]).axes:
            assert ax.get_xlabel() == "PPO step (rollout batches)"
            assert ax.get_ylabel()


def test_relative_lengths_start_at_one(tmp_path: Path) -> None:
    dynamics_figures(runs(), tmp_path)
    numbers = pd.read_csv(tmp_path / "length_relative.csv")
    assert numbers.loc[numbers["step"] == 0, "mean"].tolist() == [1.0] * len(INITS)


def test_the_band_is_explained_only_where_there_is_one() -> None:
    panel = FIGURES["length"][0]
    for seeds, title in ((1, ""), (2, "band: ± 1 standard\nerror over seeds")):
        drawn = figure([panel], [panel_curve(runs(seeds=seeds), panel)])
        assert drawn.legends[0].get_title().get_text() == title


@pytest.mark.parametrize("change", [{"accuracy": None}, {"accuracy": float("nan")}])
def test_accuracy_that_was_not_recorded_leaves_its_panel_out(tmp_path: Path, change: dict[str, Any]) -> None:
    dynamics_figures(runs(**change), tmp_path)
    assert set(pd.read_csv(tmp_path / "score_and_accuracy.csv")["panel"]) == {"score_mean"}


def test_the_same_runs_give_the_same_picture(tmp_path: Path) -> None:
    panel = FIGURES["length"][0]
    for name in ("first", "second"):
        figure([panel], [panel_curve(runs(), panel)]).savefig(tmp_path / f"{name}.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_without_runs_there_are_no_figures(tmp_path: Path) -> None:
    assert dynamics_figures(pd.DataFrame(columns=["init", "seed", "step"]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []

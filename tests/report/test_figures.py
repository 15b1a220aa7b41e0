from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from bai_pipeline.report import dynamics_figures
from bai_pipeline.report.drawing import WIDTH_PX, figure
from bai_pipeline.report.dynamics_pictures import dynamics_pictures
from bai_pipeline.report.pictures import Absent, Picture
from tests.report.constructed import INITS, metrics

NAMES = [
    "figure_2_score_by_length_paradigm_3",
    "figure_3a_length_paradigm_1",
    "figure_3b_length_paradigm_3",
    "figure_3c_length_bai",
    "figure_4_length_all_ratios",
    "figure_5_kl_train_sample",
    "figure_6_score_by_length_bai",
    "figure_7_score_by_length_ratios",
    "length_relative",
    "score_and_accuracy",
    "value_error_by_prefix",
]


def pictures(
    runs: pd.DataFrame | None = None,
    responses: pd.DataFrame | None = None,
    prefixes: pd.DataFrame | None = None,
    headline: str = "0.5",
) -> dict[str, Picture | Absent]:
    tables = [
        given if given is not None else made for given, made in zip((runs, responses, prefixes), metrics(), strict=True)
    ]
    return {p.name: p for p in dynamics_pictures(*tables, bucket_width=10, headline_alpha=headline)}


def shown(picture: Picture | Absent) -> Picture:
    assert isinstance(picture, Picture)
    return picture


def reason(picture: Picture | Absent) -> str:
    assert isinstance(picture, Absent)
    return picture.reason


def test_every_figure_is_written_with_its_numbers(tmp_path: Path) -> None:
    pngs = dynamics_figures(*metrics(), tmp_path, bucket_width=10, headline_alpha="0.5")
    assert [png.stem for png in pngs] == NAMES
    for png in pngs:
        assert imread(png).shape[1] == WIDTH_PX
        assert png.with_suffix(".csv").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_holds_the_drawn_numbers(name: str) -> None:
    picture = shown(pictures()[name])
    numbers = picture.numbers()
    drawn = numbers[numbers["drawn"]] if "drawn" in numbers else numbers
    lines = [line for ax in figure(picture).axes for line in ax.get_lines() if len(np.asarray(line.get_xdata())) != 2]
    xs = np.concatenate([np.asarray(line.get_xdata()) for line in lines])
    ys = np.concatenate([np.asarray(line.get_ydata()) for line in lines])
    values = {(float(x), float(y)) for x, y in zip(xs, ys, strict=True)}
    assert values <= set(zip(drawn[picture.panels[0].x].astype(float), drawn["mean"], strict=True))
    assert len(xs) >= 0.9 * len(drawn)  # but for lines of two points, which a baseline is too


def test_axes_carry_units_and_what_they_are() -> None:
    for picture in pictures().values():
        for ax in figure(shown(picture)).axes:
            assert ax.get_xlabel()
            assert ax.get_ylabel()


def test_figures_2_6_and_7_share_axes_and_colours() -> None:
    made = [shown(pictures()[name]) for name in NAMES if "score_by_length" in name]
    assert len({panel.bounds for picture in made for panel in picture.panels}) == 1
    looks: dict[str, set[object]] = {}
    for picture in made:
        for label, look in picture.labels.items():
            looks.setdefault(label, set()).add(look)
    assert all(len(seen) == 1 for seen in looks.values())


def test_figures_3a_3b_and_3c_share_their_vertical_axis_and_say_whose_assignment_they_are() -> None:
    made = [shown(pictures()[name]) for name in NAMES if name.startswith("figure_3")]
    assert len({picture.panels[0].bounds for picture in made}) == 1
    assert all("this project's assignment" in picture.caption for picture in made)
    assert [list(picture.labels) for picture in made] == [["Paradigm 1"], ["Paradigm 3"], ["alpha 0.5"]]


def test_figure_7_names_the_ratios_that_were_not_run() -> None:
    picture = shown(pictures()["figure_7_score_by_length_ratios"])
    assert [panel.title for panel in picture.panels] == ["Mean score, alpha 0.1", "Mean score, alpha 0.5"]
    assert "Not run, or with too few responses: alpha 0.9." in picture.caption


def test_an_init_that_was_not_run_is_a_hole() -> None:
    runs, responses, _ = metrics(inits=("alpha 0.5",))
    made = pictures(runs, responses)
    assert reason(made["figure_3a_length_paradigm_1"]) == "Paradigm 1 has no run."
    assert "Paradigm 3 has no run" in reason(made["figure_2_score_by_length_paradigm_3"])


def test_relative_lengths_start_at_one() -> None:
    numbers = shown(pictures()["length_relative"]).numbers()
    assert numbers.loc[numbers["step"] == 0, "mean"].tolist() == [1.0] * len(INITS)


def test_a_metric_that_was_not_recorded_leaves_its_panel_out_and_is_named() -> None:
    runs = metrics()[0].drop(columns=["accuracy", "kl_train_sample"])
    made = pictures(runs)
    assert [panel.title for panel in shown(made["score_and_accuracy"]).panels] == ["Score that PPO maximizes"]
    assert "True accuracy of the same responses: not recorded" in shown(made["score_and_accuracy"]).caption
    assert "Not recorded: KL" in reason(made["figure_5_kl_train_sample"])


def test_a_run_without_length_at_its_start_has_no_relative_length() -> None:
    runs = metrics()[0]
    runs.loc[(runs["init"] == "paradigm_1") & (runs["step"] == 0), "length_mean"] = 0.0
    assert "paradigm_1" in reason(pictures(runs)["length_relative"])


def test_long_runs_are_drawn_in_windows_but_kl_in_every_step() -> None:
    runs = metrics(inits=("paradigm_3",), steps=400, batch=2)[0]
    made = pictures(runs)
    length = shown(made["figure_4_length_all_ratios"])
    assert len(length.numbers()) == 134  # 400 steps in windows of three
    assert "the mean of 3 steps" in length.caption
    assert len(shown(made["figure_5_kl_train_sample"]).numbers()) == 400


def test_one_seed_is_said_to_have_no_band() -> None:
    runs, responses, prefixes = metrics(seeds=1)
    made = pictures(runs, responses, prefixes)
    assert "One seed: no band" in shown(made["figure_4_length_all_ratios"]).caption
    assert (
        "one seed: ± 1 standard error over the bucket's responses"
        in shown(made["figure_6_score_by_length_bai"]).caption
    )


def test_a_line_is_not_drawn_across_windows_without_points() -> None:
    runs, responses, prefixes = metrics(batch=64)
    gone = responses["step"].between(4, 6) & (responses["length"] < 10)
    picture = shown(pictures(runs, responses[~gone], prefixes)["figure_2_score_by_length_paradigm_3"])
    panel = picture.panels[0]
    (line,) = (line for line in panel.lines if line.label == "0–9")
    pieces = line.pieces("step", panel.step)
    assert len(pieces) == 2
    assert pieces[0]["step"].max() < 4 < 6 <= pieces[1]["step"].min() + (panel.step or 0)


def test_value_errors_are_means_by_tokens_of_the_first_steps_and_of_the_last() -> None:
    # first three steps: errors 1, 2 and 4 of 100, 100 and 200 tokens, mean 2.75; last fifth: 0.5 and 0.25, mean 0.375
    prefixes = pd.DataFrame({"init": "paradigm_3", "seed": 0, "step": range(10), "prefix": 0})
    prefixes["tokens"] = [100, 100, 200, *[100] * 7]
    prefixes["value_error"] = [1.0, 2.0, 4.0, *[9.0] * 5, 0.5, 0.25]
    first, last = shown(pictures(prefixes=prefixes)["value_error_by_prefix"]).panels
    assert first.lines[0].points["mean"].tolist() == [2.75]
    assert last.lines[0].points["mean"].tolist() == [0.375]


def test_the_same_runs_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("first", "second"):
        figure(shown(pictures()["figure_6_score_by_length_bai"])).savefig(tmp_path / f"{name}.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_without_runs_there_are_no_figures(tmp_path: Path) -> None:
    empty = pd.DataFrame(columns=["init", "seed", "step"])
    assert dynamics_figures(empty, empty, empty, tmp_path, bucket_width=10, headline_alpha="0.5") == []
    assert list(tmp_path.iterdir()) == []


def test_axes_of_scores_have_the_studys_own_unit() -> None:
    label = "score (right +1, wrong −1)"
    made = dynamics_pictures(*metrics(), bucket_width=10, headline_alpha="0.5", score_label=label)
    labels = {p.name: {panel.y_label for panel in shown(p).panels} for p in made}
    for name in NAMES:
        scores = "score_by_length" in name or name == "score_and_accuracy"
        assert (label in labels[name]) is scores, name

"""Whole PPO runs of a tiny policy: what comes out, and that a kill changes none of it."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from bai_pipeline.errors import DataError, TrainingError
from bai_pipeline.ppo import Parallelism, Schedule, run_ppo
from bai_pipeline.ppo.metrics import responses_schema, steps_schema
from bai_pipeline.ppo.policies import KeptModels
from bai_pipeline.ppo.trainer import PpoTrainer
from bai_pipeline.progress import SilentReporter
from bai_pipeline.reward.scorers import RewardModelScorer, Scorer, VerifierScorer
from bai_pipeline.settings import PpoSettings
from tests.ppo import ppo_process

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # DeepSpeed imports torch's inductor
    "ignore:`torch.distributed.*` is deprecated:FutureWarning",  # and calls its collectives by their old names
)

Run = Callable[..., dict[str, float | int | str]]

STEPS = 8


class ConstantScorer:
    """Gives every response the same score, and remembers what it was asked."""

    def __init__(self, score: float) -> None:
        self.score = score
        self.asked: list[tuple[Any, ...]] = []

    def __call__(
        self,
        prompts: Sequence[Any],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        self.asked.append((prompts, responses, answers, truncated))
        return [self.score] * len(responses)


@pytest.fixture
def run(world: Path, settings: PpoSettings, tmp_path: Path) -> Run:
    """run_ppo on the tiny world; `name` is the run, every call fills an `out` of its own."""

    def call(
        name: str, out: str, steps: int = STEPS, every: int = 3, evaluate_at_step: int = 2, **changes: Any
    ) -> dict[str, float | int | str]:
        for directory in (tmp_path / name, tmp_path / out):
            directory.mkdir(exist_ok=True)
        options: dict[str, Any] = {
            "actor": world / "actor",
            "prompts": world / "prompts.parquet",
            "settings": settings,
            "seed": 0,
            "critic_init": world / "reward",
            "reference": None,
            "scorer": changes.get("scorer") or RewardModelScorer.load(world / "reward"),
            **changes,
        }
        return run_ppo(
            out=tmp_path / out,
            work=tmp_path / name,
            schedule=Schedule(steps, every, evaluate_at_step),
            report=SilentReporter(),
            **options,
        )

    return call


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def table(out: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / name / "part-000000.parquet").to_pylist()
    return rows


def test_a_run_leaves_tables_and_policies(run: Run, tmp_path: Path, settings: PpoSettings) -> None:
    run("work", "out", steps=3)
    out = tmp_path / "out"
    tables = {"steps", "responses", "prefixes", "samples"}
    assert {path.name for path in out.iterdir()} == {*tables, "policies", "critics", "run.json"}
    assert json.loads((out / "run.json").read_text()) == {
        "until_step": 3,
        "policies": {"2": "policies/step-000002", "3": "policies/step-000003"},
        "critics": {"2": "critics/step-000002", "3": "critics/step-000003"},
        "best_step": 3,
        "stopped": None,
    }
    steps, responses = table(out, "steps"), table(out, "responses")
    assert list(steps[0]) == steps_schema(accuracy=True, reference=True, routed=True).names
    assert list(responses[0]) == responses_schema(accuracy=True).names
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert len(responses) == 3 * settings.batch_size
    for row in steps:
        mine = [response for response in responses if response["step"] == row["step"]]
        assert row["length_mean"] == pytest.approx(sum(response["length"] for response in mine) / len(mine))
        assert row["score_mean"] == pytest.approx(sum(response["score"] for response in mine) / len(mine))
        known = [response["correct"] for response in mine if response["correct"] is not None]
        assert row["accuracy"] == pytest.approx(sum(known) / len(known))
        assert {response["finish_reason"] for response in mine} <= {"stop", "length"}
        assert row["kl_mismatch"] == pytest.approx(0, abs=1e-9)  # the sampler computes what the trainer computes
        assert row["kl_train_sample"] > row["kl_mismatch"]
        assert row["grad_norm_actor"] > 0
    assert steps[0]["kl_ref"] == pytest.approx(0, abs=1e-9)  # the reference is the initial actor
    assert steps[2]["kl_ref"] > 1e-7
    loaded: Any = AutoModelForCausalLM.from_pretrained(out / "policies/step-000003", output_loading_info=True)
    assert not any(loaded[1].values())
    assert loaded[0].config.architectures == ["OlmoeForCausalLM"]


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    run: Run, world: Path, settings: PpoSettings, tmp_path: Path
) -> None:
    run("undisturbed", "expected")
    moment = random.Random()
    steps, pause = moment.randint(1, STEPS - 2), moment.uniform(0, 0.1)
    schedule = Schedule(STEPS, 3, 2)
    (process,) = ppo_process.start(world, tmp_path / "killed", tmp_path / "lost", settings, schedule, Parallelism())
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(steps):
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"not killed after step {steps} and {pause:.3f} s"
    resumed = run("killed", "found")["resumed_from_step"]
    assert isinstance(resumed, int)
    assert resumed >= steps - 3
    assert files(tmp_path / "found") == files(tmp_path / "expected"), f"killed after step {steps} and {pause:.3f} s"


def test_a_longer_run_continues_a_shorter_one(run: Run, tmp_path: Path) -> None:
    run("straight", "expected", steps=5)
    run("extended", "short", steps=2, every=1)
    assert run("extended", "found", steps=5)["resumed_from_step"] == 2
    for name in ("steps", "responses", "policies/step-000002", "policies/step-000005"):
        assert files(tmp_path / "found" / name) == files(tmp_path / "expected" / name), name


def test_every_policy_that_was_an_end_or_evaluated_stays_in_the_run_and_so_does_the_best(
    run: Run, tmp_path: Path
) -> None:
    """Studies that differ in until_step and evaluate_at_step only share a run."""
    run("work", "first", steps=2, evaluate_at_step=1)
    run("work", "second", steps=4, evaluate_at_step=2)
    run("work", "third", steps=5, evaluate_at_step=4)
    for out, steps in (("first", (1, 2)), ("second", (1, 2, 4)), ("third", (1, 2, 4, 5))):
        found = json.loads((tmp_path / out / "run.json").read_text())
        assert found["until_step"] == steps[-1]
        kept = sorted({*steps, found["best_step"]} - {None})
        for kind in ("policies", "critics"):
            assert found[kind] == {str(step): f"{kind}/step-{step:06d}" for step in kept}
            assert {path.name for path in (tmp_path / out / kind).iterdir()} == {f"step-{step:06d}" for step in kept}
        for step in steps:
            policy = f"policies/step-{step:06d}"
            assert files(tmp_path / out / policy) == files(tmp_path / "third" / policy)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_the_best_models_are_kept_loses_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before they are written, between critic and actor, and before the best so far are released."""
    run("undisturbed", "expected", steps=6, every=1)
    best = json.loads((tmp_path / "expected" / "run.json").read_text())["best_step"]
    assert best not in (2, 6)  # these are kept for other reasons too
    place = {"before": f"critics/step-{best:06d}", "between": f"policies/step-{best:06d}", "after": "released"}[moment]
    kills = list[str]()

    def killed(original: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            places = [str(one) for one in arguments if isinstance(one, Path)] or ["released"]
            if not kills and places[-1].endswith(place):
                kills.append(place)
                raise KeyboardInterrupt
            original(*arguments, **options)

        return call

    for name in ("_write", "release"):
        monkeypatch.setattr(KeptModels, name, killed(getattr(KeptModels, name)))
    with pytest.raises(KeyboardInterrupt):
        run("killed", "lost", steps=6, every=1)
    run("killed", "found", steps=6, every=1)
    assert files(tmp_path / "found") == files(tmp_path / "expected")


def test_a_finished_run_can_be_written_out_again(run: Run, tmp_path: Path) -> None:
    run("work", "first", steps=3)
    assert run("work", "second", steps=3)["resumed_from_step"] == 3
    assert files(tmp_path / "second") == files(tmp_path / "first")


def test_a_run_that_is_further_than_asked_for_is_written_out_where_it_stands(run: Run, tmp_path: Path) -> None:
    run("work", "first", steps=3)
    scorer = ConstantScorer(0.5)
    assert run("work", "second", steps=2, scorer=scorer)["steps"] == 3
    assert scorer.asked == []
    assert files(tmp_path / "second") == files(tmp_path / "first")
    assert json.loads((tmp_path / "second" / "run.json").read_text())["until_step"] == 3


def test_a_policy_that_the_run_has_passed_cannot_be_asked_for(run: Run, tmp_path: Path) -> None:
    run("work", "first", steps=3)
    scorer, before = ConstantScorer(0.5), files(tmp_path / "work")
    with pytest.raises(
        TrainingError,
        match=r"/work stands after step 3 and kept no policy after step 1 \(it has 2, 3\); nothing was trained, remove",
    ):
        run("work", "second", steps=5, evaluate_at_step=1, scorer=scorer)
    assert scorer.asked == []
    assert files(tmp_path / "work") == before
    assert list((tmp_path / "second").iterdir()) == []


def test_the_policy_where_the_run_stands_is_kept_before_it_goes_on(run: Run, tmp_path: Path) -> None:
    """As after a kill between the checkpoint and the policy of the same step."""
    run("straight", "expected", steps=4, evaluate_at_step=3)
    run("work", "first", steps=3)
    shutil.rmtree(tmp_path / "work" / "policies" / "step-000003")
    run("work", "second", steps=4, evaluate_at_step=3)
    name = "policies/step-000003"
    assert files(tmp_path / "second" / name) == files(tmp_path / "expected" / name)


def test_the_end_of_a_run_that_was_killed_beyond_it_is_kept(run: Run, tmp_path: Path) -> None:
    """A checkpoint is no end: its policy is made of the training state."""
    run("work", "first", steps=3)
    shutil.rmtree(tmp_path / "work" / "policies" / "step-000003")
    run("work", "second", steps=2)
    assert files(tmp_path / "second") == files(tmp_path / "first")


def test_a_verifier_as_reward_needs_a_verifier_for_every_prompt(run: Run) -> None:
    with pytest.raises(DataError, match=r"prompts\.parquet: a reward of kind verifier .* prompt 'p0' names none"):
        run("work", "out", steps=1, scorer=VerifierScorer())


def test_another_run_s_work_directory_is_refused(run: Run, with_settings: Callable[..., PpoSettings]) -> None:
    run("work", "first", steps=1)
    with pytest.raises(TrainingError, match=r"other settings \(lam 0.95 there, 0.5 now, seed 0 there, 7 now\)"):
        run("work", "second", steps=1, seed=7, settings=with_settings(lam=0.5))


def test_seeds_give_different_runs(run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(f"work {seed}", f"out {seed}", steps=1, seed=seed)
    lengths = [[row["length"] for row in table(tmp_path / f"out {seed}", "responses")] for seed in (0, 1)]
    assert lengths[0] != lengths[1]


def test_without_a_penalty_there_is_no_reference(
    run: Run, with_settings: Callable[..., PpoSettings], tmp_path: Path
) -> None:
    run("work", "out", steps=1, settings=with_settings(kl_coef=0.0))
    assert "kl_ref" not in table(tmp_path / "out", "steps")[0]


def test_the_scorer_sees_text_without_the_end_token_and_which_responses_are_cut(run: Run, tmp_path: Path) -> None:
    scorer = ConstantScorer(0.5)
    run("work", "out", steps=1, scorer=scorer)
    prompts, responses, answers, truncated = scorer.asked[0]
    rows = table(tmp_path / "out", "responses")
    assert truncated == [row["finish_reason"] == "length" for row in rows]
    assert True in truncated
    assert False in truncated
    for row, text in zip(rows, responses, strict=True):
        assert len(text.split(" ")) * (text != "") == row["length"] - (row["finish_reason"] == "stop")
    assert [prompt[0]["role"] for prompt in prompts] == ["user"] * len(rows)
    assert [answer is None for answer in answers] == [row["prompt_id"] in ("p0", "p1") for row in rows]


def test_a_penalty_for_a_missing_end_changes_rewards_and_no_scores(
    run: Run, with_settings: Callable[..., PpoSettings], tmp_path: Path
) -> None:
    run("work", "out", 1, settings=with_settings(missing_eos_penalty=3.0, kl_coef=0.0), scorer=ConstantScorer(0.5))
    row = table(tmp_path / "out", "steps")[0]
    assert row["truncated_share"] > 0
    assert row["score_mean"] == 0.5
    assert row["reward_mean"] == pytest.approx(0.5 - 3 * row["truncated_share"])


def test_a_score_that_is_not_finite_stops_the_run(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"step 0: the score of the response to prompt 'p.*' is nan"):
        run("work", "out", steps=1, scorer=ConstantScorer(float("nan")))


@pytest.fixture
def make_trainer(world: Path, settings: PpoSettings) -> Callable[..., PpoTrainer]:
    def make(scorer: Scorer, **changes: Any) -> PpoTrainer:
        changed = PpoSettings(**{**settings.model_dump(), **changes})
        return PpoTrainer(world / "actor", world / "reward", None, world / "prompts.parquet", scorer, changed, seed=0)

    return make


def test_a_loss_that_is_not_finite_stops_the_run_and_names_it(make_trainer: Callable[..., PpoTrainer]) -> None:
    trainer = make_trainer(ConstantScorer(0.0))
    with torch.no_grad():
        trainer.engines["critic"].module.model.score.weight.fill_(torch.inf)
    with pytest.raises(TrainingError, match="step 5: the policy loss is nan; training stopped"):
        trainer.step(5)


def test_training_raises_the_probability_of_what_is_rewarded(make_trainer: Callable[..., PpoTrainer]) -> None:
    class Brevity(ConstantScorer):
        def __call__(
            self,
            prompts: Sequence[Any],
            responses: Sequence[str],
            answers: Sequence[str | None],
            truncated: Sequence[bool] | None = None,
        ) -> list[float]:
            return [-float(len(text.split(" "))) for text in responses]

    trainer = make_trainer(Brevity(0.0), batch_size=32, mini_batch_size=8, actor_learning_rate=5e-3, kl_coef=0.0)
    lengths = [float(trainer.step(step).steps["length_mean"] or 0) for step in range(12)]
    assert sum(lengths[-3:]) < 0.8 * sum(lengths[:3])

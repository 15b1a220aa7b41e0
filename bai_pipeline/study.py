"""The study file: what is merged, trained, swept and evaluated.

A study is YAML. It `extends` a preset (or another file) and overrides it: settings sections (`ppo`, `world`, …) are
overridden key by key, everything else is replaced as a whole. Loading reports every fault at once, each with its line.
Where work runs (compute) is no part of a study: it never changes a result.
"""

import math
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from bai_pipeline.dynamics_settings import DynamicsSettings, HalvingSettings
from bai_pipeline.errors import StudyError
from bai_pipeline.eval_settings import EvalSettings, TableSettings
from bai_pipeline.settings import (
    Count,
    ModelSettings,
    PpoSettings,
    PreferenceSettings,
    Settings,
    TrainingSettings,
    WorldSettings,
)
from bai_pipeline.yaml_lines import Location, load_with_lines

PRESETS = Path(__file__).parent / "presets"
GRID = tuple(f"{i / 10:.1f}" for i in range(11))
"""The alphas every study can be asked for; 0.0 is the merged SFT itself, 1.0 the base."""

WEIGHT_TOLERANCE = 1e-9

TO_BE_GIVEN = "..."
"""In the place of a path: whoever extends the file names it. Presets for models that are brought have such paths."""

_SECTIONS = (
    *("data", "world", "model", "pretraining", "preferences", "reward_training", "ppo", "dynamics"),
    *("halving", "evals", "tables"),
)


def alpha_key(value: object) -> str:
    """The canonical text of an alpha: "0.1", "0.25", "1.0".

    Raises:
        ValueError: not a number in [0, 1].
    """
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"alpha must be a number in [0, 1], got {value!r}") from None
    if not number.is_finite() or not 0 <= number <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {value}")
    text = format(number.normalize(), "f")
    return text if "." in text else f"{text}.0"


AlphaKey = Annotated[str, BeforeValidator(alpha_key)]
Role = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class BaseSource(Settings):
    """The base model: brought (`path`) or pretrained on the embedded world (`train`)."""

    path: Path | None = None
    train: Literal["synthetic"] | None = None


class SftSource(Settings):
    """One SFT model: brought, or fine-tuned from the base in one of the embedded styles."""

    weight: Annotated[float, Field(ge=0.0, le=1.0)]
    path: Path | None = None
    train: Literal["instruct", "reasoning"] | None = None


class RewardSource(Settings):
    """Where scores come from, and the reward model that the critic may start from."""

    kind: Literal["model", "verifier", "http", "python"]
    path: Path | None = None
    train: Literal["synthetic"] | None = None
    init_from: Role | None = None
    """SFT role that a trained reward model starts from."""
    url: str | None = None
    function: str | None = None
    """module:function for kind python."""

    @property
    def has_model(self) -> bool:
        return self.path is not None or self.train is not None


class CriticPath(Settings):
    """A checkpoint that the critic starts from."""

    path: Path


class DataSources(Settings):
    """Tables that replace the embedded world's own."""

    prompts: Path | None
    sft: dict[Role, Path] | None
    preferences: Path | None
    benchmarks: dict[str, Path] | None


class Study(Settings):
    """A loaded study; see docs/guide/study-file.md for every key."""

    name: Name
    alphas: Annotated[tuple[AlphaKey, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    chain_seed: int
    headline_alpha: AlphaKey
    evaluate_at_step: Count
    until_step: Count
    checkpoint_every: Count
    on_collapse: Literal["observe", "warn", "stop"]
    """What a run does whose responses collapse (`dynamics`): go on; go on and say so at once; end, its state kept."""
    base: BaseSource
    sft: Annotated[dict[Role, SftSource], Field(min_length=1)]
    paradigm_1: Role | None
    paradigm_3: Role | None
    reward: RewardSource
    critic_init: Literal["reward", "policy"] | CriticPath
    actors: Literal["recipe", "checkpoint"]
    """`recipe`: PPO merges while it loads; `checkpoint`: all alphas are also written, in one pass."""
    tokenizer_from: Role
    missing_rows_from: Role | None
    """Role whose embedding rows stand in for tokens that another model lacks; None: that of tokenizer_from."""
    chat_template: Path | None
    data: DataSources
    world: WorldSettings
    model: ModelSettings
    pretraining: TrainingSettings
    sft_training: dict[Role, TrainingSettings]
    preferences: PreferenceSettings
    reward_training: TrainingSettings
    ppo: PpoSettings
    dynamics: DynamicsSettings
    halving: HalvingSettings
    evals: EvalSettings
    tables: TableSettings

    @property
    def sft_weights(self) -> dict[str, float]:
        return {role: source.weight for role, source in self.sft.items()}

    @property
    def score_label(self) -> str:
        """What a PPO score is, with its unit where that is known: models that are brought have units of their own."""
        if self.ppo.verifier_coef:
            return "score"
        if self.reward.kind == "verifier":
            return "score (right +1, wrong −1)"
        if self.reward.kind == "model" and self.reward.train is not None:
            return "score (reward model: sd of its scores)"
        return "score"

    @property
    def partition_keys(self) -> list[str]:
        """The grid 0.0 … 1.0 and the study's own alphas, in order of value."""
        return sorted({*GRID, *self.alphas}, key=Decimal)


def load_study(name_or_path: str | Path | None = None, *, require_paths: bool = True) -> Study:
    """Load a study by preset name or path (default: the environment's `BAI_STUDY`, else `micro`).

    Args:
        require_paths: False accepts paths that are to be given and paths where nothing is yet: enough to plan with.

    Raises:
        StudyError: every fault of the file at once, each with the file and line it stands in.
    """
    start = _resolve(str(name_or_path or os.environ.get("BAI_STUDY") or "micro"), Path.cwd(), "the study")
    raw, places = _load_chain(start)
    faults = [*_cross_faults(raw, places), *(_path_faults(raw, places) if require_paths else ())]
    study: Study | None = None
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        faults[:0] = [_fault(places, tuple(e["loc"]), e["msg"], e.get("input"), e["type"]) for e in error.errors()]
    if faults or study is None:
        raise StudyError(f"{start} is not a valid study:\n  " + "\n  ".join(dict.fromkeys(faults)))
    return study


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _resolve(name: str, directory: Path, what: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name) if Path(name).is_absolute() else directory / name
        if not path.is_file():
            raise StudyError(f"{what} {name!r} is not a file (looked for {path})")
        return path
    if name not in preset_names():
        raise StudyError(f"{what} {name!r} is neither a preset ({', '.join(preset_names())}) nor a path to a YAML file")
    return PRESETS / f"{name}.yaml"


def _load_chain(start: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """The file and all it extends, merged; relative paths made absolute against the file they stand in."""
    chain: list[tuple[dict[str, Any], dict[Location, str]]] = []
    path, seen = start, [start.resolve()]
    while True:
        raw, places = load_with_lines(path)
        parent = raw.pop("extends", None)
        _absolute_paths(raw, path.parent.resolve())
        chain.append((raw, places))
        if parent is None:
            break
        path = _resolve(str(parent), path.parent, f"{places[('extends',)]}: extends")
        if path.resolve() in seen:
            raise StudyError(f"{places[('extends',)]}: extends {parent!r} goes round in a circle")
        seen.append(path.resolve())
    merged: dict[str, Any] = {}
    merged_places: dict[Location, str] = {}
    for raw, places in reversed(chain):
        for key, value in raw.items():
            if key == "sft_training" and isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **{r: _override(merged[key].get(r), v) for r, v in value.items()}}
            elif key in _SECTIONS:
                merged[key] = _override(merged.get(key), value)
            else:
                merged[key] = value
                merged_places = {at: place for at, place in merged_places.items() if at[0] != key}
        merged_places.update(places)
    return merged, merged_places


def _override(old: object, new: object) -> object:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def _absolute_paths(raw: dict[str, Any], directory: Path) -> None:
    for at, value in _path_values(raw):
        if value == TO_BE_GIVEN:
            continue
        target: Any = raw
        for key in at[:-1]:
            target = target[key]
        target[at[-1]] = str(directory / value)


def _path_values(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Every value of the file that names a path."""

    def text(at: Location) -> Iterator[tuple[Location, str]]:
        value: Any = raw
        for key in at:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str):
            yield at, value
        elif isinstance(value, dict) and at[0] == "data":
            for key in value:
                yield from text((*at, key))

    yield from text(("chat_template",))
    for top in ("base", "reward", "critic_init"):
        yield from text((top, "path"))
    sft = raw.get("sft")
    for role in sft if isinstance(sft, dict) else ():
        yield from text(("sft", role, "path"))
    yield from text(("data",))


def _fault(places: Mapping[Location, str], at: tuple[str | int, ...], message: str, found: object, kind: str) -> str:
    field = ".".join(map(str, at))
    place = next((places[at[:n]] for n in range(len(at), 0, -1) if at[:n] in places), "")
    if kind == "extra_forbidden":
        message = "unknown key"
    elif kind == "missing":
        message = "missing"
    elif not isinstance(found, dict | list | tuple):
        message = f"{message.removeprefix('Value error, ')} (found {found!r})"
    return f"{place}: {field}: {message}" if place else f"{field}: {message}"


def _cross_faults(raw: Mapping[str, Any], places: Mapping[Location, str]) -> Iterator[str]:
    """Faults between fields, on the raw mapping so that they show beside any other fault."""

    def at(*location: str | int) -> str:
        return _place(places, location)

    sft = raw.get("sft") if isinstance(raw.get("sft"), dict) else {}
    sources = {role: source for role, source in (sft or {}).items() if isinstance(source, dict)}
    weights = {role: w for role, source in sources.items() if (w := _number(source.get("weight"))) is not None}
    if weights and len(weights) == len(sources):
        total = math.fsum(weights.values())
        if abs(total - 1.0) > WEIGHT_TOLERANCE:
            terms = " + ".join(f"{w} ({role}_sft)" for role, w in weights.items())
            yield f"{at('sft')}: sft: merge weights must be non-negative and sum to 1, got {terms} = {total:g}"
    if "merged" in sources:
        yield f"{at('sft', 'merged')}: sft: the name 'merged' is taken by the Stage 1 merge (merged_sft)"
    for role, source in sources.items():
        if (source.get("path") is None) == (source.get("train") is None):
            yield f"{at('sft', role)}: sft.{role}: give either path (bring your own) or train, got {_given(source)}"
    base = raw.get("base")
    if isinstance(base, dict) and (base.get("path") is None) == (base.get("train") is None):
        yield f"{at('base')}: base: give either path (bring your own) or train, got {_given(base)}"
    for key in ("paradigm_1", "paradigm_3", "tokenizer_from", "missing_rows_from"):
        role = raw.get(key)
        if isinstance(role, str) and sources and role not in sources:
            yield f"{at(key)}: {key}: no SFT role {role!r}; the study has {', '.join(sources)}"
    yield from _reward_faults(raw, sources, at)
    yield from _unused_faults(raw, sources, at)
    seeds = raw.get("seeds")
    if isinstance(seeds, list) and any(seeds.count(seed) > 1 for seed in seeds):
        yield f"{at('seeds')}: seeds: the same seed appears twice in {seeds}"
    alphas = raw.get("alphas")
    keys = _alpha_keys(alphas)
    if len(keys) != len(set(keys)):
        yield f"{at('alphas')}: alphas: the same alpha appears twice in {alphas}"
    headline = _alpha_keys([raw.get("headline_alpha")])
    if keys and headline and headline[0] not in keys:
        yield f"{at('headline_alpha')}: headline_alpha: {headline[0]} is not among alphas ({', '.join(keys)})"
    evaluate, until = _number(raw.get("evaluate_at_step")), _number(raw.get("until_step"))
    if evaluate is not None and until is not None and evaluate > until:
        place = at("evaluate_at_step")
        yield f"{place}: evaluate_at_step: {evaluate:g} is never reached, runs end at until_step {until:g}"


def _path_faults(raw: Mapping[str, Any], places: Mapping[Location, str]) -> Iterator[str]:
    """Paths that nobody has given, or where nothing is."""
    for location, path in _path_values(raw):
        where = f"{_place(places, location)}: {'.'.join(map(str, location))}"
        if path == TO_BE_GIVEN:
            yield f"{where}: expected a path from the study that extends this file, got none"
        elif not Path(path).exists():
            yield f"{where}: no such file or directory: {path}"


def _place(places: Mapping[Location, str], at: Location) -> str:
    """FILE:LINE of a value, or of the nearest that holds it."""
    return next((places[at[:n]] for n in range(len(at), 0, -1) if at[:n] in places), "?")


def _reward_faults(raw: Mapping[str, Any], sources: Mapping[str, Any], at: Any) -> Iterator[str]:
    reward = raw.get("reward")
    if not isinstance(reward, dict):
        return
    kind, has_model = reward.get("kind"), reward.get("path") is not None or reward.get("train") is not None
    if reward.get("path") is not None and reward.get("train") is not None:
        yield f"{at('reward')}: reward: give either path (bring your own) or train, got both"
    if kind == "model" and not has_model:
        yield f"{at('reward')}: reward: kind model needs path (bring your own) or train"
    if kind == "http" and not reward.get("url"):
        yield f"{at('reward')}: reward: kind http needs url"
    if kind == "python" and not reward.get("function"):
        yield f"{at('reward')}: reward: kind python needs function (module:function)"
    if raw.get("critic_init") == "reward" and not has_model:
        yield f"{at('critic_init')}: critic_init: reward needs a reward model, but reward has neither path nor train"
    if reward.get("train") is not None and reward.get("init_from") not in sources:
        role = reward.get("init_from")
        yield f"{at('reward')}: reward.init_from: no SFT role {role!r}; the study has {', '.join(sources)}"
    preferences, data = raw.get("preferences"), raw.get("data")
    brought = isinstance(data, dict) and data.get("preferences") is not None
    if reward.get("train") is not None and not brought and isinstance(preferences, dict):
        for role in preferences.get("sampled_from") or ():
            if role not in sources:
                yield f"{at('preferences', 'sampled_from')}: preferences.sampled_from: no SFT role {role!r}"


def _unused_faults(raw: Mapping[str, Any], sources: Mapping[str, Any], at: Any) -> Iterator[str]:
    """Data that nothing would read: most likely a misspelt name."""
    data = raw.get("data")
    brought: Mapping[str, Any] = data if isinstance(data, dict) else {}
    tables = {key: value if isinstance(value, dict) else {} for key, value in brought.items()}
    trained = [role for role, source in sources.items() if source.get("train") is not None]
    for role in tables.get("sft", {}):
        if role not in trained:
            yield f"{at('data', 'sft', role)}: data.sft.{role}: no SFT role {role!r} is trained"
    evals = raw.get("evals")
    wanted = evals.get("benchmarks") if isinstance(evals, dict) else None
    for name in tables.get("benchmarks", {}):
        if name not in (wanted or ()):
            yield f"{at('data', 'benchmarks', name)}: data.benchmarks.{name}: {name!r} is not among evals.benchmarks"
    reward = raw.get("reward")
    if brought.get("preferences") is not None and not (isinstance(reward, dict) and reward.get("train")):
        yield f"{at('data', 'preferences')}: data.preferences: no reward model is trained on it (reward has no train)"


def _number(value: object) -> float | None:
    """A number, also a quoted one, as pydantic reads it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _given(source: Mapping[str, Any]) -> str:
    return "both" if source.get("path") is not None else "neither"


def _alpha_keys(values: object) -> list[str]:
    keys = []
    for value in values if isinstance(values, list) else ():
        try:
            keys.append(alpha_key(value))
        except ValueError:
            continue
    return keys

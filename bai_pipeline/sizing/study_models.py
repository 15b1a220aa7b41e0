"""The models of a study: their shapes from the checkpoints that it brings, or from what it says of them."""

from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.checkpoints.directory import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, read_json_object, read_tensors
from bai_pipeline.sizing.footprint import Dtype
from bai_pipeline.sizing.ppo_memory import Models
from bai_pipeline.sizing.shape import Head, ModelShape, read_shape, shape_of_settings
from bai_pipeline.study import TO_BE_GIVEN, CriticPath, Study


@dataclass(frozen=True)
class StudyModels:
    """Models and where their shapes were read."""

    models: Models
    sources: dict[str, str]
    """actor, critic, reward model: a config.json, or the study's `model`."""
    notes: tuple[str, ...]
    """A shape that stands in for a checkpoint that is not there; weights that a config does not describe."""


def models_of(study: Study, vocabulary: int) -> StudyModels:
    """The models that PPO loads.

    Args:
        vocabulary: rows of the embedding of a model that is described by the study's `model` alone.

    Raises:
        CheckpointError: a config that is there is not understood.
    """
    described = shape_of_settings(study.model, vocabulary)
    precision, notes, sources = study.ppo.precision, list[str](), dict[str, str]()

    def shape(name: str, path: Path | None, head: Head, otherwise: ModelShape, source: str) -> ModelShape:
        if path is not None and (path / CONFIG_FILE).is_file():
            sources[name] = str(path / CONFIG_FILE)
            found = read_shape(read_json_object(path, CONFIG_FILE), sources[name])
            notes.extend(_differences(name, path, found.parameters(head)))
            return found
        if path is not None:
            absent = "its path is to be given" if str(path) == TO_BE_GIVEN else f"no {CONFIG_FILE} in {path}"
            notes.append(f"{name}: {absent}; {source} stands in for it")
        sources[name] = source
        return otherwise

    actor = shape("actor", study.base.path, "language", described, "the study's model")
    brought, of_actor = study.reward.path, "the actor's shape"
    reward = shape("reward model", brought, "score", actor, of_actor) if study.reward.has_model else None
    if isinstance(study.critic_init, CriticPath):
        critic = shape("critic", study.critic_init.path, "score", actor, of_actor)
    else:
        critic = reward if study.critic_init == "reward" and reward is not None else actor
        sources["critic"] = "the reward model's shape" if critic is reward else of_actor
    scores = reward if study.reward.kind == "model" else None
    dtype = _dtype(brought, precision) if brought is not None else "float32"
    return StudyModels(Models(actor, critic, scores, dtype), sources, tuple(notes))


def _differences(name: str, path: Path, expected: int) -> list[str]:
    """A note if the weights of a checkpoint are not as many as its config describes: another head, padded rows."""
    if not (path / SINGLE_FILE).is_file() and not (path / INDEX_FILE).is_file():
        return []
    found = sum(tensor.elements for tensor in read_tensors(path).values())
    if found == expected:
        return []
    return [f"{name}: {path} holds {found:,} parameters, its config describes {expected:,}"]


def _dtype(path: Path, otherwise: Dtype) -> Dtype:
    """Of a reward model as it was saved."""
    if not (path / CONFIG_FILE).is_file():
        return otherwise
    config = read_json_object(path, CONFIG_FILE)
    return "bfloat16" if (config.get("dtype") or config.get("torch_dtype")) in ("bfloat16", "float16") else "float32"

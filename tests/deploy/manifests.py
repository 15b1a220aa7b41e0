"""The manifests of deploy/, and whether a cluster would accept them: unknown fields are faults everywhere."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jsonschema
import kubernetes_validate
import yaml
from kubeflow_trainer_api import models
from pydantic import BaseModel, ValidationError

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.35"
"""The version whose schemas the manifests must meet."""
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)  # megabytes each time
NOT_MANIFESTS = {"compute.yaml", "study.yaml", "helm-values.yaml", "values.yaml", "kustomization.yaml"}


class Manifest(NamedTuple):
    """One document of a file."""

    file: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content["kind"])

    @property
    def name(self) -> str:
        return str(self.content["metadata"]["name"])


def manifests() -> list[Manifest]:
    """Every document of deploy/ that goes to a cluster as it is written there."""
    found = []
    for directory in ("base", "components", "overlays"):
        for path in sorted((DEPLOY / directory).rglob("*.yaml")):
            if path.name not in NOT_MANIFESTS:
                documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
                found += [Manifest(str(path.relative_to(DEPLOY)), content) for content in documents]
    return found


def faults(content: dict[str, Any]) -> list[str]:
    """Why a cluster would refuse a manifest; empty if it would not."""
    group = str(content["apiVersion"]).partition("/")[0]
    if group == "trainer.kubeflow.org":
        return _trainer_faults(content)
    if group == "kueue.x-k8s.io":
        return [error.message for error in jsonschema.Draft202012Validator(KUEUE[content["kind"]]).iter_errors(content)]
    try:
        kubernetes_validate.validate(content, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def _trainer_faults(content: dict[str, Any]) -> list[str]:
    """Against the models that Kubeflow publishes for its API; they ignore unknown fields, API servers need not."""
    model = getattr(models, f"TrainerV1alpha1{content['kind']}")
    try:
        model.model_validate(content)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return [f"unknown field {path}" for path in _unknown(model, content, "")]


def _unknown(model: type[BaseModel], value: Any, path: str) -> Iterator[str]:
    known = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    for key, inner in value.items():
        if key not in known:
            yield f"{path}.{key}"
            continue
        nested = _model_in(known[key])
        if nested is not None and not _is_a_union_of_scalars(nested):
            for number, item in enumerate(inner if isinstance(inner, list) else [inner]):
                at = f"{path}.{key}[{number}]" if isinstance(inner, list) else f"{path}.{key}"
                if isinstance(item, dict):
                    yield from _unknown(nested, item, at)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside of an annotation such as `Optional[List[Model]]`; a mapping's keys are free."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if annotation is None or getattr(annotation, "__origin__", None) is dict:
        return None
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)


def _is_a_union_of_scalars(model: type[BaseModel]) -> bool:
    """Quantities and numbers-or-text are models with one value."""
    return "actual_instance" in model.model_fields


def closed(**properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _kueue(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    schema = closed(
        apiVersion={"const": "kueue.x-k8s.io/v1beta2"},
        kind={"const": kind},
        metadata=closed(name={"type": "string"}, namespace={"type": "string"}),
        spec=spec,
    )
    return {**schema, "required": ["apiVersion", "kind", "metadata", "spec"]}


TEXT = {"type": "string"}
LABELS = {"type": "object", "additionalProperties": TEXT}
KUEUE = {
    "LocalQueue": _kueue("LocalQueue", {**closed(clusterQueue=TEXT), "required": ["clusterQueue"]}),
    "ResourceFlavor": _kueue("ResourceFlavor", closed(nodeLabels=LABELS)),
    "ClusterQueue": _kueue(
        "ClusterQueue",
        closed(
            namespaceSelector=closed(matchLabels=LABELS),
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            resourceGroups={
                "type": "array",
                "items": closed(
                    coveredResources={"type": "array", "items": TEXT},
                    flavors={
                        "type": "array",
                        "items": closed(
                            name=TEXT,
                            resources={"type": "array", "items": closed(name=TEXT, nominalQuota=TEXT)},
                        ),
                    },
                ),
            },
        ),
    ),
}
"""Kueue publishes no models for Python: the fields that are used here, and no others."""

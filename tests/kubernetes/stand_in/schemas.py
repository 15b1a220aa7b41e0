"""What an API server checks of a manifest before it takes it, unknown fields included."""

from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

KUBERNETES_VERSION = "1.32"
Json = dict[str, Any]


def fault_of(manifest: Json) -> str | None:
    """Why the API server would refuse a Pod or a TrainJob."""
    try:
        if manifest["kind"] == "TrainJob":
            error = jsonschema.exceptions.best_match(_trainjobs().iter_errors(manifest))
            if error is not None:
                raise error
        else:
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    return None


@cache
def _trainjobs() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(trainjob_schema())


def trainjob_schema() -> Json:
    """Of Kubeflow Trainer's own models of its API (package kubeflow-trainer-api); no field but theirs is allowed."""
    closed: Json = _closed(TrainerV1alpha1TrainJob.model_json_schema(by_alias=True))
    for name in closed["$defs"]:
        if name.endswith(("Quantity", "IntOrString")):  # classes in Python, plain values in a manifest
            closed["$defs"][name] = {"type": ["string", "integer", "number"]}
    return closed


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    result = {key: _closed(value) for key, value in node.items() if key != "default"}
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        result["additionalProperties"] = False
    return result

"""The keys of the Dagster chart that the project's values use, and no others.

Written from the documentation of chart 1.13; the chart's own schema was held against the values by hand, as
docs/guide/kubernetes.md says. Parts of pods are Kubernetes' own types, at the version of `manifests.KUBERNETES`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.deploy.manifests import KUBERNETES, LABELS, TEXT, closed

TYPES = "kubernetes:types"


def core(name: str) -> dict[str, str]:
    """A type of Kubernetes' core API."""
    return {"$ref": f"{TYPES}#/$defs/io.k8s.api.core.v1.{name}"}


def some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


NUMBER = {"type": "integer", "minimum": 0}
SWITCH = {"type": "boolean"}
IMAGE = closed(repository=TEXT, tag=TEXT, digest=TEXT, pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]})
POD = {
    "image": IMAGE,
    "labels": LABELS,
    "podSecurityContext": core("PodSecurityContext"),
    "securityContext": core("SecurityContext"),
    "resources": core("ResourceRequirements"),
    "volumes": some(core("Volume")),
    "volumeMounts": some(core("VolumeMount")),
}
SERVER = {**POD, "checkDbReadyInitContainer": SWITCH, "initContainerResources": core("ResourceRequirements")}
READINESS = closed(
    enabled=SWITCH, periodSeconds=NUMBER, timeoutSeconds=NUMBER, successThreshold=NUMBER, failureThreshold=NUMBER
)
ACCOUNT = closed(create=SWITCH, name=TEXT)
VALUES = closed(
    **{
        "global": closed(dagsterHome=TEXT, postgresqlSecretName=TEXT),
        "rbacEnabled": SWITCH,
        "serviceAccount": ACCOUNT,
        "telemetry": closed(enabled=SWITCH),
        "postgresql": closed(
            enabled=SWITCH,
            postgresqlHost=TEXT,
            postgresqlUsername=TEXT,
            postgresqlDatabase=TEXT,
            postgresqlScheme=TEXT,
            service=closed(port=NUMBER),
        ),
        "generatePostgresqlPasswordSecret": SWITCH,
        "generateCeleryConfigSecret": SWITCH,
        "dagsterWebserver": closed(
            **SERVER,
            service=closed(type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, port=NUMBER),
            readinessProbe=core("Probe"),
        ),
        "busybox": closed(image=IMAGE),
        "computeLogManager": closed(
            type={"const": "LocalComputeLogManager"}, config=closed(localComputeLogManager=closed(baseDir=TEXT))
        ),
        "dagster-user-deployments": closed(
            enabled=SWITCH,
            enableSubchart=SWITCH,
            rbacEnabled=SWITCH,
            serviceAccount=ACCOUNT,
            deployments=some(
                closed(
                    **POD,
                    name=TEXT,
                    dagsterApiGrpcArgs=some(TEXT),
                    port=NUMBER,
                    includeConfigInLaunchedRuns=closed(enabled=SWITCH),
                    env=some(core("EnvVar")),
                    readinessProbe=READINESS,
                )
            ),
        ),
        "runLauncher": closed(
            type={"const": "K8sRunLauncher"},
            config=closed(
                k8sRunLauncher=closed(
                    imagePullPolicy=TEXT,
                    loadInclusterConfig=SWITCH,
                    failPodOnRunFailure=SWITCH,
                    securityContext=core("SecurityContext"),
                    runK8sConfig=closed(jobSpecConfig=closed(ttlSecondsAfterFinished=NUMBER)),
                )
            ),
        ),
        "concurrency": closed(
            enabled=SWITCH,
            runs=closed(maxConcurrentRuns=NUMBER),
            pools=closed(defaultLimit=NUMBER, granularity={"enum": ["run", "op"]}),
        ),
        "dagsterDaemon": closed(
            **SERVER,
            runCoordinator=closed(
                enabled=SWITCH,
                type={"const": "QueuedRunCoordinator"},
                config=closed(queuedRunCoordinator=closed(dequeueIntervalSeconds=NUMBER)),
            ),
            runMonitoring=closed(
                enabled=SWITCH,
                startTimeoutSeconds=NUMBER,
                cancelTimeoutSeconds=NUMBER,
                pollIntervalSeconds=NUMBER,
                maxResumeRunAttempts=NUMBER,
                freeSlotsAfterRunEndSeconds=NUMBER,
            ),
            runRetries=closed(enabled=SWITCH, maxRetries=NUMBER, retryOnAssetOrOpFailure=SWITCH),
        ),
        "extraManifests": some({"$ref": f"{TYPES}#/$defs/io.k8s.api.batch.v1.Job"}),
    }
)


@cache
def _validator() -> jsonschema.Draft202012Validator:
    directory = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    types = json.loads((directory / "_definitions.json").read_text(encoding="utf-8"))
    resource = Resource.from_contents({"$defs": types["$defs"]}, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource(TYPES, resource)
    return jsonschema.Draft202012Validator(VALUES, registry=registry)


def faults_of_values(values: dict[str, Any]) -> list[str]:
    """What the chart would not know or take."""
    return [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(values)]

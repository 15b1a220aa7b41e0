"""Jobs as Kubernetes pods, through Dagster's own Pipes client."""

from typing import Any

import kubernetes
from dagster_k8s import PipesK8sClient
from dagster_k8s.client import DagsterK8sError
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from bai_pipeline.errors import ComputeError
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources.compute import Compute, Context, failure, how_it_ended, job_environment, log_file
from resources.compute_file import KubernetesSettings

JOB_LABEL = "bai-pipeline/job"
RUN_LABEL = "bai-pipeline/run"
"""These labels find a job's pod again: the Pipes client chooses the pod's name itself."""
_PIPES_MESSAGE = '{"__dagster_pipes_version"'


class KubernetesCompute(Compute):
    """One pod a job, with the store's volume mounted at the same path as here."""

    settings: KubernetesSettings

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings
        self.result_timeout = settings.result_timeout

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        settings, log = self.settings, log_file(spec, store)
        labels = {JOB_LABEL: spec.identity, RUN_LABEL: context.run.run_id}
        api = self._api()
        client = PipesK8sClient(
            kubeconfig_file=str(settings.kubeconfig) if settings.kubeconfig else None,
            kube_context=settings.kube_context,
            poll_interval=settings.poll_interval,
        )
        lines: list[str] = []
        code: int | None = None
        try:
            try:
                client.run(
                    context=context,
                    image=settings.image,
                    command=[*settings.command, uri],
                    namespace=settings.namespace,
                    env=job_environment(settings, store),
                    base_pod_meta={"labels": labels},
                    base_pod_spec=pod_spec(settings, spec.kind, store),
                    pod_wait_timeout=settings.pod_wait_timeout,
                    delete_pod_on_completion=False,  # `_collect` reads its log and exit code first
                )
            finally:
                lines, code = self._collect(api, labels)
                with log.open("a", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in lines)
        except (DagsterK8sError, ApiException, HTTPError) as error:
            how = "failed in its pod" if code is None else f"{how_it_ended(code)} in its pod"
            raise failure(spec, how, log, lines or str(error).splitlines(), code) from error

    def _api(self) -> kubernetes.client.CoreV1Api:
        """A client of the cluster that the settings name, found as `PipesK8sClient` finds it."""
        settings = self.settings
        try:
            if settings.kubeconfig is None and settings.kube_context is None:
                kubernetes.config.load_config()
            else:
                file = str(settings.kubeconfig) if settings.kubeconfig else None
                kubernetes.config.load_kube_config(config_file=file, context=settings.kube_context)
        except kubernetes.config.ConfigException as error:
            raise ComputeError(f"compute is kubernetes, but no cluster is configured: {error}") from error
        return kubernetes.client.CoreV1Api()

    def _collect(self, api: kubernetes.client.CoreV1Api, labels: dict[str, str]) -> tuple[list[str], int | None]:
        """The log and exit code of a job's pod, which is deleted: also when the run was cancelled."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        lines: list[str] = []
        code: int | None = None
        for pod in api.list_namespaced_pod(self.settings.namespace, label_selector=selector).items:
            name = pod.metadata.name
            statuses = pod.status.container_statuses or []
            ended = statuses[0].state.terminated if statuses else None
            if ended is not None:
                code = ended.exit_code
                # With its content preloaded the client gives the text of a bytes literal.
                response = api.read_namespaced_pod_log(name, self.settings.namespace, _preload_content=False)
                text = response.data.decode("utf-8", errors="replace")
                lines += [line for line in text.splitlines() if not line.startswith(_PIPES_MESSAGE)]
            api.delete_namespaced_pod(name, self.settings.namespace)
        return lines, code


def pod_spec(settings: KubernetesSettings, kind: str, store: Store) -> dict[str, Any]:
    """The pod of a kind of job, as far as it does not depend on the job (Kubernetes' own field names)."""
    asked = settings.resources_of(kind)
    amounts = {"cpu": asked.cpu, "memory": asked.memory}
    mounts: list[dict[str, Any]] = [{"name": "store", "mountPath": str(store.root)}]
    volumes: list[dict[str, Any]] = [
        {"name": "store", "persistentVolumeClaim": {"claimName": settings.store_claim}},
    ]
    for number, (claim, path) in enumerate(settings.claims.items()):
        mounts.append({"name": f"claim-{number}", "mountPath": path, "readOnly": True})
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if asked.gpus:
        amounts[settings.gpu_resource] = str(asked.gpus)
        # NCCL and data loaders share memory between ranks; a pod's own /dev/shm is 64 MiB.
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    container = {"resources": {"requests": amounts, "limits": amounts}, "volumeMounts": mounts}
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": volumes,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.termination_grace,
        "automountServiceAccountToken": False,
    }
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    if settings.node_selector:
        spec["nodeSelector"] = settings.node_selector
    if settings.tolerations:
        spec["tolerations"] = settings.tolerations
    return spec

"""Thin Dagster wrappers: the store, the study's plan, and compute (local subprocess, Kubernetes pod or TrainJob)."""

from resources.cluster_settings import KubernetesSettings, TrainJobSettings
from resources.compute import Compute, ComputeResource, Context, Finished
from resources.compute_file import AnySettings, ComputeSettings, LocalSettings, load_compute
from resources.local import LocalCompute
from resources.store import StoreResource
from resources.study import StudyResource

__all__ = [
    "Compute",
    "ComputeResource",
    "ComputeSettings",
    "Context",
    "Finished",
    "KubernetesSettings",
    "LocalCompute",
    "LocalSettings",
    "StoreResource",
    "StudyResource",
    "TrainJobSettings",
    "build_compute",
    "load_compute",
]


def build_compute(settings: AnySettings) -> Compute:
    """The compute that a compute file asks for; the Kubernetes client is imported only where it is used."""
    if isinstance(settings, LocalSettings):
        return LocalCompute(settings)
    from resources.kubernetes import ClusterCompute

    return ClusterCompute(settings)

"""Thin Dagster wrappers: the store, the study's plan, and compute (local subprocess or Kubernetes pod)."""

from resources.compute import Compute, ComputeResource, Context, Finished
from resources.compute_file import ComputeSettings, KubernetesSettings, LocalSettings, load_compute
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
    "build_compute",
    "load_compute",
]


def build_compute(settings: ComputeSettings) -> Compute:
    """The compute that a compute file asks for; the Kubernetes client is imported only where it is used."""
    if isinstance(settings, LocalSettings):
        return LocalCompute(settings)
    from resources.kubernetes import KubernetesCompute

    return KubernetesCompute(settings)

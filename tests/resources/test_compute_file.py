"""The compute file: its defaults, its faults, and that it is nothing of a job's identity."""

from pathlib import Path

import pytest

from bai_pipeline.errors import ComputeError
from resources import KubernetesSettings, LocalCompute, LocalSettings, build_compute, load_compute
from resources.compute_file import PodResources


def written(directory: Path, text: str) -> Path:
    path = directory / "compute.yaml"
    path.write_text(text)
    return path


def test_without_a_file_jobs_are_local() -> None:
    assert load_compute(None) == LocalSettings()
    assert isinstance(build_compute(LocalSettings()), LocalCompute)


def test_a_kubernetes_file_is_read(tmp_path: Path) -> None:
    text = (
        "kind: kubernetes\nimage: registry.example/bai-jobs:1.0\nstore_claim: bai-store\n"
        "resources:\n  ppo: {cpu: '16', memory: 128Gi, gpus: 8}\n"
    )
    settings = load_compute(written(tmp_path, text))
    assert isinstance(settings, KubernetesSettings)
    assert settings.resources_of("ppo") == PodResources(cpu="16", memory="128Gi", gpus=8)
    assert settings.resources_of("evaluate").gpus == 0


def test_every_fault_is_told_with_its_line(tmp_path: Path) -> None:
    text = "kind: kubernetes\nimage: x\nstore_claim: Bai_Store\nresources:\n  ppo: {cpu: much, memory: 1Gi}\nspeed: 9\n"
    path = written(tmp_path, text)
    with pytest.raises(ComputeError) as caught:
        load_compute(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.split(": ")[:2] for line in sorted(lines)] == [
        [f"{path}:3", "store_claim"],
        [f"{path}:5", "resources.ppo.cpu"],
        [f"{path}:6", "speed"],
    ]


@pytest.mark.parametrize("text", ["kind: slurm\n", "threads: 2\n"])
def test_a_kind_that_is_not_there_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ComputeError, match="kind: must be local or kubernetes"):
        load_compute(written(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ComputeError, match=r"cannot read the compute file .*nowhere\.yaml"):
        load_compute(tmp_path / "nowhere.yaml")

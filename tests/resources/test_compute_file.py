"""The compute file: its defaults, its faults, and that it is nothing of a job's identity."""

from pathlib import Path

import pytest

from bai_pipeline.errors import ComputeError
from resources import KubernetesSettings, LocalCompute, LocalSettings, TrainJobSettings, build_compute, load_compute

CLUSTER = "image: registry.example/bai-jobs:1.0\nstore_claim: bai-store\n"


def written(directory: Path, text: str) -> Path:
    path = directory / "compute.yaml"
    path.write_text(text)
    return path


def faults(path: Path) -> list[str]:
    """Each fault that loading the file tells, sorted."""
    with pytest.raises(ComputeError) as caught:
        load_compute(path)
    return sorted(line.strip() for line in str(caught.value).splitlines()[1:])


def test_without_a_file_jobs_are_local() -> None:
    assert load_compute(None) == LocalSettings()
    assert isinstance(build_compute(LocalSettings()), LocalCompute)


def test_what_a_kind_of_job_does_not_say_default_says(tmp_path: Path) -> None:
    jobs = (
        "jobs:\n  default: {cpu: '2', memory: 8Gi, queue: gpus, env: {A: '1'}}\n"
        "  ppo: {memory: 128Gi, gpus: 8, env: {B: '2'}}\n"
    )
    settings = load_compute(written(tmp_path, f"kind: kubernetes\n{CLUSTER}{jobs}"))
    assert isinstance(settings, KubernetesSettings)
    ppo, evaluate = settings.job("ppo"), settings.job("evaluate")
    assert (ppo.cpu, ppo.memory, ppo.gpus, ppo.queue, ppo.env) == ("2", "128Gi", 8, "gpus", {"B": "2"})
    assert (evaluate.cpu, evaluate.memory, evaluate.gpus, evaluate.env) == ("2", "8Gi", 0, {"A": "1"})


def test_without_a_word_on_jobs_a_pod_has_one_cpu_and_four_gibibytes(tmp_path: Path) -> None:
    settings = load_compute(written(tmp_path, f"kind: kubernetes\n{CLUSTER}"))
    assert isinstance(settings, KubernetesSettings)
    assert (settings.job("ppo").cpu, settings.job("ppo").memory) == ("1", "4Gi")


def test_a_file_for_several_nodes_is_read(tmp_path: Path) -> None:
    text = f"kind: trainjob\n{CLUSTER}ppo: {{ranks: 64, zero_stage: 3}}\njobs:\n  ppo: {{nodes: 8, gpus: 8}}\n"
    settings = load_compute(written(tmp_path, text))
    assert isinstance(settings, TrainJobSettings)
    assert (settings.job("ppo").nodes, settings.job("ppo").per_node, settings.gpus_of("ppo")) == (8, 8, 64)
    assert settings.job("evaluate").nodes == 1


def test_every_fault_is_told_with_its_line(tmp_path: Path) -> None:
    text = (
        "kind: kubernetes\nimage: x\nstore_claim: Bai_Store\njobs:\n"
        "  ppo: {cpu: much, memory: 1Gi}\n"
        "  default:\n"
        "    volumes: {a: {mount: /a, claim: x, disk: 1Gi}}\n"
        "    tolerations: [{key: gpu, operator: Perhaps}]\n"
        "speed: 9\n"
    )
    path = written(tmp_path, text)
    assert [fault.split(": ")[:2] for fault in faults(path)] == [
        [f"{path}:3", "store_claim"],
        [f"{path}:5", "jobs.ppo.cpu"],
        [f"{path}:7", "jobs.default.volumes.a"],
        [f"{path}:8", "jobs.default.tolerations.0.operator"],
        [f"{path}:9", "speed"],
    ]


def test_a_kind_of_job_that_there_is_not_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, f"kind: kubernetes\n{CLUSTER}jobs:\n  pp0: {{gpus: 8}}\n  ppo: {{memory: lots}}\n")
    kind, memory = faults(path)
    assert kind.startswith(f"{path}:5: jobs.pp0: unknown kind of job; known are default, ")
    assert memory == f"{path}:6: jobs.ppo.memory: expected an amount such as 500m, 2 or 8Gi, got 'lots'"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "ppo: {ranks: 8}\njobs:\n  ppo: {nodes: 2, gpus: 8}\n",
            "4: ppo.ranks: 8 ranks, but ppo has 2 nodes with 8 ranks each (16)",
        ),
        (
            "supervised: {ranks: 4}\njobs:\n  reward: {nodes: 3, ranks_per_node: 1}\n",
            "4: supervised.ranks: 4 ranks, but reward has 3 nodes with 1 ranks each (3)",
        ),
        (
            "ppo: {ranks: 4}\njobs:\n  ppo: {nodes: 2, ranks_per_node: 2, gpus: 1}\n",
            "6: jobs.ppo.ranks_per_node: 2 ranks need a GPU each, but a node has 1",
        ),
        (
            "jobs:\n  evaluate: {nodes: 2}\n",
            "5: jobs.evaluate.nodes: evaluate jobs run on one node; ppo, pretrain, finetune, reward can have several",
        ),
        (
            "ppo: {ranks: 2}\njobs:\n  ppo: {nodes: 2, priority_class: high}\n",
            "6: jobs.ppo.priority_class: a TrainJob takes it from its training runtime; leave it out",
        ),
        (
            "ppo: {ranks: 8}\njobs:\n  ppo: {gpus: 4}\n",
            "4: ppo.ranks: 8 ranks need a GPU each, but the pod of ppo has 4",
        ),
    ],
)
def test_nodes_gpus_and_ranks_that_do_not_agree_are_told_before_anything_runs(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = written(tmp_path, f"kind: trainjob\n{CLUSTER}{text}")
    assert f"{path}:{fault}" in faults(path)


@pytest.mark.parametrize("text", ["kind: slurm\n", "threads: 2\n"])
def test_a_kind_that_is_not_there_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ComputeError, match="kind: must be local, kubernetes or trainjob"):
        load_compute(written(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ComputeError, match=r"cannot read the compute file .*nowhere\.yaml"):
        load_compute(tmp_path / "nowhere.yaml")

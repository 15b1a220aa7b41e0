"""Every fault that is expected of a cluster, what a person sees of it, and what is done: tests run it, the guide shows
it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tests.kubernetes.stand_in import ApiAnswer, PodFault
from tests.kubernetes.stand_in.faults import (
    deleted,
    drained,
    evicted,
    hold,
    killed,
    node_lost,
    overdue,
    preempted,
    told_to_end,
    unschedulable,
)


class What(Enum):
    """What is done about a fault; the values are the guide's words."""

    GOES_ON = "the run waits, and goes on"
    STARTS_AGAIN = "another pod goes on from the last checkpoint, within the run"
    RETRIED = "the step fails and is tried again"
    FINAL = "the step fails for good"


@dataclass(frozen=True)
class Row:
    """One fault: how it is made, and what has to come of it."""

    fault: str
    what: What
    says: str = ""
    """A part of the run's error, or where it succeeds of the run's log."""
    pods: tuple[tuple[PodFault, ...], ...] = ()
    """Faults of the pods in the order of their creation."""
    answers: tuple[ApiAnswer, ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    """Events that the cluster tells of every pod: reason and message."""
    settings: Mapping[str, object] = field(default_factory=dict)
    job: str = "count"
    nodes: int = 1
    created: int | None = None
    """How many workloads were made; None: 2 where another pod goes on, else 1."""
    repeated: int = 0
    """Steps that may be computed twice: one for each kill without warning, with a checkpoint after every step."""
    left: bool = False
    """The pod is left running."""
    quick: bool = False
    """One of the rows that run with every test run."""

    @property
    def workloads(self) -> int:
        return self.created if self.created is not None else 2 if self.what is What.STARTS_AGAIN else 1


POD = r"/pods/[^/]+$"
LOG = r"/log$"
CREATE = r"/pods$"
NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
NO_PULL = 'Back-off pulling image "registry.example/bai-jobs:1.0"'
NO_SECRET = 'secret "judge" not found'
FORBIDDEN = (
    'pods is forbidden: User "system:serviceaccount:default:dagster" cannot create resource "pods" in API group ""'
)
QUOTA = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: 8, limited: 8'
ADMISSION = 'admission webhook "policy.example" denied the request: hostPath volumes are not allowed'

TABLE = (
    # -- ended by the cluster
    Row("pod evicted by its node", What.STARTS_AGAIN, "Evicted", pods=((evicted("step 3"),),), quick=True),
    Row(
        "pod preempted by one of higher priority", What.STARTS_AGAIN, "PreemptionByScheduler", ((preempted("step 3"),),)
    ),
    Row("node drained or shut down", What.STARTS_AGAIN, "TerminationByKubelet", ((drained("step 3"),),)),
    Row(
        "node silent for longer than `node_timeout`",
        What.STARTS_AGAIN,
        "NodeLost",
        ((node_lost("step 3"),),),
        repeated=1,
    ),
    Row(
        "node lost, its pod deleted by the node controller",
        What.STARTS_AGAIN,
        "DeletionByTaintManager",
        ((node_lost("step 3", 0.4),),),
        repeated=1,
    ),
    Row("pod deleted by somebody", What.STARTS_AGAIN, "(saved its state|it was deleted)", ((deleted("step 3"),),)),
    Row(
        "job told to end, state saved (exit code 75)", What.STARTS_AGAIN, "saved its state", ((told_to_end("step 3"),),)
    ),
    Row(
        "the same more often than `disruptions`",
        What.RETRIED,
        "was ended by the cluster in Pod .*, 2 times in a row: Evicted",
        ((evicted("step 2"),), (evicted("step 4"),)),
        settings={"disruptions": 1},
        created=2,
    ),
    # -- ended by itself
    Row("job crashes", What.RETRIED, "failed with exit code 1 in Pod .*ZeroDivisionError", job="crash"),
    Row("job refuses its input (exit code 3)", What.FINAL, "refused its input .*DataError", job="refuse"),
    Row("out of memory", What.FINAL, "OOMKilled; it had 4Gi of memory", ((killed("step 3"),),), quick=True),
    Row(
        "longer than its `deadline`",
        What.FINAL,
        "DeadlineExceeded: .*its deadline is 60 s",
        ((overdue("step 3"),),),
        settings={"jobs": {"default": {"deadline": 60}}},
    ),
    Row(
        "result visible only after a while (network file system)",
        What.GOES_ON,
        job="late",
        settings={"result_timeout": 20},
    ),
    Row("no result within `result_timeout`", What.RETRIED, "ended without a result in the store", job="vanish"),
    # -- does not start
    Row("image cannot be pulled for a moment", What.GOES_ON, "ErrImagePull", ((hold("ErrImagePull", NO_PULL, 0.5),),)),
    Row(
        "image cannot be pulled within `start_timeout`",
        What.FINAL,
        "ImagePullBackOff: Back-off pulling image",
        ((hold("ImagePullBackOff", NO_PULL),),),
    ),
    Row(
        "image has no valid name",
        What.FINAL,
        "InvalidImageName",
        ((hold("InvalidImageName", "couldn't parse image"),),),
    ),
    Row(
        "secret or config map missing",
        What.FINAL,
        'CreateContainerConfigError: secret "judge" not found',
        ((hold("CreateContainerConfigError", NO_SECRET),),),
    ),
    Row(
        "program not in the image",
        What.FINAL,
        "StartError: .*no-such-program",
        settings={"command": ["no-such-program"]},
    ),
    Row("no node has room for a while", What.GOES_ON, "Insufficient nvidia.com/gpu", ((unschedulable(NO_NODE, 0.5),),)),
    Row(
        "volume cannot be mounted within `schedule_timeout`",
        What.FINAL,
        'FailedMount: .*configmap "nccl" not found',
        pods=((hold("ContainerCreating"),),),
        warnings=(("FailedMount", 'MountVolume.SetUp failed for volume "extra-nccl": configmap "nccl" not found'),),
    ),
    Row(
        "no node has room within `schedule_timeout`",
        What.FINAL,
        "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        ((unschedulable(NO_NODE),),),
    ),
    Row(
        "held by a Kueue queue, however long",
        What.GOES_ON,
        "SchedulingGated",
        ((unschedulable("Scheduling is blocked due to non-empty scheduling gates", 1.5, "SchedulingGated"),),),
    ),
    # -- the API server
    Row(
        "401: nobody it knows",
        What.FINAL,
        r"who asks \(401\) to create pods",
        answers=(ApiAnswer("POST", CREATE, 401),),
        created=0,
    ),
    Row(
        "403: a right is missing",
        What.FINAL,
        r"the right to create pods in namespace default is missing \(403\): pods is forbidden",
        answers=(ApiAnswer("POST", CREATE, 403, FORBIDDEN),),
        created=0,
        quick=True,
    ),
    Row(
        "403: the right to read logs is missing",
        What.FINAL,
        "the right to get pods/log in namespace default is missing",
        answers=(ApiAnswer("GET", LOG, 403, "pods/log is forbidden", times=100),),
    ),
    Row(
        "403: quota used up for a while",
        What.GOES_ON,
        "exceeded quota",
        answers=(ApiAnswer("POST", CREATE, 403, QUOTA, times=3),),
    ),
    Row(
        "403: quota used up for longer than `schedule_timeout`",
        What.RETRIED,
        "no room to create pods .*exceeded quota: gpus",
        answers=(ApiAnswer("POST", CREATE, 403, QUOTA, times=1000),),
        created=0,
    ),
    Row(
        "404: no such namespace",
        What.FINAL,
        'namespaces "elsewhere" not found',
        settings={"namespace": "elsewhere"},
        created=0,
    ),
    Row(
        "409: the pod is there already, and ours (the answer to its creation was lost)",
        What.GOES_ON,
        "taken over",
        answers=(ApiAnswer("POST", CREATE, -1),),
        quick=True,
    ),
    Row(
        "422: an admission rule refuses the pod",
        What.FINAL,
        r"refused to create pods .*\(422\): .*hostPath",
        answers=(ApiAnswer("POST", CREATE, 422, ADMISSION),),
        created=0,
    ),
    Row(
        "429 with Retry-After",
        What.GOES_ON,
        answers=(ApiAnswer("GET", POD, 429, headers={"Retry-After": "1"}, times=2),),
    ),
    Row("410: a list has expired", What.GOES_ON, answers=(ApiAnswer("GET", CREATE, 410, times=2),)),
    Row(
        "500 or 503",
        What.GOES_ON,
        answers=(ApiAnswer("GET", POD, 500, times=2), ApiAnswer("POST", CREATE, 503, times=2)),
    ),
    Row("connection closed", What.GOES_ON, answers=(ApiAnswer("GET", POD, 0, times=3),)),
    Row(
        "no answer within `request_timeout`",
        What.GOES_ON,
        answers=(ApiAnswer("GET", POD, 500, hang=2.0),),
        settings={"request_timeout": 0.5},
    ),
    Row(
        "no answer within `api_timeout`",
        What.RETRIED,
        "the API server did not get pods in namespace default for 1 s",
        answers=(ApiAnswer("GET", POD, 503, times=1000, after=2),),
        settings={"api_timeout": 1.0},
        job="sleep",
        left=True,
    ),
    Row(
        "log breaks off in the middle of a line",
        What.GOES_ON,
        answers=(ApiAnswer("GET", LOG, cut=30, times=4),),
        quick=True,
    ),
    Row("log not to be had for a while", What.GOES_ON, answers=(ApiAnswer("GET", LOG, 500, times=4),)),
    # -- TrainJobs
    Row("TrainJob: the pod of one node evicted", What.STARTS_AGAIN, "Evicted", ((), (evicted("node 1"),)), nodes=2),
    Row(
        "TrainJob: the pod of one node deleted",
        What.STARTS_AGAIN,
        "(saved its state|the pod of node 1 was deleted)",
        ((), (deleted("node 1"),)),
        nodes=2,
    ),
    Row("TrainJob: one node lost", What.STARTS_AGAIN, "NodeLost", ((), (node_lost("node 1"),)), nodes=2),
    Row("TrainJob: one node runs out of memory", What.FINAL, "OOMKilled", ((), (killed("node 1"),)), nodes=2),
    Row(
        "TrainJob: one node crashes",
        What.RETRIED,
        "failed with exit code 1 in TrainJob .*lost its connection",
        nodes=2,
        job="node_crash",
    ),
    Row(
        "TrainJob: the first node refuses its input, the others lose their connection",
        What.FINAL,
        "refused its input in TrainJob .*DataError",
        nodes=2,
        job="refuse",
        quick=True,
    ),
    Row(
        "TrainJob: failed by its controller (runtime not supported)",
        What.FINAL,
        "TrainingRuntimeNotSupported",
        nodes=2,
        job="sleep",
        settings={"jobs": {"pretrain": {"nodes": 2, "runtime": "no-such-runtime"}}},
    ),
    Row(
        "TrainJob: suspended by Kueue, however long",
        What.GOES_ON,
        "Suspended",
        nodes=2,
        settings={"jobs": {"pretrain": {"nodes": 2, "queue": "gpus"}}},
    ),
)

"""A stand-in for a Kubernetes API server whose pods really run: pods, their logs and events, TrainJobs, faults."""

from tests.kubernetes.stand_in.faults import ApiAnswer, PodFault
from tests.kubernetes.stand_in.pods import Pod
from tests.kubernetes.stand_in.server import StandIn

__all__ = ["ApiAnswer", "Pod", "PodFault", "StandIn"]

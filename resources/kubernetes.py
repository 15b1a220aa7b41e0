"""Jobs as pods and TrainJobs: started once, watched, taken over by a later run, ended with theirs.

See docs/design/010-pods-and-faults.md for why, and docs/guide/kubernetes.md for what is done about every fault.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg
from dagster import PipesEnvContextInjector, open_pipes_session

from bai_pipeline.jobs.runner import read_result
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources.attachments import Attachment, attached_elsewhere, attachments_of, note_attachment
from resources.cluster_api import PODS, TRAINJOBS, AlreadyExistsError, ApiFault, Cluster
from resources.cluster_settings import KubernetesSettings, TrainJobSettings
from resources.compute import Compute, Context, failure, how_it_ended, job_environment, log_file
from resources.manifests import JOB_LABEL, Launch, is_spread, pod, trainjob
from resources.pod_log import PodLogReader
from resources.pod_status import Stage, Verdict
from resources.workloads import PodWorkload, TrainJobWorkload, Workload

Json = dict[str, Any]
_SETTLE_POLLS = 3
_LEAVING = 0.5
"""Seconds between two looks at a workload that is being deleted."""


class ClusterCompute(Compute):
    """One pod a job, or one TrainJob where a kind of job has several nodes; the store is mounted at the same path."""

    outlives_runs = True

    def __init__(self, settings: KubernetesSettings | TrainJobSettings) -> None:
        self.settings: KubernetesSettings | TrainJobSettings = settings
        self.result_timeout = settings.result_timeout

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        with _faults_are_failures(spec, store):
            _Launched(context, self.settings, Cluster(self.settings), spec, uri, store).to_its_end()

    def release(self, instance: dg.DagsterInstance, run_id: str) -> list[str]:
        cluster = Cluster(self.settings)
        released = []
        for attachment in attachments_of(instance, run_id):
            resource = TRAINJOBS if attachment.resource == TRAINJOBS.plural else PODS
            if attached_elsewhere(instance, attachment, run_id) or cluster.get(resource, attachment.name) is None:
                continue
            cluster.delete(resource, attachment.name)
            released.append(f"{resource.kind} {attachment.name}")
        return released


@contextmanager
def _faults_are_failures(spec: JobSpec, store: Store) -> Iterator[None]:
    """What the API server refused, or did not answer, as the failure of the job."""
    try:
        yield
    except ApiFault as fault:
        raise failure(spec, f"cannot be run: {fault}", log_file(spec, store), [], final=fault.final) from fault


class _Launched:
    """A job on its way: from finding or making its workload to how that ended."""

    def __init__(
        self,
        context: Context,
        settings: KubernetesSettings | TrainJobSettings,
        cluster: Cluster,
        spec: JobSpec,
        uri: str,
        store: Store,
    ) -> None:
        self._context, self._settings, self._cluster = context, settings, cluster
        self._spec, self._store, self._reader = spec, store, PodLogReader()
        self._order = Launch(spec.identity, spec.kind, uri, store.root, store.location, context.run.run_id, {})
        self._log = log_file(spec, store)
        self._resource = TRAINJOBS if is_spread(settings, spec.kind) else PODS

    def to_its_end(self) -> None:
        """Run the job, and again after a disruption, as often as the settings allow.

        Raises:
            dagster.Failure: it did not end well.
            ApiFault: the cluster cannot be asked.
        """
        for left in range(self._settings.disruptions, -1, -1):
            workload, verdict = self._once()
            if verdict.stage is Stage.COMPLETED or read_result(self._spec, self._store) is not None:
                return
            if verdict.stage is not Stage.DISRUPTED or left == 0:
                raise self._failure(workload, verdict)
            self._context.log.warning(
                "%s %s was ended by the cluster (%s); the job goes on from its last checkpoint in another one",
                self._resource.kind,
                workload.name,
                verdict.said,
            )

    def _once(self) -> tuple[Workload, Verdict]:
        """One workload to its end, with a Pipes session of its own: a process opens it and closes it."""
        self._reader = PodLogReader()
        with open_pipes_session(self._context, PipesEnvContextInjector(), self._reader) as session:
            environment = {**session.get_bootstrap_env_vars(), **job_environment(self._settings, self._store)}
            self._order = replace(self._order, environment=environment)
            workload = self._find_or_create()
            return workload, self._follow(workload)

    # -- which workload ------------------------------------------------------------------------------------------------

    def _find_or_create(self) -> Workload:
        """The workload that runs this very specification already, or a new one."""
        waited = False
        while True:
            known = self._known()
            live = [workload for workload in known if not workload.is_leaving]
            for workload in live:
                if workload.uri != self._order.uri:
                    continue
                verdict = workload.look()
                if not verdict.stage.is_end or verdict.stage is Stage.COMPLETED:
                    self._attach(workload.name)
                    self._context.log.info("%s %s runs this job; taken over", self._resource.kind, workload.name)
                    return workload
                workload.copy_logs(whole=True)  # nobody was there when it ended
                workload.delete()
            others = [w for w in live if w.uri != self._order.uri and not w.look().stage.is_end]
            if not others:
                created = self._create(1 + max((workload.attempt for workload in known), default=0))
                if created is not None:
                    return created
            elif not waited:
                waited = True
                self._context.log.info(
                    "%s %s runs this job with another specification (%s); waiting for its end",
                    self._resource.kind,
                    others[0].name,
                    others[0].uri,
                )
            time.sleep(self._settings.poll_interval)

    def _known(self) -> list[Workload]:
        found = self._cluster.find(self._resource, labels=self._order.own(self._settings))
        return [self._workload(manifest) for manifest in found]

    def _workload(self, manifest: Json) -> Workload:
        if self._resource is PODS:
            return PodWorkload(self._cluster, manifest, self._log, self._reader.accept)
        settle = _SETTLE_POLLS * self._settings.poll_interval
        return TrainJobWorkload(self._cluster, manifest, self._log, self._reader.accept, settle=settle)

    def _create(self, attempt: int) -> Workload | None:
        """A new workload; None: somebody else has just made one of this name for the same job.

        Raises:
            ApiFault: refused; also where the name belongs to something else.
        """
        name = self._order.name(attempt, self._settings)
        self._attach(name)
        began = time.monotonic()
        while True:
            try:
                manifest = self._cluster.create(self._resource, self._manifest(attempt))
            except AlreadyExistsError:
                there = self._cluster.get(self._resource, name)
                if there is None or there["metadata"].get("labels", {}).get(JOB_LABEL) == self._order.identity:
                    return None
                raise ApiFault(
                    f"{self._resource.kind} {name} in namespace {self._cluster.namespace} is in the way: it is not of "
                    "this job, so it is left alone; delete or rename it",
                    final=True,
                ) from None
            except ApiFault as fault:
                if not fault.quota or time.monotonic() - began > self._settings.schedule_timeout:
                    raise
                self._context.log.info("waiting: %s", fault)
                time.sleep(self._settings.poll_interval)
                continue
            self._context.log.info("created %s %s", self._resource.kind, name)
            return self._workload(manifest)

    def _manifest(self, attempt: int) -> Json:
        if isinstance(self._settings, TrainJobSettings) and self._resource is TRAINJOBS:
            return trainjob(self._settings, self._order, attempt)
        return pod(self._settings, self._order, attempt)

    def _attach(self, name: str) -> None:
        note_attachment(self._context.instance, self._order.run, self._attachment(name))

    def _attachment(self, name: str) -> Attachment:
        return Attachment(self._order.identity, self._resource.plural, name)

    # -- to its end ----------------------------------------------------------------------------------------------------

    def _follow(self, workload: Workload) -> Verdict:
        """How a workload ended, or why it was given up. It is deleted then, and when the run is cancelled; only where
        the API server is silent it is left alone, for a later run to take over."""
        try:
            verdict, lost = self._watch(workload)
        except ApiFault as fault:
            if not fault.silent:
                self._end(workload)
            raise
        except BaseException:  # the run is cancelled
            self._end(workload)
            raise
        try:
            workload.copy_logs(whole=True)
        finally:
            self._end(workload, is_done=verdict.stage is Stage.COMPLETED)
        if verdict.stage is Stage.DISRUPTED and not lost:
            self._see_off(workload)
        return verdict

    def _end(self, workload: Workload, *, is_done: bool = False) -> None:
        """Delete it, unless another run waits for it; whoever waits for what is done finds the result."""
        attachment = self._attachment(workload.name)
        if not is_done and attached_elsewhere(self._context.instance, attachment, self._order.run):
            self._context.log.info("%s is left to another run that waits for it", workload.name)
            return
        workload.delete()

    def _see_off(self, workload: Workload) -> None:
        """Wait for what saves its state, and for its last words; so no two hold the same GPUs."""
        deadline = time.monotonic() + self._settings.termination_grace
        while time.monotonic() < deadline and not workload.is_gone():
            workload.copy_logs()
            time.sleep(self._pause(leaving=True))

    def _pause(self, *, leaving: bool) -> float:
        """Of what is being deleted the log will soon be gone, too."""
        return min(self._settings.poll_interval, _LEAVING) if leaving else self._settings.poll_interval

    def _watch(self, workload: Workload) -> tuple[Verdict, bool]:
        """The end of a workload, and whether it cannot be waited for since its node is lost."""
        limits = {
            Stage.UNSCHEDULED: self._settings.schedule_timeout,
            Stage.STARTING: self._settings.schedule_timeout,
            Stage.BLOCKED: self._settings.start_timeout,
            Stage.LOST: self._settings.node_timeout,
        }
        stage, since, told = None, time.monotonic(), False
        while True:
            verdict = workload.look()
            if verdict.stage.is_end:
                return verdict, False
            if verdict.stage is not stage:
                stage, since, told = verdict.stage, time.monotonic(), False
                self._context.log.info(
                    "%s is %s%s", workload.name, stage.value, f" ({verdict.said})" if verdict.said else ""
                )
            if time.monotonic() - since > limits.get(stage, float("inf")):
                return self._given_up(verdict, limits[stage]), stage is Stage.LOST
            if stage is Stage.STARTING and not told and time.monotonic() - since > self._settings.start_timeout:
                told = True
                self._context.log.warning("%s does not start: %s", workload.name, "; ".join(workload.warnings()))
            if stage in (Stage.RUNNING, Stage.LOST):
                workload.copy_logs()
            time.sleep(self._pause(leaving=workload.is_leaving))

    def _given_up(self, verdict: Verdict, waited: float) -> Verdict:
        said = f"{verdict.said} (for {waited:g} s)"
        return Verdict(Stage.DISRUPTED if verdict.stage is Stage.LOST else Stage.BROKEN, said)

    def _failure(self, workload: Workload, verdict: Verdict) -> dg.Failure:
        where = f"in {self._resource.kind} {workload.name}"
        code = verdict.exit_code
        if verdict.stage is Stage.DISRUPTED:
            how = f"was ended by the cluster {where}, {self._settings.disruptions + 1} times in a row: {verdict.said}"
        elif verdict.said and (verdict.stage is Stage.BROKEN or code is None):
            how = f"failed {where}: {verdict.said}{self._advice(verdict)}"
        else:
            how = f"{how_it_ended(1 if code is None else code)} {where}" + (f": {verdict.said}" if verdict.said else "")
        tail = workload.tail() or workload.warnings()
        return failure(self._spec, how, self._log, tail, code, final=verdict.stage is Stage.BROKEN)

    def _advice(self, verdict: Verdict) -> str:
        asked = self._settings.job(self._spec.kind)
        if verdict.said.startswith("OOMKilled"):
            return f"; it had {asked.memory} of memory (jobs.{self._spec.kind}.memory in the compute file)"
        if verdict.said.startswith("DeadlineExceeded"):
            return f"; its deadline is {asked.deadline} s (jobs.{self._spec.kind}.deadline in the compute file)"
        return ""

"""What has become of pipeline runs and tasks; asked by ``tracklayer reconcile``.

Of a run on a cluster KFP's API is asked, with KFP's own client, which knows the ways to log in. Of a run by the local
runner, of which nobody keeps a record, its process is.
"""

from __future__ import annotations

import os
import time
import warnings
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import State
from tracklayer.ending import DIED
from tracklayer.forking import ProcessLock
from tracklayer.identity import SUPERSEDED_TAG
from tracklayer.json_text import decoded
from tracklayer.machine import PROCESS_TAG, process_of
from tracklayer_kubeflow.place import is_cluster_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracklayer.context import TaskRun, Truth, WorkflowRun

ENDPOINTS: Final = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
"""Variables with the address of KFP's API, where the setting ``endpoint`` is not set; the second is KFP's own."""


PAUSE: Final = 30.0
"""Seconds for which a KFP that could not be asked is not asked again."""

NOT_FOUND: Final = 5
"""How KFP's API says in its answer that there is no such run: gRPC's code."""

STATES: Final[Mapping[str, Truth]] = {
    "SUCCEEDED": "FINISHED",
    "SKIPPED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELED": "KILLED",
}


class KubeflowUnavailable(Exception):
    """KFP's API cannot be asked."""


class Api:
    """KFP's API, as far as it is asked here."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self.endpoint = endpoint
        self._token = token
        self._lock = ProcessLock()
        self._client: Any = None
        self._away_until = 0.0

    def run(self, run_id: str) -> Any | None:
        """A pipeline run, archived or not; None if there is none of this id.

        Raises:
            KubeflowUnavailable: KFP cannot be asked.
        """
        with self._lock:
            if time.monotonic() < self._away_until:
                raise KubeflowUnavailable(f"KFP at {self.endpoint} could not be asked a moment ago")
            try:
                return self._opened().get_run(run_id)
            except Exception as error:
                if _says_that_there_is_none(error):
                    return None
                self._away_until = time.monotonic() + PAUSE
                told = getattr(error, "reason", None) or error
                raise KubeflowUnavailable(
                    f"KFP at {self.endpoint} cannot be asked: {type(error).__name__}: {str(told)[:300]}"
                ) from None

    def _opened(self) -> Any:
        if self._client is None:
            import kfp

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says of itself that it is a client of version 2
                self._client = kfp.Client(host=self.endpoint, existing_token=self._token)
        return self._client


def of_pipeline_run(workflow_run: WorkflowRun) -> State | None:
    """What has become of a pipeline run.

    Raises:
        KubeflowUnavailable: KFP's API cannot be asked, or nobody says where it is.
    """
    if not is_cluster_run(workflow_run.run_id):
        return _of_process(workflow_run.tags)
    kfp = _kfp(workflow_run)
    if kfp is None:
        return None
    run = kfp.run(workflow_run.run_id)
    return State(status="GONE") if run is None else _state(run.state, run.finished_at)


def of_task(workflow_run: WorkflowRun, task_run: TaskRun) -> State | None:
    """What has become of one try of a task; None where KFP does not tell its runs apart, as in loops.

    Raises:
        KubeflowUnavailable: KFP's API cannot be asked, or nobody says where it is.
    """
    if SUPERSEDED_TAG in task_run.tags:
        return State(status="FAILED", said="was retried")
    if not is_cluster_run(workflow_run.run_id):
        return _of_process(task_run.tags)
    kfp = _kfp(workflow_run) if task_run.index is None else None
    run = kfp.run(workflow_run.run_id) if kfp is not None else None
    details = getattr(run, "run_details", None)
    name = task_run.task.rpartition(".")[2]
    found = [task for task in getattr(details, "task_details", None) or () if task.display_name == name]
    return _state(found[0].state, found[0].end_time) if len(found) == 1 else None


def _of_process(tags: Mapping[str, str]) -> State | None:
    process = process_of(tags.get(PROCESS_TAG))
    lives = process.lives if process is not None else None
    if lives is None:
        return None
    return State(status="RUNNING") if lives else State(status="KILLED", said=f"{process} is gone", note=DIED)


def _state(word: object, ended_at: object) -> State:
    text = str(getattr(word, "value", word) or "")
    status = STATES.get(text, "RUNNING")
    known = isinstance(ended_at, datetime) and ended_at.year > 1970  # KFP's zero is the beginning of time
    moment = (ended_at if ended_at.tzinfo else ended_at.replace(tzinfo=UTC)) if isinstance(ended_at, datetime) else None
    return State(status=status, ended_at=moment if known and status != "RUNNING" else None, said=text or None)


def _kfp(workflow_run: WorkflowRun) -> Api | None:
    from tracklayer import settings as core_settings
    from tracklayer_kubeflow.settings import KubeflowSettings

    settings = core_settings.load()
    if workflow_run.instance != settings.instance:
        return None
    own = core_settings.table(settings, "kubeflow", KubeflowSettings)
    endpoint = own.endpoint or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:  # which is no answer: whoever reconciles is not to believe that nothing is left to do
        raise KubeflowUnavailable(
            "nothing says where KFP is: set endpoint in [kubeflow], TRACKLAYER_KUBEFLOW_ENDPOINT, or "
            f"{ENDPOINTS[0]}, to the address of its API"
        )
    return _api(endpoint, own.api_token)


@lru_cache(maxsize=8)
def _api(endpoint: str, token: str | None) -> Api:
    return Api(endpoint, token)


def _says_that_there_is_none(error: Exception) -> bool:
    """True if KFP itself says so, and not just anything at that address."""
    if getattr(error, "status", None) != 404:
        return False
    try:
        told = decoded(getattr(error, "body", None) or "null")
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("code") == NOT_FOUND

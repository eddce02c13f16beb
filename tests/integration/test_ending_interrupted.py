"""Stages that a time-out of their pipeline strikes, on their way in, at their end, or on their way out."""

from __future__ import annotations

import signal
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from harness.leaving import opening_of
from harness.patience import patient
from harness.process import wait_for
from tracklayer.backend import open_backend
from tracklayer.current import _OpenStages, current_run, open_here
from tracklayer.identity import key_tag
from tracklayer.journal.recorders import recorder_of
from tracklayer.outcome import OUTCOME_TAG, Outcome
from tracklayer.tracking import track

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.mlflow import MlflowServer
    from harness.proxy import RecordingProxy
    from tracklayer.settings import Settings


@pytest.fixture
def settings(mlflow_server: MlflowServer, tmp_path: Path) -> Settings:
    return patient(mlflow_server.uri, journal=str(tmp_path / "journal"))


class TimedOut(BaseException):
    """As Airflow's, which a signal raises wherever the task is."""


class SoftLimit(Exception):
    """As Celery's, and most people's own: an ordinary exception, which no fence of ours must keep."""


@pytest.mark.parametrize("kind", [TimedOut, SoftLimit, TimeoutError])
@pytest.mark.parametrize("answered", [True, False], ids=["answered late", "not answered"])
def test_a_stage_that_times_out_while_it_is_opened_is_ended(
    mlflow_server: MlflowServer,
    proxy_before: Callable[[str], RecordingProxy],
    tmp_path: Path,
    answered: bool,
    kind: type[BaseException],
) -> None:
    proxy = proxy_before(mlflow_server.uri)
    settings = patient(proxy.uri, journal=str(tmp_path / "journal"))
    opening = opening_of(f"ending-{uuid.uuid4().hex[:12]}")

    def late(handler: Any) -> Any:
        answer = handler.forwarded()
        time.sleep(3)
        return answer if answered else handler.reset()

    proxy.fault(late, "runs/create")

    def ring(*_: object) -> None:
        raise kind("too long")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        timed_out = pytest.raises(kind)
        with timed_out, track(context=opening.context, settings=settings, outcome=lambda _: Outcome("FAILED", "late")):
            pytest.fail("the task has been told to stop")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    backend = open_backend(settings)
    assert backend
    wait_for(lambda: recorder_of(backend, settings).flush(5), 30, "delivery of the end")
    (run,) = backend.store.search_runs([], f"tags.`{key_tag(opening.key)}` != ''")
    assert (run.status, run.tags[OUTCOME_TAG], run.tags["tracklayer.error.type"]) == ("FAILED", "late", kind.__name__)


@pytest.mark.parametrize("kind", [TimedOut, SoftLimit])
def test_a_stage_that_times_out_while_it_is_ended_is_ended(settings: Settings, kind: type[BaseException]) -> None:
    class SlowToPrint(Exception):
        def __str__(self) -> str:
            signal.raise_signal(signal.SIGALRM)
            return "never printed"

    def ring(*_: object) -> None:
        raise kind("too long")

    opening = opening_of(f"ending-{uuid.uuid4().hex[:12]}")
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(kind), track(context=opening.context, settings=settings):
            raise SlowToPrint
    finally:
        signal.signal(signal.SIGALRM, before)
    assert current_run() is None
    backend = open_backend(settings)
    assert backend
    wait_for(lambda: recorder_of(backend, settings).flush(5), 30, "delivery of the end")
    (run,) = backend.store.search_runs([], f"tags.`{key_tag(opening.key)}` != ''")
    assert run.status == "FAILED"


@pytest.mark.parametrize("where", ["add", "remove"])
def test_a_time_out_on_the_way_into_a_stage_or_out_of_it_leaves_none_behind(
    settings: Settings, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = getattr(_OpenStages, where)

    def struck(*told: object) -> None:
        change(*told)
        raise TimedOut("too long")

    monkeypatch.setattr(_OpenStages, where, struck)
    opening = opening_of(f"ending-{uuid.uuid4().hex[:12]}")
    with pytest.raises(TimedOut), track(context=opening.context, settings=settings):
        pass
    assert current_run() is None
    assert not open_here()
    backend = open_backend(settings)
    assert backend
    wait_for(lambda: recorder_of(backend, settings).flush(5), 30, "delivery of the end")
    (run,) = backend.store.search_runs([], f"tags.`{key_tag(opening.key)}` != ''")
    assert run.status == ("KILLED" if where == "add" else "FINISHED")

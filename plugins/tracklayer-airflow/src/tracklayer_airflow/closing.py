"""Ending parents: what is done with the word that a DAG run has ended, or that a try is lost.

Run as a module (``python -m tracklayer_airflow.closing``) it is the process to which the scheduler's listener writes:
one JSON object a line on standard input. Each goes to this process's journal, from where it is delivered, however long
the tracking server is away. Meanwhile, and where there is no word for long, it delivers what tasks left behind on this
machine: a task that was killed is so ended within the minute, while its DAG run goes on. That alone is what it does
beside a Celery worker (`tracklayer_airflow.celery_worker`). The process ends when its standard input is closed or
whoever started it is gone; what is not delivered by then, the next one delivers.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracklayer.settings import Settings

log = logging.getLogger("tracklayer")

WATCH: Final = 5.0
"""Seconds after which the process looks whether the scheduler still lives."""


def close(end: Mapping[str, Any]) -> None:
    """Have the parent of a DAG run ended, as the listener heard that it ended.

    Args:
        end: ``facts`` (see `tracklayer_airflow.workflow`), ``status``, ``error``, ``tracked``: whether the DAG has
            tracked tasks, ``observed``: whether it may have tasks that are observed, and ``unknown``: whether Airflow has
            not said which DAG it is, so that it may have either, or nothing to do with tracking. If it has tracked ones,
            and the tracking server has no parent, it is waited for: the tasks' journals may still have to be delivered.
            With observed ones alone, or where it is unknown, it is waited for only if the server was away when the DAG
            run ended, and for a day from its return: nobody knows whether anything was tracked. ``deferred``: see
            `tracklayer_airflow.deferred.ended`.

    Raises:
        tracklayer.exceptions.TracklayerError: only with ``on_error = "raise"``.
    """
    from tracklayer import settings as settings_module
    from tracklayer_airflow import server

    # With dag.test() this is the process that runs the tasks.
    with server.environment(server.outside_of_tasks(server.connection_here())):
        _close(end, settings_module.load())


def _close(end: Mapping[str, Any], settings: Settings) -> None:
    from tracklayer.context import RunContext, RunRef
    from tracklayer.identity import workflow_run_key
    from tracklayer.provisional import PENDING, provisional_id
    from tracklayer.tracking import close_workflow_run
    from tracklayer_airflow import deferred, workflow

    workflow_run = workflow.workflow_run(end["facts"], instance=settings.instance)
    key = workflow_run_key(workflow_run)
    tracked, observed, unknown = (bool(end.get(word)) for word in ("tracked", "observed", "unknown"))
    # Known by its key alone it is found wherever it is: its experiment may be named by params of a DAG that is not here.
    named = tracked or observed or unknown
    close_workflow_run(
        RunContext(workflow_run=workflow_run),
        end["status"],
        ended_at=workflow.moment(end["facts"].get("ended_at")),
        parent=RunRef(run_id=provisional_id(key), experiment_id=PENDING, key=key) if named else None,
        error=end["error"],
        observed=observed,
        perhaps=named and not tracked,
        told=deferred.told(end.get("deferred") or ()),
        settings=settings,
    )


def give_up(lost: Mapping[str, Any]) -> None:
    """Have the runs of a try ended that Airflow has given up, as the listener heard: its process is gone.

    Args:
        lost: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` and ``try_number``.

    Raises:
        tracklayer.exceptions.TracklayerError: only with ``on_error = "raise"``.
    """
    from tracklayer import settings as settings_module
    from tracklayer.context import RunContext, TaskRun, WorkflowRun
    from tracklayer.tracking import give_up_task_run
    from tracklayer_airflow.workflow import index

    settings = settings_module.load()
    workflow_run = WorkflowRun(
        orchestrator="airflow", instance=settings.instance, workflow=lost["dag_id"], run_id=lost["run_id"]
    )
    task_run = TaskRun(task=lost["task_id"], index=index(lost["map_index"]), try_number=lost["try_number"])
    give_up_task_run(RunContext(workflow_run=workflow_run, task_run=task_run), settings=settings)


def main(conn_id: str | None = None) -> None:
    """Do what is written to standard input, until it is closed or the process that started this one is gone.

    Args:
        conn_id: the connection with the MLflow server; None: MLflow's own variables name it.
    """
    _log_to_stderr()
    stopping: list[int] = []
    # Ctrl-C and a stop of the whole process group reach this process too: it still has to write the last ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    if conn_id is not None:
        _speak_to(conn_id)
    for line in _lines(sys.stdin.fileno(), stopping):
        if line is None:
            _try(_look_around)
            continue
        told = _read(line)
        if told is None:
            # Not as it stands there: what is left of a line may be a conf or params, which are masked nowhere yet.
            log.warning("tracking: what the scheduler wrote could not be read: %d bytes", len(line))
        elif "task_id" in told:
            _try(give_up, told)
        else:
            _try(close, told)
    _read_no_more(sys.stdin.fileno())


def _read(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it says nothing."""
    from tracklayer.json_text import decoded

    try:
        told = decoded(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _try(work: Callable[..., None], *told: Mapping[str, Any]) -> None:
    try:
        work(*told)
    except Exception as error:
        ids = [one.get("facts", one) for one in told]
        names = [f"{one.get('dag_id')}, {one.get('run_id')}" for one in ids]
        log.warning("tracking: what has ended was not ended in MLflow: %s: %s", error, names)


def _read_no_more(stdin: int) -> None:
    """What the scheduler writes from now on, it is to write to the next process, and it notices only if nobody can read."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, stdin)
    os.close(nothing)


def _look_around() -> None:
    from tracklayer.tracking import deliver_left_behind

    deliver_left_behind()


def _speak_to(conn_id: str) -> None:
    """Have this process speak to the connection's server, for good: what is delivered at its very end goes there, too."""
    from tracklayer_airflow import server

    why = "it is not to be had without the metadata database"
    try:
        found = server.outside_of_tasks(conn_id)
    except Exception as error:
        found, why = {}, str(error)
    _log_to_stderr()  # Airflow, which was imported for that, logs to standard output, where nobody reads
    server.put(found)
    if not found:
        log.warning("tracking: MLflow's own variables name the server, not the connection %r: %s", conn_id, why)


def _log_to_stderr() -> None:
    form = "%(asctime)s %(name)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr, force=True)


def _lines(stdin: int, stopping: list[int]) -> Iterator[bytes | None]:
    """The lines on standard input as they come; None where none has come for a while.

    When it is time to stop, those that are there already come all the same: nobody else will read them.
    """
    parent = os.getppid()
    rest = b""
    while True:
        last = bool(stopping) or os.getppid() != parent
        if select.select([stdin], [], [], 0 if last else WATCH)[0]:
            chunk = os.read(stdin, 65_536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        elif last:
            return
        else:
            yield None


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""Run DAGs by ``dag.test()`` in a process of its own, and write down as JSON how they ended.

Usage: python dag_test.py <output file> <tasks not to run, as a pattern> <dag id>[=<conf as JSON>] … [* -<dag id> …]
or:    python dag_test.py --serve <module> …

The second does so for each line on its standard input, in a fork of itself: Airflow takes seconds to import.

``<dag id>@<run id>`` runs nothing: what is written down is how a run ended that a scheduler had started.
``<dag id>!<task id>`` runs one task by ``airflow tasks test``, of which Airflow keeps nothing.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any


def known() -> dict[str, Any]:
    """The DAGs in the folder, by their ids."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]

    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    return dict(bag.dags)


def _build_api_once() -> None:
    """As Airflow 3.3 does: the versions before it build the API that answers a task anew for each, which takes seconds."""
    from airflow.sdk.execution_time import supervisor

    build = supervisor.in_process_api_server
    if not hasattr(build, "cache_info"):
        supervisor.in_process_api_server = functools.lru_cache(maxsize=1)(build)


def run(dag_id: str, dag: Any, conf: dict[str, Any], not_run: str) -> dict[str, Any]:
    random.seed(dag_id)  # some tasks throw dice
    return told(dag_id, dag.test(run_conf=conf, mark_success_pattern=not_run or None).run_id)


def try_out(dag_id: str, task_id: str) -> dict[str, Any]:
    from airflow.cli.cli_parser import get_parser

    arguments = get_parser().parse_args(["tasks", "test", dag_id, task_id])
    arguments.func(arguments)
    return {}


def told(dag_id: str, run_id: str) -> dict[str, Any]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        where = {"dag_id": dag_id, "run_id": run_id}
        state = session.scalars(select(DagRun.state).filter_by(**where)).one()
        tis = session.scalars(select(TaskInstance).filter_by(**where)).all()
        xcoms = session.scalars(select(XComModel).filter_by(**where)).all()
        made = (AssetEvent.source_dag_id == dag_id, AssetEvent.source_run_id == run_id)
        events = session.execute(
            select(AssetModel.uri, AssetEvent.extra).join(AssetEvent, AssetEvent.asset_id == AssetModel.id).where(*made)
        ).all()
        return {
            "events": dict(iter(events)),
            "run_id": run_id,
            "state": str(getattr(state, "value", state)),  # Airflow 3.2 tells plain text
            "tasks": {_name(ti): [str(ti.state), ti.try_number] for ti in tis},
            "xcoms": {f"{_name(xcom)}.{xcom.key}": xcom.value for xcom in xcoms},
        }


def _name(row: Any) -> str:
    return row.task_id if row.map_index < 0 else f"{row.task_id}[{row.map_index}]"


def main(output: str, not_run: str, *dags: str) -> None:
    found = {}
    for dag_id, _, run_id in (text.partition("@") for text in dags if "@" in text.partition("=")[0]):
        found[dag_id] = told(dag_id, run_id)
    if found:
        Path(output).write_text(json.dumps(found))
        return
    tried = [text for text in dags if "!" in text.partition("=")[0]]
    for dag_id, _, task_id in (text.partition("!") for text in tried):
        found[dag_id] = try_out(dag_id, task_id)
    if tried:
        Path(output).write_text(json.dumps(found))
        return
    _build_api_once()
    bag = known()
    confs = {dag_id: conf for dag_id, _, conf in (text.partition("=") for text in dags)}
    if confs.pop("*", None) is not None:
        confs.update(dict.fromkeys(bag.keys() - {dag_id.lstrip("-") for dag_id in confs}, ""))
    for dag_id, conf in confs.items():
        if dag_id.startswith("-"):
            continue
        began = time.monotonic()
        found[dag_id] = run(dag_id, bag[dag_id], json.loads(conf) if conf else {}, not_run)
        print(f"{dag_id} took {time.monotonic() - began:.1f} s", flush=True)  # noqa: T201  # where tests look for what is slow
        Path(output).write_text(json.dumps(found))


SERVING = ("airflow.settings", "airflow.dag_processing.dagbag", "airflow.api_fastapi.execution_api.routes")
"""What every such process imports, and uses nothing of before it forks: neither plugins nor the database."""


def serve(*modules: str) -> list[str] | None:
    """Fork for each job on standard input: returns in the forks, with their arguments, and in the end, with None.

    A job is a line of JSON, with ``environ``, ``arguments`` and ``log``; it is answered by the exit code of its fork.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    for module in (*SERVING, *modules):
        with contextlib.suppress(ModuleNotFoundError):  # Airflow 3.1 has some elsewhere
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            os.environ.clear()
            os.environ.update(job["environ"])
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(file, number)
            return list(job["arguments"])
        _, status = os.waitpid(pid, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return None


if __name__ == "__main__":
    arguments = serve(*sys.argv[2:]) if sys.argv[1] == "--serve" else sys.argv[1:]
    if arguments is not None:
        main(*arguments)

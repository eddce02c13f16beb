"""Operators that pickle themselves, and with that their whole DAG: once beside tracked ones, and once as they are."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from airflow.sdk import DAG, task

from tracklayer_airflow import tracked

sys.path.append(str(Path(__file__).parent))  # as Airflow does with the folder of a bundle, for tasks
pickling = import_module("pickling")

for dag_id in ("odd_pickled", "odd_pickled_untracked"):
    ours = dag_id == "odd_pickled"
    with DAG(dag_id, schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC)):
        (tracked(pickling.Mapping) if ours else pickling.Mapping)(task_id="mapping")
        pickling.Mapping(task_id="beside")
        branch = (tracked(task.branch) if ours else task.branch)(pickling.choose)()
        branch >> pickling.Mapping(task_id="called", on_success_callback=[pickling.note])

"""Tasks that feed one another in every way a DAG knows, some of them untracked."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.exceptions import AirflowSkipException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, AssetAlias, Param, task, task_group

import tracklayer
import tracklayer_airflow

FLIGHTS = Asset("flights", uri="s3://warehouse/flights")
PLANES = Asset("planes", uri="s3://warehouse/planes")
OTHERS = AssetAlias("others")

with DAG(
    "handing_over",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    params={"sample": Param(0.5, type="number"), "password": "hunter2"},
    tags=["flights", "test"],
    doc_md="How tasks hand **over**.",
    default_args={"owner": "data-team"},
) as dag:

    @task.tracked(stage="data-prep", outlets=[FLIGHTS])
    def prepare() -> list[int]:
        run = tracklayer.current_run()
        assert run is not None
        run.log_metrics({"rows": 3})
        return [1, 2, 3]

    @task
    def between(rows: list[int]) -> list[int]:
        return rows

    @task.tracked(stage="training", run_name="train {{ params.sample }}", run_tags={"team": "risk"})
    def train(rows: list[int], lr: float = 0.1, *, params: Any = None) -> str | None:
        import mlflow

        mlflow.log_metric("auc", 0.9)  # the fluent calls of any user's code land in the stage run
        active = mlflow.active_run()
        return active.info.run_id if active else None

    @task.tracked(stage="evaluation", run_name="judge")
    def evaluate(model: str | None) -> str:
        return os.environ["TRACKLAYER_PARENT"]

    @task.tracked
    def part(number: int) -> int:
        return number

    @task.tracked
    def scored(number: int) -> int:
        return number

    @task.tracked
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @task_group
    def fold(number: int) -> None:
        @task.tracked
        def fit(number: int) -> int:
            return number

        @task.tracked
        def test(number: int) -> int:
            return number

        test(fit(number))

    @task.tracked
    def not_taken() -> None:
        raise AirflowSkipException

    @task
    def skipped_too() -> None:
        raise AssertionError("never runs")

    @task.tracked(trigger_rule="none_failed")
    def joined() -> None:
        pass

    @task.branch
    def choose() -> str:
        return "way_1"

    @task
    def way() -> None:
        raise AssertionError("never runs")

    @task
    def way_1() -> None:
        """Is called as an instance of the other one would be, were that mapped."""

    @task.tracked(trigger_rule="none_failed_min_one_success")
    def chosen() -> None:
        pass

    @task
    def by_hand() -> str | None:
        """A task that is not tracked by its operator, but by its code."""
        with tracklayer.track("reporting") as run:
            return run.token

    @task.tracked(outlets=[PLANES, OTHERS])
    def publish(*, outlet_events: Any = None) -> None:
        outlet_events[PLANES].extra = {"rows": 7}  # what we had filled in is gone
        outlet_events[OTHERS].add(Asset("wings", uri="s3://warehouse/wings"), extra={"rows": 8})

    @task
    def trigger(rows: Any) -> list[str]:
        return [
            tracklayer_airflow.token(),
            tracklayer_airflow.run_id(task_id="train"),
            tracklayer_airflow.token(task_id="between"),
        ]

    rows = prepare()
    model = train(between(rows))
    judged = evaluate(model)
    rows >> judged
    numbers = scored.expand(number=part.expand(number=rows))
    total(numbers)
    fold.expand(number=rows)
    rows >> not_taken() >> skipped_too() >> (end := joined())
    model >> end
    choose() >> [(not_chosen := way()), (on_the_way := way_1())] >> chosen()
    rows >> not_chosen
    model >> on_the_way
    model >> by_hand()
    rows >> publish()
    trigger([rows, model])
    judged >> BashOperator(
        task_id="in_shell",
        bash_command='echo "$TOKEN"',
        env={"TOKEN": "{{ macros.tracklayer.token(ti) }}"},
    )
    BashOperator(task_id="alone", bash_command="echo '{{ macros.tracklayer.token(ti) }}.'")

"""Operators whose work happens inside a stage run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import BaseOperator, BaseOperatorLink

from tracklayer_airflow.links import MLflowRunLink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk import Context

log = logging.getLogger("tracklayer")


class Tracked(BaseOperator):
    """Put this in front of any operator class, and its tasks run inside an MLflow run of their own.

    ::

        class TrackedBashOperator(Tracked, BashOperator):
            template_fields = (*BashOperator.template_fields, *Tracked.template_fields)

    The task ends exactly as it would without: the same state, the same exception, the same XComs (plus ``tracklayer``
    and ``tracklayer_url``). What fails in tracking is logged.

    Args:
        stage: what the task is for: ``data-prep``, ``training``, ``evaluation`` or a name of your own; None: a plugin
            decides, else it is the task's id.
        run_name: name of the run in MLflow; None: by the setting ``run_name``. Templated.
        experiment: experiment of the run, if it is not to be that of the DAG run's parent. Templated.
        run_tags: further tags of the run. Templated.
        kwargs: everything that the operator behind takes.
    """

    template_fields: Sequence[str] = ("run_name", "experiment", "run_tags")
    operator_extra_links: Collection[BaseOperatorLink] = (MLflowRunLink(),)
    mlflow_run_url: str | None = None

    def __init__(
        self,
        *,
        stage: str | None = None,
        run_name: str | None = None,
        experiment: str | None = None,
        run_tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.run_name = run_name
        self.experiment = experiment
        self.run_tags = run_tags

    def execute(self, context: Context) -> Any:
        """Do the operator's work inside a stage run."""
        return self._tracked(context, lambda: super(Tracked, self).execute(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, inside the same stage run."""
        return self._tracked(context, lambda: super(Tracked, self).resume_execution(next_method, next_kwargs, context))

    def _tracked(self, context: Context, work: Callable[[], Any]) -> Any:
        run: Callable[[Tracked, Context, Callable[[], Any]], Any] | None = None
        try:
            from tracklayer_airflow.switch import is_on

            if is_on():
                from tracklayer_airflow.execution import run_tracked

                run = run_tracked
        except Exception:  # a broken installation of tracklayer is no reason for the task to fail
            log.warning("tracking: the task runs untracked", exc_info=True)
        return work() if run is None else run(self, context, work)


class TrackedPythonOperator(Tracked, PythonOperator):
    """Airflow's ``PythonOperator`` inside a stage run.

    ::

        TrackedPythonOperator(task_id="train", python_callable=train, op_kwargs={"lr": 0.1}, stage="training")
    """

    template_fields: Sequence[str] = (*PythonOperator.template_fields, *Tracked.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = PythonOperator.template_fields_renderers

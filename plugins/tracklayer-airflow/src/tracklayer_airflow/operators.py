"""Operators whose work happens inside a stage run."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import BaseOperator, BaseOperatorLink

from tracklayer_airflow.links import MLflowParentLink, MLflowRunLink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk import Context

log = logging.getLogger("tracklayer")

ARGUMENTS: Final = frozenset({"stage", "run_name", "experiment", "run_tags"})
"""Names of the arguments that every tracked operator takes."""


class Tracked(BaseOperator):
    """Put this in front of any operator class, and its tasks run inside an MLflow run of their own.

    `tracklayer_airflow.tracked` does that for a class that is there. In a class of your own::

        class TrainOperator(Tracked, BashOperator):
            template_fields = (*BashOperator.template_fields, *Tracked.template_fields)

    The task ends exactly as it would without: the same state, the same exception, the same XComs (plus ``tracklayer``,
    ``tracklayer_url`` and ``tracklayer_parent_url``). What fails in tracking is logged.

    Args:
        stage: what the task is for: ``data-prep``, ``training``, ``evaluation`` or a name of your own; None: a plugin
            decides, else it is the task's id.
        run_name: name of the run in MLflow; None: by the setting ``run_name``. Templated.
        experiment: experiment of the run, if it is not to be that of the DAG run's parent. Templated.
        run_tags: further tags of the run. Templated.
        kwargs: everything that the operator behind takes.
    """

    template_fields: Sequence[str] = ("run_name", "experiment", "run_tags")
    operator_extra_links: Collection[BaseOperatorLink] = (MLflowRunLink(), MLflowParentLink())
    mlflow_run_url: str | None = None
    mlflow_parent_url: str | None = None
    taken: ClassVar[frozenset[str]] = frozenset()
    """Those of `ARGUMENTS` that the operator behind has for itself: they are passed on, and not tracking's."""

    def __init__(
        self,
        *,
        stage: str | None = None,
        run_name: str | None = None,
        experiment: str | None = None,
        run_tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        given: dict[str, Any] = {"stage": stage, "run_name": run_name, "experiment": experiment, "run_tags": run_tags}
        # The operator's own default stands where it was not given.
        passed = {name: given.pop(name) for name in self.taken}
        super().__init__(**{name: value for name, value in passed.items() if value is not None}, **kwargs)
        for name, value in given.items():
            setattr(self, name, value)

    def tracking_argument(self, name: str) -> Any:
        """One of `ARGUMENTS`, rendered; None if it was not given, or is the operator's own."""
        return None if name in self.taken else getattr(self, name, None)

    def execute(self, context: Context) -> Any:
        """Do the operator's work inside a stage run."""
        return self._tracked(context, lambda: super(Tracked, self).execute(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, inside the same stage run."""
        return self._tracked(context, lambda: super(Tracked, self).resume_execution(next_method, next_kwargs, context))

    def _tracked(self, context: Context, work: Callable[[], Any]) -> Any:
        run: Callable[[], Any] = work
        try:
            run = self._how(context, work)
        except Exception:  # a broken installation of tracklayer is no reason for the task to fail
            log.warning("tracking: the task runs untracked", exc_info=True)
        return run()

    def _how(self, context: Context, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work, tracked or not. Core is imported only where it may be tracked."""
        from tracklayer_airflow.switch import is_on, is_spoken_of_in_task

        on = is_on()
        if on and is_spoken_of_in_task():
            from tracklayer_airflow.execution import run_tracked

            return partial(run_tracked, self, context, work)
        from tracklayer_airflow.untracked import run_untracked

        return partial(run_untracked, self, work, on=on)


class TrackedPythonOperator(Tracked, PythonOperator):
    """Airflow's ``PythonOperator`` inside a stage run.

    ::

        TrackedPythonOperator(task_id="train", python_callable=train, op_kwargs={"lr": 0.1}, stage="training")
    """

    template_fields: Sequence[str] = (*PythonOperator.template_fields, *Tracked.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = PythonOperator.template_fields_renderers

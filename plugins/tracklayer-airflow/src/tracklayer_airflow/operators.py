"""Operators whose work happens inside a stage run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import BaseOperator, BaseOperatorLink

from tracklayer_airflow import working
from tracklayer_airflow.links import MLflowParentLink, MLflowRunLink
from tracklayer_airflow.own_arguments import TEMPLATED, is_moved, keep

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from airflow.sdk import Context


class Tracked(BaseOperator):
    """Put this in front of any operator class, and its tasks run inside an MLflow run of their own.

    `tracklayer_airflow.tracked` does that for a class that is there. In a class of your own::

        class TrainOperator(Tracked, BashOperator):
            template_fields = (*BashOperator.template_fields, *Tracked.template_fields)

    What such a class does in an ``execute`` of its own is inside the run, too. Whatever it has for itself under the name
    of an argument of ours stays what it is.

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

    template_fields: Sequence[str] = TEMPLATED
    operator_extra_links: Collection[BaseOperatorLink] = (MLflowRunLink(), MLflowParentLink())
    tracklayer_taken: ClassVar[frozenset[str]] = frozenset()
    """Those of our arguments that the operator behind takes itself: they are passed on, and not tracking's."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have what the class does itself inside the run, too."""
        super().__init_subclass__(**kwargs)
        for name in working.METHODS:
            method = working.in_front(cls, name)
            if method is not None:
                setattr(cls, name, method)

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
        passed = {name: given.pop(name) for name in self.tracklayer_taken}
        super().__init__(**{name: value for name, value in passed.items() if value is not None}, **kwargs)
        keep(self, given, Tracked)

    def __setattr__(self, key: str, value: Any) -> None:
        # An instance's own is found before its class's, and would not come by us.
        super().__setattr__(key, working.of_instance(self, value) if key in working.METHODS else value)

    @working.ours
    def execute(self, context: Context) -> Any:
        """Do the operator's work inside a stage run."""
        return working.do(self, context, lambda: super(Tracked, self).execute(context))

    @working.ours
    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, inside the same stage run."""
        work = super().resume_execution
        return working.do(self, context, lambda: work(next_method, next_kwargs, context))

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], *args: Any, **kwargs: Any
    ) -> None:
        # An instance of a mapped task is rendered by the fields of its class, which know nothing of what it has itself.
        if parent is self and is_moved(self) and template_fields == type(self).template_fields:
            template_fields = self.template_fields
        super()._do_render_template_fields(parent, template_fields, *args, **kwargs)


class TrackedPythonOperator(Tracked, PythonOperator):
    """Airflow's ``PythonOperator`` inside a stage run.

    ::

        TrackedPythonOperator(task_id="train", python_callable=train, op_kwargs={"lr": 0.1}, stage="training")
    """

    template_fields: Sequence[str] = (*PythonOperator.template_fields, *Tracked.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = PythonOperator.template_fields_renderers

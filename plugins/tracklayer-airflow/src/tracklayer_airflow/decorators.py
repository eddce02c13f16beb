"""``@task.tracked``: the TaskFlow decorator whose function runs inside a stage run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from tracklayer_airflow.operators import Tracked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk.bases.decorator import TaskDecorator


class TrackedDecoratedOperator(Tracked, DecoratedOperator, PythonOperator):
    """The operator behind ``@task.tracked``; tracking is outermost, so that it sees what TaskFlow adds (assets)."""

    custom_operator_name = "@task.tracked"
    template_fields: Sequence[str] = (*PythonOperator.template_fields, *Tracked.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = PythonOperator.template_fields_renderers

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        arguments: dict[str, Any] = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=arguments, **arguments, **kwargs)


def tracked_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task that runs inside an MLflow run of its own: ``@task.tracked(stage="training")``.

    Args:
        python_callable: the function, when the decorator is used without parentheses.
        multiple_outputs: as in Airflow's ``@task``: push each key of a returned dictionary as an XCom of its own.
        kwargs: everything that `tracklayer_airflow.TrackedPythonOperator` takes (``stage``, ``run_name``,
            ``experiment``, ``run_tags``) and everything that any operator takes (``retries``, ``outlets``, …).
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=TrackedDecoratedOperator,
        **kwargs,
    )

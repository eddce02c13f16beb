"""The two decorators: they stand above Prefect's own and change nothing but what runs inside.

A flow or task that is already made gets another function to run (its ``fn`` is swapped): retries, ``submit``, ``map``,
``with_options``, caching, parameter validation and deployments stay Prefect's, and the object keeps its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from tracklayer_prefect.declaration import Tracked
from tracklayer_prefect.endings import tracklayer_record_reuse, watch, with_hook
from tracklayer_prefect.wrapping import mark_of, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefect.flows import Flow
    from prefect.tasks import Task

FlowT = TypeVar("FlowT", bound="Flow[..., Any]")
TaskT = TypeVar("TaskT", bound="Task[..., Any]")


@overload
def tracked_task(task: TaskT, /) -> TaskT: ...
@overload
def tracked_task(
    *, stage: str | None = None, run_name: str | None = None, tags: Mapping[str, str] | None = None
) -> Callable[[TaskT], TaskT]: ...
def tracked_task(
    task: Any = None,
    /,
    *,
    stage: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Track each try of a Prefect task as a run of its own, below the run of its flow run.

    Args:
        task: the task; stack this decorator above ``@task``.
        stage: what the task is for (``data-prep``, ``training``, ``evaluation``, or a name of your own); None lets
            plugins and the task's name decide.
        run_name: the run's name; None lets plugins and the template decide.
        tags: tags of each of its runs.

    Returns:
        The same task, of the same type.

    Raises:
        TypeError: it does not stand above ``@task``, or the task is tracked already.

    Example:
        ::

            @tracked_task(stage="training")
            @task(retries=2)
            def train(lr: float) -> float:
                mlflow.log_metric("auc", 0.9)
                return 0.9
    """
    how = {"stage": stage, "run_name": run_name, "tags": tags}
    return _applied(task, _task, how) if task is not None else lambda task: _applied(task, _task, how)


@overload
def tracked_flow(flow: FlowT, /) -> FlowT: ...
@overload
def tracked_flow(
    *, experiment: str | None = None, run_name: str | None = None, tags: Mapping[str, str] | None = None
) -> Callable[[FlowT], FlowT]: ...
def tracked_flow(
    flow: Any = None,
    /,
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Track each run of a Prefect flow as the parent run of its tracked tasks.

    What the flow's own body logs (``mlflow.log_metric`` outside of any task) lands in the parent run.

    Args:
        flow: the flow; stack this decorator above ``@flow``.
        experiment: name or template of its experiment, in place of the setting ``experiment``.
        run_name: the parent run's name; None lets plugins and the template decide.
        tags: tags of each parent run.

    Returns:
        The same flow, of the same type.

    Raises:
        TypeError: it does not stand above ``@flow``, or the flow is tracked already.

    Example:
        ::

            @tracked_flow
            @flow(retries=1)
            def flights(sample: int | None = None) -> None:
                evaluate(train(prepare(sample)))
    """
    how = {"experiment": experiment, "run_name": run_name, "tags": tags}
    return _applied(flow, _flow, how) if flow is not None else lambda flow: _applied(flow, _flow, how)


def _applied(target: Any, apply: Callable[[Any, Tracked], None], how: Mapping[str, Any]) -> Any:
    fn = getattr(target, "fn", None)
    if fn is not None and mark_of(fn) is not None:
        raise TypeError(f"{target.name!r} is tracked already")
    name = f"{getattr(fn, '__module__', None)}.{getattr(fn, '__qualname__', None)}"
    given = {**how, "tags": tuple(sorted((how["tags"] or {}).items()))}
    apply(target, Tracked(name=name, **given))
    return target


def _task(task: Any, how: Tracked) -> None:
    from prefect.tasks import Task

    if not isinstance(task, Task):
        raise TypeError(f"@tracked_task stands above @task, not below it and not alone: got {task!r}")
    task.fn = wrap(task.fn, how, is_async=task.isasync, is_generator=task.isgenerator)
    task.on_completion_hooks = with_hook(task.on_completion_hooks, tracklayer_record_reuse)


def _flow(flow: Any, how: Tracked) -> None:
    from prefect.flows import Flow

    if not isinstance(flow, Flow):
        raise TypeError(f"@tracked_flow stands above @flow, not below it and not alone: got {flow!r}")
    how = how.as_flow()
    flow.fn = wrap(flow.fn, how, is_async=flow.isasync, is_generator=flow.isgenerator)
    watch(flow)

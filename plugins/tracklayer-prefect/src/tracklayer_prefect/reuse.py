"""Task runs that took their result from Prefect's cache: recorded as such, linked to the run that made it.

The run that makes a persisted result says so by an index tag that ends with the hash of Prefect's cache key; whoever
takes that result asks for the tag.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from tracklayer.context import Upstream
from tracklayer.identity import short_hash

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

RESULT_TAG: Final = "mlflow.tracklayer.prefect.result."


def result_tag(key: str) -> str:
    """Name of the index tag on the run that made the result which Prefect keeps under `key`, a path or a bare key."""
    return RESULT_TAG + short_hash(PurePosixPath(key).name)


def maker_tags() -> dict[str, str]:
    """Index tags for the task run that is running: it will make the result with its cache key.

    Empty where the result is not persisted, since then nobody can find it in the cache.
    """
    from prefect.results import should_persist_result
    from prefect.transactions import get_transaction

    from tracklayer.lookup import marks

    transaction = get_transaction()
    key = transaction.key if transaction is not None else None
    return marks(result_tag(key)) if key and should_persist_result() else {}


def record(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> None:
    """Record the run of a task whose result came from the cache.

    Args:
        task: the task.
        task_run: its run, which never ran.
        state: its state, which holds where the result is kept.
    """
    from prefect.context import TaskRunContext

    from tracklayer.lookup import find
    from tracklayer_prefect.contexts import of_task, present
    from tracklayer_prefect.running import open_run
    from tracklayer_prefect.wrapping import mark_of

    how = mark_of(task.fn)
    context = TaskRunContext.get()
    if how is None or context is None or context.task_run.id != task_run.id:
        return
    _, flow_run = present()
    run = open_run(of_task(context, flow_run), how)
    try:
        key = getattr(getattr(state.data, "metadata", None), "storage_key", None)
        made = find(result_tag(key), settings=run.settings) if isinstance(key, str) else None
        if made is not None:
            run.link(Upstream(run=made, kind="reused"))
    finally:
        run.end("FINISHED", note="cached")

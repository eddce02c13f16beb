"""What Prefect is told about a flow run's run in MLflow: labels, and a link on the flow run's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect.client.schemas.objects import FlowRun

ARTIFACT_KEY: Final = "mlflow-run"


def announce(flow_run: FlowRun, labels: Mapping[str, str], url: str | None) -> None:
    """Label the flow run and link its page to the run in MLflow.

    Args:
        flow_run: this process's record of the flow run; is labelled too, for hooks and workers.
        labels: none means that nothing is to be told.
        url: the run's page; None means that there is none.

    Raises:
        Exception: whatever Prefect's client raises when its server does not answer.
    """
    if not labels:
        return
    from prefect.client.orchestration import get_client

    flow_run.labels.update(labels)
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, dict(labels))
        if url is not None:
            client.create_artifact(_link(flow_run, url))


async def announce_async(flow_run: FlowRun, labels: Mapping[str, str], url: str | None) -> None:
    """The same from a coroutine."""
    if not labels:
        return
    from prefect.client.orchestration import get_client

    flow_run.labels.update(labels)
    async with get_client() as client:
        await client.update_flow_run_labels(flow_run.id, dict(labels))
        if url is not None:
            await client.create_artifact(_link(flow_run, url))


def _link(flow_run: FlowRun, url: str) -> Any:
    from prefect.client.schemas.actions import ArtifactCreate

    return ArtifactCreate(
        key=ARTIFACT_KEY,
        type="markdown",  # of which Prefect's own link artifacts are made, too
        description="The run that tracks this flow run in MLflow.",
        data=f"[MLflow run]({url})",
        flow_run_id=flow_run.id,
    )

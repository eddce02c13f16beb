from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prefect import flow, task

import tracklayer
from tracklayer_prefect import tracked_flow, tracked_task

if TYPE_CHECKING:
    from pathlib import Path

    from prefect_story import Story

    from harness.proxy import RecordingProxy

FLOW = """
from __future__ import annotations
from prefect import flow, task
{imports}

{task_mark}
@task(retries=1)
def train(rows: int) -> int:
    return rows

{flow_mark}
@flow
def flights(rows: int = 3) -> int:
    return train(rows)
"""

PLAIN = FLOW.format(imports="", task_mark="", flow_mark="")
TRACKED = FLOW.format(
    imports="from tracklayer_prefect import tracked_flow, tracked_task",
    task_mark='@tracked_task(stage="training")',
    flow_mark="@tracked_flow",
)


def modules_of(path: Path) -> set[str]:
    """The modules that importing a flow's file loads, in a process of its own; connections would fail it."""
    script = (
        "import runpy, socket, sys, json\n"
        "def refuse(*arguments, **options): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        f"runpy.run_path({str(path)!r})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_importing_a_tracked_flow_loads_almost_nothing_more(tmp_path: Path) -> None:
    plain, tracked = tmp_path / "plain.py", tmp_path / "tracked.py"
    plain.write_text(PLAIN)
    tracked.write_text(TRACKED)
    more = modules_of(tracked) - modules_of(plain)
    assert {module.partition(".")[0] for module in more} <= {"tracklayer", "tracklayer_prefect"}
    assert len(more) <= 12  # what a run needs is imported when it runs


@pytest.mark.parametrize("heavy", ["mlflow", "urllib3", "requests", "msgspec", "prefect"])
def test_importing_the_package_loads_nothing_heavy(heavy: str) -> None:
    script = f"import sys, tracklayer_prefect, tracklayer_prefect.plugin; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_stage_costs_three_requests(
    story: Story, recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    seen: list[list[str]] = []

    @tracked_task(stage="training")
    @task
    def train(rows: int) -> int:
        run = tracklayer.current_run()
        assert run is not None
        run.log_params({f"param_{number}": number for number in range(20)})
        run.log_metrics({f"metric_{number}": number for number in range(10)})
        return rows

    @tracked_flow
    @flow
    def flights() -> None:
        for rows in range(2):
            recording_proxy.forget()
            train(rows)
            seen.append(recording_proxy.calls)

    flights()
    assert seen == [["POST runs/create", "POST runs/log-batch", "POST runs/update"]] * 2


def test_a_flow_run_costs_few_requests_more(
    story: Story, recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)

    @tracked_flow
    @flow
    def flights(rows: int = 3) -> list[str]:
        return recording_proxy.calls

    opening = flights()
    assert len(opening) <= 5  # experiment found and made, parent looked for, made, its params
    # What was left open is looked for, in all experiments (which is the newest?); ended; links upstream.
    assert len(recording_proxy.calls) - len(opening) <= 4


def test_nothing_is_sent_and_prefect_is_not_asked_with_tracking_off(
    orchestrated: None, recording_proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recording_proxy.uri)
    monkeypatch.setenv("TRACKLAYER_ENABLED", "false")

    @tracked_flow
    @flow(name="quiet")
    def quiet() -> dict[str, object]:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return dict(context.flow_run.labels)

    assert not [label for label in quiet() if label.startswith("tracklayer.")]
    assert recording_proxy.calls == []

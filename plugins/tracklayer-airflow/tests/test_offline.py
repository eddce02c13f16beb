"""The tracking server is away while DAGs run, and comes back: the story is then the same as without an outage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow_story import Story, without_tracking

from harness.airflow import AirflowHome, AirflowService
from harness.outage import differences, flush, graph, journals, place
from harness.process import wait_for
from tracklayer.identity import parse_token
from tracklayer.linking import read_links
from tracklayer.provisional import is_provisional

if TYPE_CHECKING:
    from harness.proxy import RecordingProxy

DAGS = ("tracked_endings", "handing_over")
SCHEDULED = Path(__file__).parent / "dags" / "assets.py"

pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A folder of its own: in that of the Airflow home other tests leave what is for servers that never were."""
    return tmp_path / "journal"


def test_an_outage_leaves_no_trace_in_the_story(
    airflow_home: AirflowHome,
    stories: dict[str, Story],
    recording_proxy: RecordingProxy,
    journal: Path,
) -> None:
    with recording_proxy.refused():
        environ = {"MLFLOW_TRACKING_URI": recording_proxy.uri, "TRACKLAYER_JOURNAL": str(journal)}
        told = airflow_home.test(*DAGS, environ={**environ, "TEST_TIME_LIMIT": "5"})
    offline = {dag_id: Story(recording_proxy.uri, dag_id, told[dag_id]) for dag_id in DAGS}
    assert [story.runs for story in offline.values()] == [[], []]
    for dag_id in DAGS:
        assert told[dag_id]["tasks"] == stories[dag_id].told["tasks"], "the tasks ended as ever"
        assert told[dag_id]["state"] == stories[dag_id].told["state"]
    token = parse_token(offline["handing_over"].xcom("train.tracklayer"))
    assert is_provisional(token.run.run_id)
    assert parse_token(told["handing_over"]["events"]["s3://warehouse/flights"]["tracklayer"]).run.key

    flush(recording_proxy.uri, journal=journal)
    for dag_id in DAGS:
        fresh = Story(recording_proxy.uri, dag_id, told[dag_id])
        assert differences(_graph(fresh), _graph(stories[dag_id])) == []
        assert "RUNNING" not in {run.status for run in fresh.runs}
    train = Story(recording_proxy.uri, "handing_over", told["handing_over"]).run("train")
    assert f"mlflow.tracklayer.id.{token.run.run_id}" in train.tags
    assert journals(journal) == []


def _graph(story: Story) -> dict[str, Any]:
    return graph(story.runs, place)


def test_nothing_but_tokens_is_handed_over_meanwhile(stories: dict[str, Story], airflow_home: AirflowHome) -> None:
    told = airflow_home.test("handing_over", environ={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})["handing_over"]
    assert "train.tracklayer_url" not in told["xcoms"], "there is no page yet"
    ours = ("return_value",)  # some tasks return run ids and tokens
    plain = without_tracking(told["xcoms"], ours)
    assert plain.keys() == without_tracking(stories["handing_over"].told["xcoms"], ours).keys()


def test_a_dag_run_is_ended_before_its_tasks_are_delivered(recording_proxy: RecordingProxy, tmp_path: Path) -> None:
    """The scheduler's machine and the worker's have journals of their own, and nobody orders their delivery."""
    dag_id = f"elsewhere-{uuid.uuid4().hex[:8]}"
    facts: dict[str, Any] = {
        **dict.fromkeys(("version", "logical_date", "description", "source", "owner")),
        "dag_id": dag_id,
        "run_id": "manual__1",
        "started_at": "2026-11-21T10:00:00+00:00",
        "dag_tags": [],
        "params": {},
    }
    end = {"facts": facts, "status": "FINISHED", "error": None, "tracked": True}
    working = tmp_path / "working.py"
    working.write_text(
        "import json, sys\n"
        "from tracklayer import RunContext, TaskRun, track\n"
        "from tracklayer_airflow.workflow import workflow_run\n"
        "run = workflow_run(json.loads(sys.argv[1]), instance='default')\n"
        "with track('training', context=RunContext(workflow_run=run, task_run=TaskRun(task='train'))) as stage:\n"
        "    stage.log_metrics({'auc': 0.9})\n"
    )
    closing = tmp_path / "closing.py"
    closing.write_text(
        "import json, sys\nfrom tracklayer_airflow.closing import close\nclose(json.loads(sys.argv[1]))\n"
    )
    scheduler, worker = tmp_path / "scheduler", tmp_path / "worker"
    with recording_proxy.refused():
        for path, said, folder in ((working, facts, worker), (closing, end, scheduler)):
            environ = {"MLFLOW_TRACKING_URI": recording_proxy.uri, "TRACKLAYER_JOURNAL": str(folder)}
            command = [sys.executable, str(path), json.dumps(said)]
            subprocess.run(command, env={**os.environ, **environ}, check=True, timeout=60)
    flush(recording_proxy.uri, journal=scheduler, left=True)
    assert journals(scheduler), "it waits for the parent that the worker's journal will bring"
    flush(recording_proxy.uri, journal=worker)
    assert Story(recording_proxy.uri, dag_id, {"run_id": "manual__1"}).parent.status == "RUNNING"
    flush(recording_proxy.uri, journal=scheduler)
    story = Story(recording_proxy.uri, dag_id, {"run_id": "manual__1"})
    assert [run.status for run in story.runs] == ["FINISHED", "FINISHED"]
    assert (journals(scheduler), journals(worker)) == ([], [])


def test_a_deferred_task_goes_on_elsewhere_while_the_server_is_away(
    recording_proxy: RecordingProxy, tmp_path: Path
) -> None:
    script = tmp_path / "try.py"
    script.write_text(
        "import sys\n"
        "from tracklayer import Outcome, RunContext, TaskRun, WorkflowRun, track\n"
        "dag_id, resumed = sys.argv[1], sys.argv[2] == 'resumed'\n"
        "run = WorkflowRun(orchestrator='airflow', workflow=dag_id, run_id='manual__1')\n"
        "context = RunContext(workflow_run=run, task_run=TaskRun(task='wait', resumed=resumed))\n"
        "class Deferred(BaseException): pass\n"
        "try:\n"
        "    with track(context=context, outcome=lambda error: Outcome('RUNNING')) as stage:\n"
        "        stage.log_metrics({sys.argv[2]: 1.0})\n"
        "        if not resumed: raise Deferred\n"
        "except Deferred: pass\n"
    )
    for order in (("first", "resumed"), ("resumed", "first")):
        dag_id = f"deferred-{uuid.uuid4().hex[:8]}"
        folders = {part: tmp_path / f"{dag_id}-{part}" for part in order}
        with recording_proxy.refused():
            for part in ("first", "resumed"):
                told = {"MLFLOW_TRACKING_URI": recording_proxy.uri, "TRACKLAYER_JOURNAL": str(folders[part])}
                command = [sys.executable, str(script), dag_id, part]
                subprocess.run(command, env={**os.environ, **told}, check=True, timeout=60)
        for part in order:
            flush(recording_proxy.uri, journal=folders[part])
        story = Story(recording_proxy.uri, dag_id, {"run_id": "manual__1"})
        run = story.run("wait")
        assert (run.status, run.metrics) == ("FINISHED", {"first": 1.0, "resumed": 1.0}), order
        assert "tracklayer.outcome" not in run.tags


@pytest.mark.slow
def test_two_dags_that_an_asset_joins(tmp_path: Path, recording_proxy: RecordingProxy) -> None:
    """A real scheduler with the processes that belong to it, cut off from the tracking server from the start."""
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "assets.py").write_text(SCHEDULED.read_text())
    home = AirflowHome(tmp_path / "home", folder)
    journal = home.folder / "journal"
    with AirflowService(home, environ={"MLFLOW_TRACKING_URI": recording_proxy.uri}) as airflow:
        with recording_proxy.refused():
            made = airflow.trigger("makes_asset")
            assert airflow.wait("makes_asset", made)["state"] == "success"
            used = airflow.wait("uses_asset")
            assert used["state"] == "failed"  # its second task kills itself
        maker = {"run_id": made}
        user = {"run_id": used["dag_run_id"]}
        flush(recording_proxy.uri, journal=journal)

        def parents() -> list[str]:
            stories = [
                Story(recording_proxy.uri, dag_id, told)
                for dag_id, told in (("makes_asset", maker), ("uses_asset", user))
            ]
            return [run.status for story in stories for run in story.runs if "mlflow.parentRunId" not in run.tags]

        # The scheduler's process for that ends the parents as soon as it finds the server and them.
        wait_for(lambda: parents() == ["FINISHED", "FAILED"], 120, "end of the parents")
    made_story, used_story = (
        Story(recording_proxy.uri, "makes_asset", maker),
        Story(recording_proxy.uri, "uses_asset", user),
    )
    make = made_story.run("make")
    assert [run.status for run in made_story.tries("check[1]")] == ["FAILED", "FINISHED"]
    first, second = made_story.tries("check[1]")
    assert first.tags["tracklayer.superseded_by"] == second.run_id
    assert made_story.upstream("check[0]") == made_story.upstream("check[1]") == ["make"]
    (by_asset,) = read_links(used_story.run("use").tags)
    assert (by_asset.run.run_id, by_asset.dataset) == (make.run_id, "s3://warehouse/scheduled-flights")
    assert used_story.run("die").status == "KILLED"
    assert used_story.upstream("die") == ["use"]
    flush(recording_proxy.uri, journal=journal)
    assert journals(journal) == []

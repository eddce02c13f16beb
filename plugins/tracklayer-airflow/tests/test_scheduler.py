"""A real Airflow: api-server, scheduler with LocalExecutor and dag-processor, tasks in processes of their own."""

from __future__ import annotations

import contextlib
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from airflow_story import Story

from harness.airflow import AirflowHome, AirflowService
from harness.process import wait_for
from tracklayer.identity import ROOT_TAG
from tracklayer.linking import read_links

if TYPE_CHECKING:
    from harness.mlflow import MlflowServer

DAGS = Path(__file__).parent / "dags"


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_two_dags_that_an_asset_joins(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "assets.py").write_text((DAGS / "assets.py").read_text())
    hold = tmp_path / "hold"
    hold.touch()
    home = AirflowHome(tmp_path / "home", folder)

    def looking_after() -> list[psutil.Process]:
        """The process beside this scheduler, and not one beside another test's."""
        running = (process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"])
        closers = [process for process in running if "tracklayer_airflow.closing" in process.info["cmdline"]]
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in closers if str(home.folder) in one.environ().get("AIRFLOW_HOME", "")]
        return []

    with AirflowService(home, environ={"MLFLOW_TRACKING_URI": mlflow_server.uri}) as airflow:
        wait_for(lambda: len(looking_after()) == 1, 60, "process that looks after what is killed, before any DAG run")
        made = airflow.trigger("makes_asset", {"hold": str(hold)})

        def link(task: str = "make", index: int = -1) -> str | None:
            with contextlib.suppress(urllib.error.HTTPError):  # it is not mapped yet
                return airflow.links("makes_asset", made, task, index).get("MLflow run")
            return None

        wait_for(lambda: link() is not None, 120, "link to the run of a task that runs")
        while_running = link()
        assert Story(mlflow_server.uri, "makes_asset", {"run_id": made}).run("make").status == "RUNNING"
        of_mapped = tmp_path / "hold.mapped"
        of_mapped.touch()
        hold.unlink()
        wait_for(lambda: all(link("check", index) for index in (0, 1)), 120, "links of a mapped task that runs")
        running = Story(mlflow_server.uri, "makes_asset", {"run_id": made})
        live = {index: (link("check", index), running.tries(f"check[{index}]")[-1]) for index in (0, 1)}
        of_mapped.unlink()
        assert airflow.wait("makes_asset", made)["state"] == "success"
        used = airflow.wait("uses_asset")
        assert used["state"] == "failed"  # its second task kills itself
        links = {index: airflow.links("makes_asset", made, "check", index)["MLflow run"] for index in (0, 1)}

        def parents() -> list[str]:
            told = {"makes_asset": made, "uses_asset": used["dag_run_id"]}
            return [
                Story(mlflow_server.uri, dag_id, {"run_id": run_id}).parent.status for dag_id, run_id in told.items()
            ]

        wait_for(lambda: parents() == ["FINISHED", "FAILED"], 60, "end of the parents")
        assert link() == while_running

    maker = Story(mlflow_server.uri, "makes_asset", {"run_id": made})
    user = Story(mlflow_server.uri, "uses_asset", {"run_id": used["dag_run_id"]})
    make = maker.run("make")
    assert while_running == f"{mlflow_server.uri}/#/experiments/{make.experiment_id}/runs/{make.run_id}"
    # mapped tasks, of which one was tried twice
    assert {run.status for _, run in live.values()} == {"RUNNING"}
    assert {index: str(url).rpartition("/")[2] for index, (url, _) in live.items()} == {
        index: run.run_id for index, (_, run) in live.items()
    }
    assert [run.status for run in maker.tries("check[1]")] == ["FAILED", "FINISHED"]
    assert maker.upstream("check[0]") == maker.upstream("check[1]") == ["make"]
    assert {index: str(url).rpartition("/")[2] for index, url in links.items()} == {
        index: maker.tries(f"check[{index}]")[-1].run_id for index in (0, 1)
    }
    # across the DAGs
    (by_asset,) = read_links(user.run("use").tags)
    assert (by_asset.run.run_id, by_asset.kind, by_asset.dataset) == (
        make.run_id,
        "hand-over",
        "s3://warehouse/scheduled-flights",
    )
    assert [link.run.run_id for link in read_links(user.parent.tags)] == [make.run_id]
    assert user.run("use").tags[ROOT_TAG] == maker.parent.run_id
    # killed without a word, and ended all the same
    assert user.run("die").status == "KILLED"
    assert user.upstream("die") == ["use"]
    assert "RUNNING" not in {run.status for story in (maker, user) for run in story.runs}

    wait_for(lambda: not looking_after(), 30, "end of the process that ends parents")

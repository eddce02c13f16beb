"""``mlflow.log_table`` while the server is away: rows are appended on delivery, and none are lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from harness.line import ARTIFACTS, Line, within
from harness.outage import flush
from harness.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# MLflow's own way to look for images, with a newer pandas.
pytestmark = pytest.mark.filterwarnings("ignore:For backward compatibility")


@pytest.fixture
def table(line: Line, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Reads a table of a run from the server itself."""

    def read(run_id: str, path: str = "t.json") -> dict[str, Any]:
        told: dict[str, Any] = json.loads(line.text(run_id, path, tmp_path / "read"))
        return told

    return read


@pytest.mark.parametrize("first", ["metric", "artifact", "nothing"])
def test_rows_of_an_outage_are_appended(line: Line, table: Callable[..., dict[str, Any]], first: str) -> None:
    with line.stage() as stage:
        mlflow.log_table({"a": [1, 2]}, "t.json")
        line.cut()
        if first != "nothing":
            mlflow.log_metric("auc", 0.9)
        if first == "artifact":
            mlflow.log_dict({"a": 1}, "d.json")
        with within(20):
            mlflow.log_table({"a": [3]}, "t.json")
            mlflow.log_table({"a": [4], "b": ["x"]}, "t.json")
            mlflow.log_table({"a": [5]}, "sub/new.json")
            mlflow.log_table({"a": [6]}, "sub/new.json")
    line.mend()
    run_id = line.deliver(stage)
    assert table(run_id) == {"columns": ["a", "b"], "data": [[1, None], [2, None], [3, None], [4, "x"]]}
    assert table(run_id, "sub/new.json")["data"] == [[5], [6]]
    tags = line.client.get_run(run_id).data.tags
    assert [told["path"] for told in json.loads(tags["mlflow.loggedArtifacts"])] == ["t.json", "sub/new.json"]


def test_a_run_of_an_outage_has_tables_of_any_number_of_calls(line: Line, table: Callable[..., dict[str, Any]]) -> None:
    line.cut()
    with within(30), line.stage() as stage:
        for number in range(5):
            mlflow.log_table({"a": [number]}, "t.json")
        assert mlflow.artifacts.load_dict(f"runs:/{stage.run_id}/t.json")["data"] == [[n] for n in range(5)]
    line.mend()
    assert table(line.deliver(stage))["data"] == [[number] for number in range(5)]


def test_rows_go_on_after_an_outage(line: Line, table: Callable[..., dict[str, Any]]) -> None:
    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.json")
        line.cut()
        mlflow.log_table({"a": [2]}, "t.json")
        line.mend()
        mlflow.log_table({"a": [3]}, "t.json")
    assert table(line.deliver(stage))["data"] == [[1], [2], [3]]


def test_rows_that_others_append_meanwhile_stay(line: Line, table: Callable[..., dict[str, Any]]) -> None:
    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.json")
        line.cut()
        mlflow.log_table({"a": [2]}, "t.json")
        # Another process than this one, which has a way to the server.
        code = f"import mlflow; mlflow.MlflowClient({line.server.uri!r}).log_table({stage.run_id!r}, {{'a': [9]}}, 't.json')"
        subprocess.run([sys.executable, "-c", code], check=True)
        mlflow.log_table({"a": [3]}, "t.json")
        line.mend()
    assert table(line.deliver(stage))["data"] == [[1], [9], [2], [3]]


def test_rows_for_what_is_no_table_are_stored_beside_it(
    line: Line, table: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with line.stage() as stage:
        mlflow.log_text("words", "t.json")
        line.cut()
        mlflow.log_metric("auc", 0.9)
        mlflow.log_table({"a": [3]}, "t.json")
    line.mend()
    run_id = line.deliver(stage)
    assert line.text(run_id, "t.json", tmp_path / "words") == "words"
    (beside,) = [file.path for file in line.client.list_artifacts(run_id) if file.path.startswith("t.rows-")]
    assert table(run_id, beside)["data"] == [[3]]


def test_rows_are_appended_once_where_answers_are_lost(line: Line, table: Callable[..., dict[str, Any]]) -> None:
    def lose_what_is_stored(handler: Any) -> Any:
        answer = handler.forwarded()
        if handler.command != "PUT":
            return answer
        handler.reset()
        return None

    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.json")
        line.cut()
        mlflow.log_table({"a": [2]}, "t.json")
        mlflow.log_table({"a": [2]}, "t.json")  # equal rows are rows, too
        line.proxy.fault(lose_what_is_stored, ARTIFACTS[:-1], times=4)
        line.mend()
    run_id = line.deliver(stage)
    recorder = stage.recorder
    assert recorder is not None
    wait_for(lambda: recorder.flush() and not recorder.waits(run_id), 60, "delivery")
    assert table(run_id)["data"] == [[1], [2], [2]]


@pytest.mark.parametrize("arrived", [True, False])
def test_a_table_whose_upload_got_no_answer(
    line: Line, table: Callable[..., dict[str, Any]], arrived: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracklayer.mlflow_plugins.artifacts import HttpArtifactCalls

    upload = HttpArtifactCalls._upload

    def failing(self: Any, local_file: str, artifact_path: str | None) -> None:
        if arrived:
            upload(self, local_file, artifact_path)
        raise ConnectionError("no answer")

    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.json")
        with monkeypatch.context() as patch:
            patch.setattr(HttpArtifactCalls, "_upload", failing)
            mlflow.log_table({"a": [2]}, "t.json")
        mlflow.log_table({"a": [3]}, "t.json")
    assert table(line.deliver(stage))["data"] == [[1], [2], [3]]


def test_the_rows_of_a_process_that_was_killed_are_appended(line: Line, table: Callable[..., dict[str, Any]]) -> None:
    code = f"""
import os, mlflow, tracklayer
mlflow.set_tracking_uri({line.proxy.uri!r})
with tracklayer.track("training"):
    mlflow.log_table({{"a": [1]}}, "t.json")
    print(mlflow.active_run().info.run_id, flush=True)
    input()
    mlflow.log_table({{"a": [2]}}, "t.json")
    mlflow.log_table({{"a": [3]}}, "t.json")
    os.kill(os.getpid(), 9)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TRACKLAYER_TRACKING_URI": line.proxy.uri},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        run_id = process.stdout.readline().strip()
        line.cut()
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(60)
    line.mend()
    flush(line.proxy.uri)
    assert table(run_id)["data"] == [[1], [2], [3]]


def test_a_parquet_table(line: Line, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.parquet")
        line.cut()
        mlflow.log_table({"a": [2]}, "t.parquet")
        mlflow.log_table({"b": ["x"]}, "t.parquet")
        line.mend()
    found = pd.read_parquet(line.client.download_artifacts(line.deliver(stage), "t.parquet", str(tmp_path)))
    assert found["a"].tolist()[:2] == [1, 2]
    assert found["b"].tolist()[2] == "x"
    assert len(found) == 3


def test_a_table_for_which_there_is_no_room_does_not_replace_what_is_there(
    line: Line, table: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracklayer.journal.failures import JournalFull
    from tracklayer.mlflow_plugins.kept import Kept

    def full(*_: Any, **__: Any) -> None:
        raise JournalFull("full")

    with line.stage() as stage:
        mlflow.log_table({"a": [1]}, "t.json")
        line.cut()
        mlflow.log_metric("auc", 0.9)
        with monkeypatch.context() as patch:
            patch.setattr(Kept, "add", full)
            with pytest.raises(MlflowException, match="no room"):
                mlflow.log_table({"a": [2]}, "t.json")
        line.mend()
    assert table(line.deliver(stage))["data"] == [[1]]

"""Artifacts that user code stores inside a stage: at once where that can be done, else kept and delivered."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import mlflow
import numpy as np
import pytest
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

import tracklayer
from harness.line import ARTIFACTS, Line, within
from harness.mlflow import MlflowServer
from harness.outage import flush
from harness.pipeline import PLUGINS, Pipeline
from harness.process import wait_for
from harness.proxy import RecordingProxy, black_hole, refused_port
from tracklayer.mlflow_plugins import kept
from tracklayer.mlflow_plugins.artifact_repository import _watching as watched
from tracklayer.mlflow_plugins.artifacts import joined
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    (folder / "summary.md").write_text("# fine")
    (folder / "plots" / "roc.svg").write_text("<svg/>")
    return folder


def test_an_artifact_is_stored_at_once_where_the_server_is_there(line: Line, tmp_path: Path) -> None:
    with line.stage() as stage:
        mlflow.log_text("fine", "notes/result.txt")
        assert stage.run_id is not None
        assert line.text(stage.run_id, "notes/result.txt", tmp_path / "read") == "fine"
        mlflow.log_artifacts(str(folder_of(tmp_path)), "report")
        assert line.paths(stage.run_id) == ["notes/result.txt", "report/plots/roc.svg", "report/summary.md"]


def test_nothing_is_remembered_of_the_artifacts_of_stages_that_have_ended(line: Line, tmp_path: Path) -> None:
    """A process may live for years. What is not delivered when its stage ends is let go of with the next one."""
    with line.stage("early") as early:
        mlflow.log_text("fine", "a.txt")
        with mlflow.start_run(nested=True):
            mlflow.log_text("fine", "b.txt")
        assert len(kept._known()) == 2
    assert kept._known() == {}
    with line.stage("cut off") as stage:
        mlflow.log_text("fine", "a.txt")
        line.cut()
        mlflow.log_text("kept", "b.txt")
    assert list(kept._known()) == [stage.run_id]
    waiting = kept.kept_of(stage.run_id or "", None)  # plain MLflow's calls after the stage find it
    assert waiting is not None
    assert waiting.has("b.txt")
    line.mend()
    run_id = line.deliver(stage)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/b.txt") == "kept"
    with line.stage("last"):
        mlflow.log_text("fine", "a.txt")
    assert kept._known() == {}
    for run, path in ((run_id, "b.txt"), (early.run_id, "a.txt")):
        assert line.paths(run or "", None)[0] == "a.txt"
        assert mlflow.artifacts.load_text(f"runs:/{run}/{path}") in {"kept", "fine"}
    mlflow.MlflowClient().log_text(run_id, "more", "c.txt")
    assert line.text(run_id, "c.txt", tmp_path / "read") == "more"


def test_artifacts_are_kept_while_the_server_is_away(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    line.cut()
    with within(10), line.stage() as stage:
        file.write_text("first")
        mlflow.log_artifact(str(file))
        file.write_text("second")  # whatever becomes of the user's own file
        mlflow.log_text("fine", "notes/result.txt")
        mlflow.log_dict({"a": 1}, "notes/a.json")
        mlflow.log_artifacts(str(folder_of(tmp_path)), "report")
        with mlflow.start_run(nested=True) as below:
            mlflow.log_text("below", "below.txt")
        file.unlink()
    line.mend()
    run_id = line.deliver(stage)

    expected = ["model.txt", "notes/a.json", "notes/result.txt", "report/plots/roc.svg", "report/summary.md"]
    assert line.paths(run_id) == expected
    assert line.text(run_id, "model.txt", tmp_path / "read") == "first"
    assert stage.recorder is not None
    child = stage.recorder.resolve(below.info.run_id)
    assert child is not None
    assert line.paths(child) == ["below.txt"]
    assert line.client.get_run(child).data.tags["mlflow.parentRunId"] == run_id


def test_what_is_kept_can_be_read_where_it_is_kept(line: Line, tmp_path: Path) -> None:
    line.cut()
    with within(10), line.stage(), mlflow.start_run() as run:
        mlflow.log_text("fine", "notes/result.txt")
        mlflow.log_text("two", "two.txt")
        uri = run.info.artifact_uri
        assert mlflow.artifacts.load_text(f"{uri}/notes/result.txt") == "fine"
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/two.txt") == "two"
        listed = mlflow.artifacts.list_artifacts(run_id=run.info.run_id)
        assert [(file.path, file.is_dir) for file in listed] == [("notes", True), ("two.txt", False)]
        place = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="notes")
        assert place.endswith("notes")
        mlflow.log_table({"a": [1]}, "table.json")
        mlflow.log_table({"a": [2]}, "table.json")  # reads what there is before


def test_copies_are_read_where_the_server_is_lost_between(line: Line) -> None:
    with line.stage() as stage:
        mlflow.log_text("one", "one.txt")
        line.cut()
        mlflow.log_metric("auc", 0.9)
        mlflow.log_dict({"a": 1}, "d.json")
        mlflow.log_text("two", "notes/two.txt")
        with within(15):
            assert mlflow.artifacts.load_dict(f"runs:/{stage.run_id}/d.json") == {"a": 1}
            assert mlflow.artifacts.load_text(f"runs:/{stage.run_id}/notes/two.txt") == "two"


def test_images_that_are_logged_in_the_background_are_all_delivered(line: Line) -> None:
    with line.stage() as stage:
        mlflow.log_param("a", 1)
        line.cut()
        for step in range(30):
            mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), key="picture", step=step, synchronous=False)
        mlflow.flush_artifact_async_logging()
        line.mend()
    paths = line.paths(line.deliver(stage))
    assert len([path for path in paths if path.endswith(".png")]) == 30


def test_a_place_that_was_given_out_leads_to_the_artifacts_later(line: Line) -> None:
    line.cut()
    with line.stage() as stage:
        mlflow.log_text("fine", "result.txt")
        uri = mlflow.get_artifact_uri("result.txt")
    line.mend()
    line.deliver(stage)
    assert mlflow.artifacts.load_text(uri) == "fine"


def test_an_older_artifact_never_replaces_a_newer_one(line: Line, tmp_path: Path) -> None:
    with line.stage() as stage:
        mlflow.log_text("one", "text.txt")
        line.cut()
        mlflow.log_text("two", "text.txt")
        line.mend()
        mlflow.log_text("three", "text.txt")
    run_id = line.deliver(stage)
    assert line.text(run_id, "text.txt", tmp_path / "read") == "three"


def test_a_server_that_goes_away_between_costs_no_minutes(line: Line, tmp_path: Path) -> None:
    with line.stage() as stage:
        mlflow.log_text("one", "one.txt")
        line.cut()
        with within(15):
            for name in ("two.txt", "three.txt", "four.txt"):
                mlflow.log_text(name, name)
            with pytest.raises(MlflowException):
                mlflow.artifacts.load_text(f"runs:/{stage.run_id}/one.txt")  # is not here, and cannot be asked for
    line.mend()
    run_id = line.deliver(stage)
    assert line.paths(run_id) == ["four.txt", "one.txt", "three.txt", "two.txt"]


@pytest.mark.parametrize("trouble", ["silence", "reset", "lost", "gateway", "credentials", "login page"])
def test_an_upload_that_goes_wrong_is_repeated_later(line: Line, tmp_path: Path, trouble: str) -> None:
    with line.stage() as stage:
        mlflow.log_text("one", "one.txt")
        match trouble:
            case "gateway":
                line.proxy.answer(502, b"<html>Bad gateway</html>", path=ARTIFACTS)
            case "login page":
                line.proxy.answer(200, b"<!doctype html>Who are you?", path=ARTIFACTS)
            case "credentials":
                line.proxy.answer(401, b"who are you?", path=ARTIFACTS)
            case _:
                getattr(line.proxy, trouble)(ARTIFACTS)
        with within(30):
            mlflow.log_text("two", "two.txt")
    run_id = line.deliver(stage)
    assert line.paths(run_id) == ["one.txt", "two.txt"]
    assert line.text(run_id, "two.txt", tmp_path / "read") == "two"


def test_what_the_server_refuses_is_raised_as_in_plain_mlflow(line: Line, tmp_path: Path) -> None:
    import requests

    file = tmp_path / "a.txt"
    file.write_text("a")
    with line.stage():
        line.proxy.answer(403, b'{"error_code": "PERMISSION_DENIED"}', path=ARTIFACTS)
        with pytest.raises(requests.HTTPError, match="403"):
            mlflow.log_artifact(str(file))


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_is_not_there_is_the_users_mistake(line: Line, tmp_path: Path, there: bool) -> None:
    with line.stage():
        mlflow.log_param("a", 1)
        if not there:
            line.cut()
        with pytest.raises(FileNotFoundError):
            mlflow.log_artifact(str(tmp_path / "nothing.txt"))
        with pytest.raises(MlflowException, match="path"):
            mlflow.log_text("a", "../a.txt")


def test_what_there_is_no_room_for_is_not_said_to_be_kept(tmp_path: Path, fresh_mlflow: None) -> None:
    with refused_port() as uri:
        mlflow.set_tracking_uri(uri)
        settings = Settings(
            tracking_uri=uri, journal=str(tmp_path / "journal"), journal_limit=2_000_000, disabled_plugins=PLUGINS
        )
        context = Pipeline(uri).context("training")
        with within(15), tracklayer.track("training", context=context, settings=settings):
            mlflow.log_text("fine", "small.txt")
            with pytest.raises(MlflowException, match="no room"):
                mlflow.log_text("x" * 4_000_000, "large.txt")
            mlflow.log_text("fine", "another.txt")


def test_a_black_hole_costs_a_moment(fresh_mlflow: None, tmp_path: Path) -> None:
    with black_hole() as uri:
        mlflow.set_tracking_uri(uri)
        pipeline = Pipeline("http://127.0.0.1:1")
        settings = Settings(tracking_uri=uri, journal=str(tmp_path / "journal"), disabled_plugins=PLUGINS)
        with within(15), tracklayer.track("training", context=pipeline.context("training"), settings=settings):
            for number in range(5):
                mlflow.log_text("fine", f"{number}.txt")


def test_artifacts_in_a_folder_of_the_servers_machine(tmp_path: Path, fresh_mlflow: None) -> None:
    root = tmp_path / "root"
    folder = tmp_path / "server"
    arguments = ("--default-artifact-root", root.as_uri())
    server = MlflowServer(f"sqlite:///{tmp_path / 'mlflow.db'}", folder, arguments=arguments)
    root.mkdir()
    with server, RecordingProxy(server.uri) as proxy:
        line = Line(server, proxy)
        mlflow.set_tracking_uri(proxy.uri)
        with line.stage("preparation"):  # so that the experiment is there
            mlflow.log_text("one", "one.txt")
        line.cut()
        with line.stage() as stage:
            mlflow.log_text("two", "two.txt")
        line.mend()
        run_id = line.deliver(stage)
        assert line.paths(run_id) == ["two.txt"]


def test_outside_of_stages_nothing_is_kept(mlflow_server: MlflowServer, fresh_mlflow: None, tmp_path: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    mlflow.set_tracking_uri(mlflow_server.uri)
    with mlflow.start_run() as run:
        mlflow.log_text("fine", "result.txt")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/result.txt") == "fine"
    repository = get_artifact_repository(run.info.artifact_uri, mlflow_server.uri)
    assert isinstance(repository, MlflowArtifactsRepository)
    assert isinstance(get_artifact_repository("s3://bucket/path"), S3ArtifactRepository)


def test_a_file_name_of_any_kind_is_stored(line: Line, tmp_path: Path) -> None:
    names = ["with space.txt", "umlaut-ü.txt", "per%cent.txt", "hash#.txt"]
    for name in names:
        (tmp_path / name).write_text(name)
    with line.stage() as stage:
        for name in names[:2]:
            mlflow.log_artifact(str(tmp_path / name), "there")
        line.cut()
        for name in names[:2]:
            mlflow.log_artifact(str(tmp_path / name), "away")
    line.mend()
    run_id = line.deliver(stage)
    there, away = line.paths(run_id, "there"), line.paths(run_id, "away")
    assert [path.replace("there", "away") for path in there] == away


def test_an_upload_is_one_request(line: Line) -> None:
    with line.stage() as stage:
        mlflow.log_text("one", "one.txt")
        assert stage.recorder is not None
        stage.recorder.flush()
        line.proxy.forget()
        mlflow.log_text("two", "two.txt")
        assert [request.method for request in line.proxy.requests] == ["PUT"]


def test_threads_and_forked_processes_keep_their_artifacts(line: Line) -> None:
    def log(name: str) -> None:
        mlflow.MlflowClient().log_text(run_id, name, f"{name}.txt")

    with line.stage() as stage:
        mlflow.log_param("a", 1)
        line.cut()
        run_id = stage.run_id or ""
        threads = [threading.Thread(target=log, args=(f"thread-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
            child = multiprocessing.get_context("fork").Process(target=log, args=("fork",))
            child.start()
        child.join(60)
        assert child.exitcode == 0
        mlflow.log_image(np.zeros((4, 4, 3), dtype="uint8"), key="picture", step=1)
        mlflow.flush_artifact_async_logging()
    line.mend()
    run_id = line.deliver(stage)
    flush(line.proxy.uri)  # the fork's journal is its own
    paths = line.paths(run_id)
    assert [path for path in paths if not path.startswith("images/")] == [
        "fork.txt",
        *(f"thread-{number}.txt" for number in range(4)),
    ]
    assert [path for path in paths if path.startswith("images/")]


class Storage(ArtifactRepository):
    """A storage beside the tracking server, as S3 is one: a folder, which can be unplugged."""

    unplugged: ClassVar[bool] = False
    asked: ClassVar[int] = 0
    root: ClassVar[Path]

    @property
    def place(self) -> Path:
        return self.root / self.artifact_uri.partition("://")[2]

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        type(self).asked += 1
        if Storage.unplugged:
            raise EndpointConnectionError("could not connect to the endpoint")
        place = self.place / (artifact_path or "")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(local_file, place)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        for file in sorted(Path(local_dir).iterdir()):
            self.log_artifact(str(file), artifact_path)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        place = self.place / (path or "")
        return [FileInfo(joined(path, file.name), file.is_dir(), None) for file in sorted(place.iterdir())]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        shutil.copy(self.place / remote_file_path, local_path)


def test_what_waits_for_a_storage_is_not_overtaken(line: Line, storage: None) -> None:
    name = f"stored-{line.pipeline.workflow}"
    experiment = line.client.create_experiment(name, artifact_location=f"s3://bucket/{name}")
    with line.stage() as stage, mlflow.start_run(experiment_id=experiment) as run:
        Storage.unplugged = True
        mlflow.log_text("older", "text.txt")
        assert stage.recorder is not None
        stage.recorder.flush()  # the server has everything that is its own
        Storage.unplugged = False
        mlflow.log_text("newer", "text.txt")
    stored = Storage.root / "bucket" / name / run.info.run_id / "artifacts" / "text.txt"
    wait_for(lambda: stored.exists() and stored.read_text() == "newer", 60, "delivery")


class EndpointConnectionError(Exception):
    """What a storage's library raises."""


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The storage serves a scheme as another plugin of MLflow's does, watched by ours."""
    registry = artifact_repository_registry._artifact_repository_registry
    monkeypatch.setitem(registry._registry, "s3", watched(Storage))
    Storage.unplugged, Storage.asked, Storage.root = False, 0, tmp_path / "storage"
    yield
    Storage.unplugged = False


def test_a_storage_beside_the_server_that_is_away(line: Line, storage: None) -> None:
    name = f"stored-{line.pipeline.workflow}"
    experiment = line.client.create_experiment(name, artifact_location=f"s3://bucket/{name}")
    with line.stage() as stage:
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text("one", "one.txt")
            Storage.unplugged = True
            mlflow.log_text("two", "two.txt")
            asked = Storage.asked
            mlflow.log_text("three", "three.txt")
            assert Storage.asked == asked  # it is left alone for a while
            Storage.unplugged = False
            line.cut()  # a server that is away is nothing to the storage
            mlflow.log_metric("auc", 0.9)
        line.mend()
    line.deliver(stage)
    wait_for(lambda: line.paths(run.info.run_id) == ["one.txt", "three.txt", "two.txt"], 60, "delivery")
    stored = Storage.root / "bucket" / name / run.info.run_id / "artifacts"
    assert (stored / "two.txt").read_text() == "two"

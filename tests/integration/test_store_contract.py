"""What `tracklayer.store.Store` promises, held against every implementation and every database that is there."""

from __future__ import annotations

import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.exceptions import AlreadyExists, NotFound, Refused, StoreError
from tracklayer.store import Dataset, LoggedModel, Metric, Run, Store, library, rest
from tracklayer.store.delivery import deliver
from tracklayer.store.endpoint import without_credentials
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.backends import Backend

BACKENDS = ["mlflow_server", "mlflow_postgres", "mlflow_mysql", "library_sqlite", "library_postgresql"]


@pytest.fixture(scope="session")
def library_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('library') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def library_postgresql(postgresql: Backend) -> Iterator[str]:
    with postgresql.database() as uri:
        yield uri


@pytest.fixture(params=BACKENDS)
def uri(request: pytest.FixtureRequest) -> str:
    backend = request.getfixturevalue(request.param)
    return backend if isinstance(backend, str) else str(backend.uri)


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri, connect_timeout=5, timeout=30)


@pytest.fixture
def name() -> str:
    return f"contract-{uuid.uuid4().hex}"


@pytest.fixture
def experiment(store: Store, name: str) -> str:
    return store.create_experiment(name, {"mlflow.note.content": "**für** alle"})


@pytest.fixture
def run(store: Store, experiment: str) -> Run:
    return store.create_run(experiment, name="first", start_time=1_700_000_000_123, tags={"a": "1"})


def client(uri: str) -> Any:
    """MLflow's own client: what other people's tools see, and what the protocol has no method for."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


# Experiments


def test_an_experiment_is_found_by_id_and_by_name(store: Store, experiment: str, name: str) -> None:
    found = store.get_experiment(experiment)
    assert found == store.get_experiment_by_name(name)
    assert (found.experiment_id, found.name, found.deleted) == (experiment, name, False)
    assert found.tags["mlflow.note.content"] == "**für** alle"
    assert experiment in [one.experiment_id for one in store.search_experiments()]


def test_an_experiment_that_never_was(store: Store, name: str) -> None:
    assert store.get_experiment_by_name(name) is None
    for experiment_id in ("1234567", "no-number"):
        with pytest.raises(NotFound):
            store.get_experiment(experiment_id)
    with pytest.raises(NotFound):
        store.restore_experiment("1234567")
    with pytest.raises(NotFound):
        store.create_run("1234567", name="x", start_time=1, tags={})


def test_a_name_is_taken_once(store: Store, experiment: str, name: str) -> None:
    with pytest.raises(AlreadyExists, match=name):
        store.create_experiment(name, {})


def test_a_deleted_experiment_keeps_its_name_and_comes_back(store: Store, experiment: str, name: str, uri: str) -> None:
    client(uri).delete_experiment(experiment)
    found = store.get_experiment_by_name(name)
    assert found
    assert found.deleted
    assert store.get_experiment(experiment).deleted
    assert experiment not in [one.experiment_id for one in store.search_experiments()]
    with pytest.raises(AlreadyExists):
        store.create_experiment(name, {})
    with pytest.raises(Refused):
        store.create_run(experiment, name="x", start_time=1, tags={})
    store.restore_experiment(experiment)
    store.restore_experiment(experiment)
    assert not store.get_experiment(experiment).deleted


def test_experiment_tags_are_set_and_overwritten(store: Store, experiment: str) -> None:
    store.set_experiment_tags(experiment, {"team": "rail", "x": "1"})
    store.set_experiment_tags(experiment, {"team": "road"})
    tags = store.get_experiment(experiment).tags
    assert (tags["team"], tags["x"]) == ("road", "1")


def test_all_pages_of_experiments(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "PAGE", 2)
    monkeypatch.setattr(library, "PAGE", 2)
    made = {store.create_experiment(f"{name}-{number}", {}) for number in range(5)}
    assert made <= {one.experiment_id for one in store.search_experiments()}


# Runs


def test_a_run_is_what_it_was_created_as(store: Store, run: Run, experiment: str) -> None:
    found = store.get_run(run.run_id)
    assert found == run
    assert found.experiment_id == experiment
    assert (found.name, found.status, found.deleted) == ("first", "RUNNING", False)
    assert (found.start_time, found.end_time) == (1_700_000_000_123, None)
    assert found.tags["a"] == "1"
    assert run.run_id in found.artifact_uri


def test_a_run_is_created_with_hundreds_of_tags(store: Store, experiment: str) -> None:
    tags = {f"mlflow.tracklayer.upstream.{number}": "x" * 200 for number in range(480)}
    run = store.create_run(experiment, name="many", start_time=1, tags=tags)
    assert tags.items() <= store.get_run(run.run_id).tags.items()


def test_a_run_is_updated_field_by_field(store: Store, run: Run) -> None:
    store.update_run(run.run_id, name="second")
    store.update_run(run.run_id, status="FAILED")
    found = store.get_run(run.run_id)
    assert (found.name, found.status, found.end_time) == ("second", "FAILED", None)
    store.update_run(run.run_id, end_time=1_700_000_009_999)
    found = store.get_run(run.run_id)
    assert (found.name, found.status, found.end_time) == ("second", "FAILED", 1_700_000_009_999)
    store.update_run(run.run_id, status="FINISHED", end_time=1_700_000_010_000, name="third")
    found = store.get_run(run.run_id)
    assert (found.name, found.status, found.end_time) == ("third", "FINISHED", 1_700_000_010_000)
    store.update_run(run.run_id, status="RUNNING")
    assert store.get_run(run.run_id).status == "RUNNING"


def test_a_run_that_never_was(store: Store) -> None:
    run_id = uuid.uuid4().hex
    for ask in (
        lambda: store.get_run(run_id),
        lambda: store.update_run(run_id, status="FINISHED"),
        lambda: store.log_batch(run_id, tags={"a": "b"}),
        lambda: store.delete_run(run_id),
    ):
        with pytest.raises(NotFound, match=run_id):
            ask()


def test_a_run_in_the_trash(store: Store, run: Run, experiment: str) -> None:
    store.delete_run(run.run_id)
    store.delete_run(run.run_id)
    assert store.get_run(run.run_id).deleted
    assert list(store.search_runs([experiment])) == []
    assert [found.run_id for found in store.search_runs([experiment], deleted=True)] == [run.run_id]
    with pytest.raises(Refused, match="active"):
        store.log_batch(run.run_id, tags={"a": "b"})


# What is logged


def test_a_batch_of_everything(store: Store, run: Run) -> None:
    store.log_batch(
        run.run_id,
        metrics=[
            Metric(key="loss", value=0.25, timestamp=1_000, step=1),
            Metric(key="loss", value=0.125, timestamp=2_000, step=2),
            Metric(key="nothing", value=math.nan, timestamp=1_000),
            Metric(key="all", value=math.inf, timestamp=1_000),
            Metric(key="less", value=-math.inf, timestamp=1_000),
            Metric(key="before", value=1, timestamp=1_000, step=-3),
        ],
        params={"model.optimizer/lr rate": "0.1", "größe": "ünï©ødé 🚂", "empty": ""},
        tags={"a": "2", "b": "line\nline"},
    )
    found = store.get_run(run.run_id)
    assert found.metrics["loss"] == 0.125
    assert math.isnan(found.metrics["nothing"])
    assert found.metrics["all"] > 1e308  # databases without infinity keep the largest number instead
    assert found.metrics["less"] < -1e308
    assert found.metrics["before"] == 1
    assert found.params == {"model.optimizer/lr rate": "0.1", "größe": "ünï©ødé 🚂", "empty": ""}
    assert (found.tags["a"], found.tags["b"]) == ("2", "line\nline")


def test_an_empty_batch_asks_for_nothing(store: Store) -> None:
    store.log_batch("no such run")


def test_a_batch_that_is_repeated_is_stored_once(store: Store, run: Run, uri: str) -> None:
    for _ in range(3):
        store.log_batch(
            run.run_id,
            metrics=[Metric(key="m", value=step, timestamp=step, step=step) for step in range(4)],
            params={"p": "1"},
            tags={"t": "1"},
        )
    history = client(uri).get_metric_history(run.run_id, "m")
    assert sorted(point.step for point in history) == [0, 1, 2, 3]


def test_a_changed_param_is_refused_with_all_of_its_batch(store: Store, run: Run) -> None:
    store.log_batch(run.run_id, params={"p": "1"})
    with pytest.raises(Refused, match="p"):
        store.log_batch(
            run.run_id,
            metrics=[Metric(key="m", value=1, timestamp=1)],
            params={"q": "1", "p": "2"},
            tags={"t": "1"},
        )
    found = store.get_run(run.run_id)
    assert found.params == {"p": "1"}
    assert not found.metrics
    assert "t" not in found.tags


@pytest.mark.parametrize("key", ["", "new\nline", "../up", "/absolute", "two//slashes", "k" * 300])
def test_a_bad_key_is_refused(store: Store, run: Run, key: str) -> None:
    with pytest.raises(Refused):
        store.log_batch(run.run_id, params={key: "1"})


@pytest.mark.parametrize(
    "metric",
    [
        Metric(key="m", value="0.9x", timestamp=1),  # type: ignore[arg-type]
        Metric(key="m", value=10**400, timestamp=1),
        Metric(key="m", value=1.0, timestamp=2**63),
        Metric(key="m", value=1.0, timestamp=1, step=2**63),
        Metric(key="m", value=1.0, timestamp=1, step=1.5),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_metric_is_refused(store: Store, run: Run, metric: Metric) -> None:
    with pytest.raises(Refused, match="'m'"):
        store.log_batch(run.run_id, metrics=[metric])


def test_characters_that_databases_have_no_place_for_are_shown(store: Store, experiment: str) -> None:
    run = store.create_run(experiment, name="a\0b", start_time=1, tags={"t": "x\0y"})
    store.log_batch(run.run_id, params={"path": "caf\udce9"}, tags={"u": "\0"})
    found = store.get_run(run.run_id)
    assert found.name == "a␀b"
    assert (found.tags["t"], found.tags["u"], found.params["path"]) == ("x␀y", "␀", "caf�")


def test_datasets(store: Store, run: Run) -> None:
    first = Dataset(
        name="flights",
        digest="abc123",
        source_type="http",
        source='{"uri": "s3://lake/flights"}',
        context="training",
        schema='{"mlflow_colspec": []}',
        profile='{"num_rows": 336776}',
    )
    second = Dataset(name="weather", digest="def", source_type="local", source="{}", tags={"split": "2013"})
    store.log_inputs(run.run_id, [first, second])
    store.log_inputs(run.run_id, [])
    found = store.get_run(run.run_id).datasets
    assert sorted(found, key=lambda dataset: dataset.name) == [first, second]


def test_the_first_source_of_a_dataset_sticks(store: Store, run: Run, experiment: str) -> None:
    other = store.create_run(experiment, name="other", start_time=1, tags={})
    for one, source in ((run, '{"run_id": "first"}'), (other, '{"run_id": "second"}'), (run, '{"run_id": "third"}')):
        dataset = Dataset(name="parent", digest="abc", source_type="code", source=source)
        store.log_inputs(one.run_id, [dataset])
    for one in (run, other):
        assert [dataset.source for dataset in store.get_run(one.run_id).datasets] == ['{"run_id": "first"}']


def test_many_threads_share_a_store(store: Store, run: Run) -> None:
    def log(number: int) -> None:
        store.log_batch(run.run_id, tags={f"thread.{number}": "1"})

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(log, range(48)))
    assert len([key for key in store.get_run(run.run_id).tags if key.startswith("thread.")]) == 48


# Searches


def test_runs_are_searched_in_order_over_all_pages(
    store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "PAGE", 2)
    monkeypatch.setattr(library, "PAGE", 2)
    for number in range(5):
        store.create_run(experiment, name=f"r{number}", start_time=1_000 + number, tags={"odd": str(number % 2)})

    def names(filter_string: str = "", **more: Any) -> list[str]:
        return [run.name for run in store.search_runs([experiment], filter_string, **more)]

    assert names() == ["r4", "r3", "r2", "r1", "r0"]
    assert names(order_by=["attributes.start_time ASC"]) == ["r0", "r1", "r2", "r3", "r4"]
    assert names(limit=3) == ["r4", "r3", "r2"]
    assert names(limit=0) == []
    assert names("tags.odd = '1'") == ["r3", "r1"]


def test_a_run_is_found_by_the_name_of_a_tag_in_any_experiment(store: Store, name: str) -> None:
    tag = f"mlflow.tracklayer.key.{uuid.uuid4().hex}"
    runs = {
        store.create_run(
            store.create_experiment(f"{name}-{number}", {}), name="r", start_time=1, tags={tag: "1"}
        ).run_id
        for number in range(2)
    }
    assert {run.run_id for run in store.search_runs([], f"tags.`{tag}` = '1'")} == runs


def test_a_search_everywhere_leaves_out_deleted_experiments(store: Store, run: Run, experiment: str, uri: str) -> None:
    tag = f"mlflow.tracklayer.key.{uuid.uuid4().hex}"
    store.log_batch(run.run_id, tags={tag: "1"})
    client(uri).delete_experiment(experiment)
    assert list(store.search_runs([], f"tags.`{tag}` = '1'")) == []
    store.restore_experiment(experiment)
    assert [found.run_id for found in store.search_runs([], f"tags.`{tag}` = '1'")] == [run.run_id]
    store.delete_run(run.run_id)
    assert [found.run_id for found in store.search_runs([], f"tags.`{tag}` = '1'", deleted=True)] == [run.run_id]


def test_a_search_over_more_experiments_than_one_statement_takes(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracklayer.store.everywhere.IDS", 2)
    experiments = [store.create_experiment(f"{name}-{number}", {}) for number in range(5)]
    runs = [store.create_run(one, name="r", start_time=1, tags={}).run_id for one in experiments]
    assert {run.run_id for run in store.search_runs(experiments)} == set(runs)
    assert len(store.search_runs(experiments, limit=3)) == 3


def test_a_filter_that_nobody_can_read_is_refused(store: Store, experiment: str) -> None:
    with pytest.raises(Refused, match="filter"):
        store.search_runs([experiment], "owner IS ann")


# Artifacts and models


def test_artifacts(store: Store, run: Run) -> None:
    content = bytes(range(256)) * 4096
    for path in ("report.html", "plots/roc curve.png", "größe/100%.txt"):
        store.log_artifact(run, path, content)
        assert store.read_artifact(run, path) == content
    store.log_artifact(run, "report.html", b"")
    assert store.read_artifact(run, "report.html") == b""
    with pytest.raises(NotFound):
        store.read_artifact(run, "plots/none.png")


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", "a\\b", "file:x", "a\0b"])
def test_an_artifact_stays_with_its_run(store: Store, run: Run, path: str) -> None:
    with pytest.raises(Refused, match="artifact path"):
        store.log_artifact(run, path, b"x")
    with pytest.raises(Refused, match="artifact path"):
        store.read_artifact(run, path)


def test_the_run_behind_a_model(
    store: Store, run: Run, experiment: str, uri: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow's registry on a database looks for models there
    mlflow = client(uri)
    logged = mlflow.create_logged_model(experiment, source_run_id=run.run_id)
    mlflow.create_registered_model(name)
    mlflow.create_model_version(name, source=f"runs:/{run.run_id}/model", run_id=run.run_id)
    mlflow.create_model_version(name, source=f"models:/{logged.model_id}", model_id=logged.model_id)
    mlflow.set_registered_model_alias(name, "champion", "1")
    for model in (
        f"models:/{name}/1",
        f"models:/{name}/2",
        f"models:/{name}@champion",
        f"models:/{logged.model_id}",
        logged.model_id,
    ):
        assert store.model_run_id(model) == run.run_id, model
    orphan = mlflow.create_logged_model(experiment)
    for model in (
        f"models:/{name}/77",
        f"models:/{name}@nobody",
        f"models:/{name}-none/1",
        "models:/m-0123456789abcdef",
        orphan.model_id,
        f"models:/{name}/Production",
        "nonsense",
    ):
        with pytest.raises(NotFound):
            store.model_run_id(model)


# The back end itself


def test_ping(store: Store) -> None:
    import mlflow

    assert store.ping() == mlflow.__version__


def test_a_closed_store_opens_again(store: Store, run: Run) -> None:
    store.close()
    assert store.get_run(run.run_id) == run


def test_a_store_shows_where_it_is(store: Store, uri: str) -> None:
    assert store.uri == without_credentials(uri)
    assert store.uri in repr(store)
    assert isinstance(store, Store)


# Delivery


def test_everything_is_delivered_in_as_few_batches_as_the_limits_allow(store: Store, run: Run) -> None:
    metrics = [Metric(key=f"m{step % 7}", value=step, timestamp=step, step=step) for step in range(2_150)]
    params = {f"p{number}": "x" * 5_000 for number in range(230)}
    tags = {f"t{number}": "y" * 5_000 for number in range(120)}
    assert deliver(store, run.run_id, metrics=metrics, params=params, tags=tags) == []
    found = store.get_run(run.run_id)
    assert found.params == params
    assert tags.items() <= found.tags.items()
    assert found.metrics == {f"m{number}": max(range(number, 2_150, 7)) for number in range(7)}


def test_bad_values_take_no_others_with_them(store: Store, run: Run) -> None:
    store.log_batch(run.run_id, params={"p7": "before", "p8": "8"})
    params = {f"p{number}": str(number) for number in range(60)} | {"bad\nkey": "1"}
    tags = {"good": "1", "../bad": "1"}
    metrics = [Metric(key="m", value=1, timestamp=1), Metric(key="n", value="?", timestamp=1)]  # type: ignore[arg-type]
    refusals = deliver(store, run.run_id, metrics=metrics, params=params, tags=tags)
    assert {(one.kind, one.key, one.value) for one in refusals} == {
        ("param", "p7", "7"),
        ("param", "bad\nkey", "1"),
        ("tag", "../bad", "1"),
        ("metric", "n", "?"),
    }
    assert "before" in next(one.reason for one in refusals if one.key == "p7")
    found = store.get_run(run.run_id)
    assert found.params == {f"p{number}": str(number) for number in range(60)} | {"p7": "before"}
    assert found.tags["good"] == "1"
    assert found.metrics == {"m": 1}


def test_nothing_is_delivered_to_a_run_in_the_trash(store: Store, run: Run) -> None:
    store.delete_run(run.run_id)
    refusals = deliver(store, run.run_id, params={str(number): "1" for number in range(300)})
    assert len(refusals) == 300
    assert "deleted" in refusals[0].reason


def test_delivery_to_a_run_that_never_was(store: Store) -> None:
    with pytest.raises(NotFound):
        deliver(store, uuid.uuid4().hex, params={"p": "1"})


# Folders


def test_an_artifact_folder_of_another_machine_is_not_made_here(store: Store, run: Run, tmp_path: Path) -> None:
    from dataclasses import replace

    away = replace(run, artifact_uri=str(tmp_path / "srv" / "of" / "elsewhere" / "mlruns" / "1" / "r" / "artifacts"))
    with pytest.raises(StoreError, match="--artifacts-destination"):
        store.log_artifact(away, "x.txt", b"x")
    assert list(tmp_path.iterdir()) == []


# What only the journal's delivery asks for


def test_a_tag_is_taken_away_and_once_more(store: Store, run: Run) -> None:
    store.delete_tag(run.run_id, "a")
    store.delete_tag(run.run_id, "a")
    assert "a" not in store.get_run(run.run_id).tags
    with pytest.raises(NotFound):
        store.delete_tag("0" * 32, "a")


def test_a_run_without_a_name_gets_one(store: Store, experiment: str) -> None:
    assert store.create_run(experiment, name=None, start_time=1, tags={}).name


@pytest.fixture
def model(store: Store, experiment: str, run: Run) -> LoggedModel:
    return store.create_logged_model(
        experiment, name="delays", run_id=run.run_id, tags={"a": "1"}, params={"lr": "0.1"}, model_type="sklearn"
    )


def test_a_logged_model_is_what_it_was_created_as_and_is_changed(
    store: Store, run: Run, experiment: str, model: LoggedModel
) -> None:
    assert store.get_logged_model(model.model_id) == model
    assert (model.name, model.experiment_id, model.run_id, model.status) == (
        "delays",
        experiment,
        run.run_id,
        "PENDING",
    )
    assert (model.tags["a"], model.params) == ("1", {"lr": "0.1"})
    for _ in range(2):
        store.change_logged_model(model.model_id, tags={"b": "2"}, params={"lr": "0.1", "depth": "3"}, status="READY")
    changed = store.get_logged_model(model.model_id)
    assert (changed.tags["a"], changed.tags["b"]) == ("1", "2")
    assert (changed.params, changed.status) == ({"lr": "0.1", "depth": "3"}, "READY")
    with pytest.raises(NotFound):
        store.get_logged_model("m-" + "0" * 32)


def test_a_logged_model_is_found_by_a_tag(store: Store, experiment: str, name: str) -> None:
    made = store.create_logged_model(experiment, name=None, run_id=None, tags={name: "1"}, params={}, model_type=None)
    for where in ([experiment], []):
        found = store.find_logged_model(where, name)
        assert found
        assert found.model_id == made.model_id
    assert store.find_logged_model([experiment], f"{name}-no") is None


def test_models_as_inputs_and_outputs_are_logged_again_without_harm(
    store: Store, run: Run, experiment: str, model: LoggedModel
) -> None:
    other = store.create_logged_model(experiment, name="b", run_id=None, tags={}, params={}, model_type=None)
    for _ in range(2):
        store.log_inputs(run.run_id, (), [model.model_id])
        store.log_outputs(run.run_id, [(model.model_id, 3)])
    store.log_outputs(run.run_id, [(model.model_id, 3), (other.model_id, 0)])
    assert sorted(store.get_run(run.run_id).outputs) == sorted([(model.model_id, 3), (other.model_id, 0)])


def test_a_metric_of_a_model_on_a_dataset(store: Store, run: Run, model: LoggedModel, uri: str) -> None:
    store.log_inputs(run.run_id, [Dataset(name="d", digest="1", source_type="uri", source="{}")])
    point = Metric(key="auc", value=0.9, timestamp=1, model_id=model.model_id, dataset_name="d", dataset_digest="1")
    store.log_batch(run.run_id, metrics=[point])
    (told,) = client(uri).get_logged_model(model.model_id).metrics
    assert (told.key, told.value, told.dataset_name) == ("auc", 0.9, "d")


def test_files_as_artifacts_of_runs_and_models(store: Store, run: Run, model: LoggedModel, tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(range(256)) * 400)
    for owner in (run, model):
        store.log_artifact(owner, "data/weights.bin", file)
    assert store.read_artifact(run, "data/weights.bin") == file.read_bytes()


def test_another_try_needs_no_failure_before_it(store: Store, run: Run) -> None:
    store.try_again()
    assert store.get_run(run.run_id).run_id == run.run_id

"""What `tracklayer.store.Store` promises of experiments, runs, searches for them, and itself, on every back end."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from harness.lookup import client
from tracklayer.exceptions import AlreadyExists, NotFound, Refused
from tracklayer.store import Run, Store, library, rest
from tracklayer.store.endpoint import without_credentials

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


def test_a_run_without_a_name_gets_one(store: Store, experiment: str) -> None:
    assert store.create_run(experiment, name=None, start_time=1, tags={}).name


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


def test_another_try_needs_no_failure_before_it(store: Store, run: Run) -> None:
    store.try_again()
    assert store.get_run(run.run_id).run_id == run.run_id

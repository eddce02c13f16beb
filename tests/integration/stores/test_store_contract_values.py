"""What `tracklayer.store.Store` promises of what is logged to a run, in one batch or many, on every back end."""

from __future__ import annotations

import math
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lookup import client
from tracklayer.exceptions import NotFound, Refused
from tracklayer.store import Dataset, Metric, Run, Store
from tracklayer.store.delivery import deliver

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


@pytest.mark.parametrize("order", ["ascending", "descending", "the last is not the latest"])
def test_a_full_batch_leaves_the_latest_values_and_histories_of_its_points(
    store: Store, run: Run, uri: str, order: str
) -> None:
    steps = list(range(500))
    if order == "descending":
        steps.reverse()
    elif order == "the last is not the latest":
        steps = steps[250:] + steps[:250]
    points = [Metric(key=key, value=step / 8, timestamp=1_000 + step, step=step) for step in steps for key in "ab"]
    store.log_batch(run.run_id, metrics=points)
    assert store.get_run(run.run_id).metrics == {"a": 499 / 8, "b": 499 / 8}
    for key in "ab":
        history = [(point.step, point.value) for point in client(uri).get_metric_history(run.run_id, key)]
        assert history == [(step, step / 8) for step in range(500)]


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


def test_a_tag_is_taken_away_and_once_more(store: Store, run: Run) -> None:
    store.delete_tag(run.run_id, "a")
    store.delete_tag(run.run_id, "a")
    assert "a" not in store.get_run(run.run_id).tags
    with pytest.raises(NotFound):
        store.delete_tag("0" * 32, "a")


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

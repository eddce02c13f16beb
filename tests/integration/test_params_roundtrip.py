"""Params through a real server and back: every database takes what is sent, and nothing is lost."""

from __future__ import annotations

import functools
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.configurations import KEYS, configurations, leaves, read_back
from tracklayer.params import encode, valid_key
from tracklayer.redaction import Redaction
from tracklayer.store import Metric
from tracklayer.store.delivery import deliver
from tracklayer.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.mlflow import MlflowServer
    from tracklayer.params import EncodedParams
    from tracklayer.store import Store

REDACTION = Redaction()
UNHURRIED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
# MySQL's default collations take names that differ in case or accents for the same one.
PLAIN_KEYS = st.text(st.sampled_from("abc0123./ :%_-"), max_size=6)
AWKWARD = example(
    params={"a\x00": "b\x00", "\ud800": "\ud800", "long": "é" * 7_000, "": {"": 1}, "a": {"b": 1}, "a.b": 2, "..": "x"}
)


@pytest.fixture(scope="module")
def experiments() -> dict[str, str]:
    """By tracking URI, the experiment that holds this module's runs."""
    return {}


def round_trip(server: MlflowServer, experiments: dict[str, str], params: Mapping[str, object]) -> None:
    store = open_store(server.uri, connect_timeout=5, timeout=30)
    if server.uri not in experiments:
        experiments[server.uri] = store.create_experiment(f"params-{uuid.uuid4().hex}", {})
    encoded = encode(params, redact=REDACTION)
    found = send_and_read(store, experiments[server.uri], encoded)
    assert found == leaves(params, REDACTION)


def send_and_read(store: Store, experiment: str, encoded: EncodedParams) -> list[tuple[str, str]]:
    run = store.create_run(experiment, name="params", start_time=int(time.time() * 1000), tags={})
    refusals = deliver(store, run.run_id, metrics=(), params=encoded.params, tags={})
    assert refusals == []
    for path, content in encoded.artifacts.items():
        store.log_artifact(run, path, content)
    stored = store.get_run(run.run_id)
    assert stored.params == encoded.params
    return read_back(stored.params, encoded.artifacts, functools.partial(store.read_artifact, stored))


@UNHURRIED
@given(params=configurations(KEYS))
@AWKWARD
def test_sqlite_keeps_everything(
    mlflow_server: MlflowServer, experiments: dict[str, str], params: dict[str, object]
) -> None:
    round_trip(mlflow_server, experiments, params)


@UNHURRIED
@given(params=configurations(KEYS))
@AWKWARD
def test_postgresql_keeps_everything(
    mlflow_postgres: MlflowServer, experiments: dict[str, str], params: dict[str, object]
) -> None:
    round_trip(mlflow_postgres, experiments, params)


@UNHURRIED
@given(params=configurations(PLAIN_KEYS))
@AWKWARD
def test_mysql_keeps_everything(
    mlflow_mysql: MlflowServer, experiments: dict[str, str], params: dict[str, object]
) -> None:
    round_trip(mlflow_mysql, experiments, params)


def test_more_params_than_a_batch_takes_and_longer_than_a_request_may_be(
    mlflow_server: MlflowServer, experiments: dict[str, str]
) -> None:
    # One batch of a hundred such values would be 3.6 MB of JSON, and MLflow takes 1 MB.
    params = {f"p{number}": "é" * 6_000 for number in range(150)} | {f"q{number}": number for number in range(300)}
    round_trip(mlflow_server, experiments, params)


@UNHURRIED
@given(key=KEYS)
def test_mapped_names_serve_for_metrics_and_tags_too(
    mlflow_server: MlflowServer, experiments: dict[str, str], key: str
) -> None:
    store = open_store(mlflow_server.uri, connect_timeout=5, timeout=30)
    if "keys" not in experiments:
        experiments["keys"] = store.create_experiment(f"keys-{uuid.uuid4().hex}", {})
    run = store.create_run(experiments["keys"], name="keys", start_time=1, tags={})
    name = valid_key(key)
    store.log_batch(run.run_id, metrics=[Metric(key=name, value=0.5, timestamp=1)], tags={name: "x"})
    stored = store.get_run(run.run_id)
    assert stored.metrics == {name: 0.5}
    assert stored.tags[name] == "x"


def test_names_that_the_database_takes_for_one_keep_the_first_and_hold_up_no_other(
    mlflow_mysql: MlflowServer, experiments: dict[str, str]
) -> None:
    store = open_store(mlflow_mysql.uri, connect_timeout=5, timeout=30)
    experiment = store.create_experiment(f"case-{uuid.uuid4().hex}", {})
    run = store.create_run(experiment, name="case", start_time=1, tags={})
    refusals = deliver(store, run.run_id, params={"lr": "0.1", "LR": "0.2", "depth": "3"})
    assert [(refusal.kind, refusal.key) for refusal in refusals] == [("param", "LR")]
    assert store.get_run(run.run_id).params == {"lr": "0.1", "depth": "3"}

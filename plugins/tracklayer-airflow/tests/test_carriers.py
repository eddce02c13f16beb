"""What attributes of an operator carry, value by value; how that arrives is tested in `test_any_operator`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.models import V1EnvVar  # type: ignore[import-untyped]

from tracklayer_airflow.carriers import loaded

TOLD = {
    "TRACKLAYER_PARENT": "tl1.token",
    "MLFLOW_TRACKING_URI": "https://ann:s3cret@mlflow.example.com/tracking",
    "TRACKLAYER_TRACKING_URI": "https://ann:s3cret@mlflow.example.com/tracking",
}
BOTH = {"TRACKLAYER_PARENT": "tl1.token", "MLFLOW_TRACKING_URI": "https://mlflow.example.com/tracking"}
TOKEN = {"TRACKLAYER_PARENT": "tl1.token"}
SPARK = {"application": "train.py", "env_vars": None}
POD = {"image": "train:1", "env_from": []}
STARTS = ("spark.executorEnv", "spark.kubernetes.driverEnv", "spark.yarn.appMasterEnv")
OTHER = {"MLFLOW_TRACKING_URI": "http://own"}


@pytest.mark.parametrize(
    ("operator", "name", "expected"),
    [
        ({"bash_command": "", "env": {"A": "1"}, "append_env": False}, "env", {**BOTH, "A": "1"}),
        ({"bash_command": "", "env": {"A": "1"}}, "env", {**BOTH, "A": "1"}),
        ({"bash_command": "", "env": OTHER, "append_env": False}, "env", {**TOKEN, **OTHER}),
        ({"bash_command": "", "env": {"A": "1"}, "append_env": True}, "env", {"A": "1"}),
        ({"bash_command": "", "env": None, "append_env": False}, "env", None),
        ({"env": {"A": "1"}}, "env", {"A": "1"}),
        ({"env_vars": None, "inherit_env": False}, "env_vars", BOTH),
        ({"env_vars": None, "inherit_env": True}, "env_vars", None),
        ({"env_vars": {"A": "1"}}, "env_vars", {"A": "1"}),
        ({"env_vars": {"A": "1"}, **POD}, "env_vars", {**BOTH, "A": "1"}),
        ({"env_vars": {}, **POD, "env_from": ["a map"]}, "env_vars", TOKEN),
        ({"environment": {}, "image": "train:1"}, "environment", BOTH),
        ({"environment": OTHER, "image": "train:1"}, "environment", {**TOKEN, **OTHER}),
        ({"environment": {}, "image": "i", "env_file": "MLFLOW_TRACKING_URI=x"}, "environment", TOKEN),
        ({"environment": {"machineType": "n1"}}, "environment", {"machineType": "n1"}),
        ({"conf": None, **SPARK}, "conf", {f"{start}.TRACKLAYER_PARENT": "tl1.token" for start in STARTS}),
        ({"conf": {"a": 1}, **SPARK, "env_vars": {"TRACKLAYER_PARENT": "mine"}}, "conf", {"a": 1}),
        ({"conf": {"a": 1}, "trigger_dag_id": "d"}, "conf", {"tracklayer": "tl1.token", "a": 1}),
        ({"conf": '{"a": 1}', "trigger_dag_id": "d"}, "conf", {"tracklayer": "tl1.token", "a": 1}),
        ({"conf": {"tracklayer": ""}, "trigger_dag_id": "d"}, "conf", {"tracklayer": ""}),
        ({"conf": None, "trigger_dag_id": "d"}, "conf", {"tracklayer": "tl1.token"}),
        ({"conf": "no json", "trigger_dag_id": "d"}, "conf", "no json"),
        ({"conf": "[1]", "trigger_dag_id": "d"}, "conf", "[1]"),
        ({"conf": {"a": 1}}, "conf", {"a": 1}),
    ],
)
def test_attributes_carry_the_token_within(operator: dict[str, Any], name: str, expected: object) -> None:
    task = SimpleNamespace(**operator)
    before, copied = getattr(task, name), repr(getattr(task, name))
    with loaded(task, TOLD):
        assert getattr(task, name) == expected
    assert getattr(task, name) is before
    assert repr(before) == copied
    with loaded(task, {}):  # not tracked
        assert getattr(task, name) is before


@pytest.mark.parametrize("given", [None, [], [V1EnvVar(name="A", value="1")]])
def test_pods_are_told_in_their_own_words(given: list[V1EnvVar] | None) -> None:
    task = SimpleNamespace(env_vars=given, **POD)
    with loaded(task, TOLD):
        names = {one.name: one.value for one in task.env_vars}
    assert names == {**BOTH, **({"A": "1"} if given else {})}
    assert task.env_vars is given


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:5000", "http://localhost", "sqlite:////mlflow.db", "/data/mlruns", "http://[broken"]
)
def test_an_address_that_means_something_else_there_is_not_told(address: str) -> None:
    task = SimpleNamespace(environment={}, image="train:1")
    with loaded(task, {**TOLD, "MLFLOW_TRACKING_URI": address}):
        assert task.environment == TOKEN


def test_what_the_task_raises_is_raised_and_what_it_sets_stays() -> None:
    task = SimpleNamespace(environment={}, image="train:1")

    def work() -> None:
        with loaded(task, TOLD):
            task.environment = {"B": "2"}
            raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        work()
    assert task.environment == {"B": "2"}


def test_an_operator_that_cannot_be_changed_runs_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Fixed:
        image = "train:1"

        @property
        def environment(self) -> dict[str, str]:
            return {}

    with loaded(Fixed(), TOLD):
        pass
    assert "what this task starts is not told of its run" in caplog.text

"""Which tasks are observed: the same answer for a DAG as it was parsed and as the scheduler has it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.exceptions import SettingsError
from tracklayer.settings import load
from tracklayer_airflow import policy
from tracklayer_airflow import rules as rules_module
from tracklayer_airflow.provider import get_provider_info
from tracklayer_airflow.rules import OPTIONS, Rules, rules
from tracklayer_airflow.settings import AirflowSettings

if TYPE_CHECKING:
    from harness.airflow import AirflowHome

DAGS = Path(__file__).parent

pytestmark = pytest.mark.timeout(1_200)


@dataclass
class Operator:
    task_id: str = "train"
    owner: str = "data-team"
    task_type: str = "PythonOperator"
    operator_name: str = "PythonOperator"
    _task_module: str = "airflow.providers.standard.operators.python"
    template_fields: tuple[str, ...] = ("op_args",)


@dataclass
class Dag:
    dag_id: str = "flights"
    tags: frozenset[str] = frozenset({"ml", "daily"})
    task_dict: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, True),
        ({"dags": ("flights",)}, True),
        ({"dags": ("fl*", "other")}, True),
        ({"dags": ("Flights",)}, False),
        ({"dags": ("light",)}, False),
        ({"skip_dags": ("fl*",)}, False),
        ({"dags": ("flights",), "skip_dags": ("*",)}, False),
        ({"tags": ("ml",)}, True),
        ({"tags": ("web", "d?ily")}, True),
        ({"tags": ("web",)}, False),
        ({"tasks": ("train*",)}, True),
        ({"tasks": ("flights.train",)}, True),
        ({"tasks": ("other.train",)}, False),
        ({"skip_tasks": ("*.train",)}, False),
        ({"skip_tasks": ("evaluate",)}, True),
        ({"operators": ("PythonOperator",)}, True),
        ({"operators": ("airflow.providers.standard.*",)}, True),
        ({"operators": ("Bash*", "@task")}, False),
        ({"owners": ("data-*",)}, True),
        ({"owners": ("web-team",)}, False),
        ({"dags": ("flights",), "tags": ("ml",), "owners": ("web-team",)}, False),
    ],
)
def test_every_kind_of_rule(rule: dict[str, tuple[str, ...]], expected: bool) -> None:
    assert Rules(**rule).observe_task(Operator(), Dag()) is expected  # type: ignore[arg-type]
    assert Rules(**rule).observe_any(Dag(task_dict={"train": Operator()})) is expected  # type: ignore[arg-type]


def test_decorated_tasks_and_several_owners() -> None:
    decorated = Operator(task_type="_PythonDecoratedOperator", operator_name="@task", owner="airflow, data-team")
    assert Rules(operators=("@task",), owners=("data-team",)).observe_task(decorated, Dag())


def test_a_dag_without_tags_has_none_of_those_that_are_asked_for() -> None:
    assert not Rules(tags=("*",)).observe_task(Operator(), Dag(tags=frozenset()))


def test_tracked_operators_are_left_to_themselves() -> None:
    tracked = Operator(template_fields=("op_args", "run_name", "experiment", "run_tags"))
    assert not Rules().observe_task(tracked, Dag())
    assert not Rules().observe_any(Dag(task_dict={"train": tracked}))


def test_a_dag_that_is_not_at_hand_is_not_observed() -> None:
    assert not Rules().observe_any(None)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_in_airflows_configuration_and_in_the_settings(name: str) -> None:
    config: Any = get_provider_info()["config"]
    option = config["tracklayer"]["options"][name]
    assert option["description"]
    assert option["default"] is None, "what is not said is left to tracklayer's settings"
    assert name in AirflowSettings.__struct_fields__


def test_airflows_configuration_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_OBSERVE_DAGS", "a, b")
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_OBSERVE_TAGS", "ml")
    monkeypatch.setenv("AIRFLOW__TRACKLAYER__OBSERVE_DAGS", "c")
    found = rules(load())
    assert found == Rules(dags=("c",), tags=("ml",))
    monkeypatch.setenv("AIRFLOW__TRACKLAYER__OBSERVE", "off")
    assert rules(load()) is None


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("TRACKLAYER_AIRFLOW_OWN_RUNS", "'airflow.own_runs' in the environment variable TRACKLAYER_AIRFLOW_OWN_RUNS"),
        ("AIRFLOW__TRACKLAYER__OWN_RUNS", r"'own_runs' in the section \[tracklayer\] of Airflow's configuration"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, message: str) -> None:
    monkeypatch.setenv(variable, "perhaps")
    with pytest.raises(SettingsError, match=f"setting {message} must be true or false, not 'perhaps'"):
        rules(load())


def test_a_list_may_have_a_line_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """As airflow.cfg shows lists. It was one pattern that nothing matches."""
    for variable in ("AIRFLOW__TRACKLAYER__SKIP_DAGS", "TRACKLAYER_AIRFLOW_SKIP_TASKS"):
        monkeypatch.setenv(variable, "\n  train_*\n  flights.report,\r\n\n  old\n")
    names = ("train_*", "flights.report", "old")
    assert rules(load()) == Rules(skip_dags=names, skip_tasks=names)


@pytest.mark.parametrize("word", ["t", "T", "true", "1", "on", "yes", "True # since May"])
def test_yes_as_airflow_reads_it(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__TRACKLAYER__OWN_RUNS", word)
    assert rules(load()) == Rules(own_runs=True)


@pytest.mark.parametrize("word", ["f", "F", "false", "0", "off", "no", "0 # for now"])
def test_no_as_airflow_reads_it(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__TRACKLAYER__OBSERVE", word)
    assert rules(load()) is None


@pytest.mark.parametrize("word", ["tr", "2", "# true"])
def test_what_is_neither_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__TRACKLAYER__OBSERVE", word)
    with pytest.raises(SettingsError, match=r"setting 'observe' in the section .* must be true or false"):
        rules(load())


SCRIPT = """
import json, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag
try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # Airflow 3.1
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization
from tracklayer_airflow.rules import Rules
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
rules = [Rules(**{name: tuple(value) for name, value in rule.items()}) for rule in json.loads(sys.argv[2])]
found = []
for dag_id in ("observed", "automated_training"):
    parsed = bag.dags[dag_id]
    serialized = DagSerialization.from_dict(DagSerialization.to_dict(parsed))
    for rule in rules:
        found.append([[task_id for task_id in sorted(dag.task_dict) if rule.observe_task(dag.task_dict[task_id], dag)]
                      for dag in (parsed, serialized)])
    links = {task_id: [link.name for link in task.operator_extra_links] for task_id, task in serialized.task_dict.items()}
print("FOUND", json.dumps([found, links]))
"""


def test_parsed_and_serialized_dags_are_judged_alike(airflow_home: AirflowHome) -> None:
    """A task is chosen where it runs and where DAGs are parsed, the end of its DAG run where the scheduler is."""
    asked = [{}, {"operators": ["@task"]}, {"operators": ["*Sensor", "airflow.*"]}, {"owners": ["data-science"]}]
    asked += [{"tags": ["observed"]}, {"tasks": ["mapped"]}]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(DAGS / "dags_observed"), json.dumps(asked)],
        env=airflow_home.environ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}),
        cwd=airflow_home.folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found, links = json.loads(done.stdout.rpartition("FOUND")[2])
    assert all(parsed == serialized for parsed, serialized in found)
    everything, decorated, others, owned, tagged, mapped = (parsed for parsed, _ in found[:6])
    assert "managed" not in everything
    assert {"prepare", "mapped", "deferring", "rescheduled"} <= set(everything)
    assert {"prepare", "mapped"} <= set(decorated)
    assert "deferring" not in decorated
    assert "rescheduled" in others
    assert everything == owned == tagged
    assert mapped == ["mapped"]
    # Each of them has the button on its page.
    assert links == {"train_model": ["MLflow run"], "evaluate_model": ["MLflow run"]}


def test_an_operator_that_refuses_our_link_is_no_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At every parse of its file it would be."""

    class Refusing(SimpleNamespace):
        @property
        def operator_extra_links(self) -> list[Any]:
            return []

    monkeypatch.setattr(rules_module, "rules_here", Rules)
    task = Refusing(
        task_id="train", template_fields=(), owner="airflow", dag=SimpleNamespace(dag_id="flights", tags=[])
    )
    policy.task_policy(task)
    assert caplog.records == []

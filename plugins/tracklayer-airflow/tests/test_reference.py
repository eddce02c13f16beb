"""The reference page tells of every option, setting, field, argument, macro and link, and of no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tracklayer_airflow
from tracklayer_airflow.connection import _EXTRA
from tracklayer_airflow.hooks import MlflowHook
from tracklayer_airflow.provider import get_provider_info
from tracklayer_airflow.rules import OPTIONS
from tracklayer_airflow.settings import AirflowSettings

PAGE = (Path(tracklayer_airflow.__file__).parent / "pages" / "reference.md").read_text()

INFO: Any = get_provider_info()

OPERATORS = ("Tracked", "RegisterModelOperator", "SetModelAliasOperator", "MlflowRunSensor", "ModelAliasSensor")


def rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the tables below a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^\|-[-|]*\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert tables
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def named(cell: str) -> str:
    """The name in a cell, without its quotes."""
    return cell.replace("`", "").replace("*", "")


def test_options() -> None:
    options = INFO["config"]["tracklayer"]["options"]
    found = {named(row[0]): row for row in rows("Options of Airflow's configuration")}
    assert list(found) == list(options)
    assert {"enabled", "mlflow_conn_id", *OPTIONS} == set(options)
    for name, row in found.items():
        default = options[name]["default"]
        assert row[2] == {None: "not set", "": "none"}.get(default, f"`{default}`"), name
        assert (row[1] == "true or false") is (options[name]["type"] == "boolean"), name


def test_settings() -> None:
    found = {named(row[0]): row for row in rows("Settings")}
    fields = {field.name: field for field in msgspec.structs.fields(AirflowSettings)}
    assert list(found) == list(fields)
    for name, row in found.items():
        default = fields[name].default
        told = {None: "none", (): "none"}.get(default) if default in {None, ()} else f"`{str(default).lower()}`"
        assert row[2].partition(":")[0] == told, name
        assert (row[1] == "true or false") is (fields[name].type == "bool" or fields[name].type is bool), name
    shown = PAGE.partition("The settings from `observe` to `pass_tokens` are the **rules**")[0]
    assert list(OPTIONS) == [name for name in found if f"`{name}`" in shown and name in OPTIONS]


def test_connection() -> None:
    (connection,) = INFO["connection-types"]
    form, behaviour = connection["conn-fields"], connection["ui-field-behaviour"]
    found = {named(row[0]): row for row in rows("Connection")}
    assert list(found) == ["host", "schema", "port", "login", "password", *_EXTRA]
    assert set(form) == set(_EXTRA)
    for name, variable in _EXTRA.items():
        assert found[name][1] == form[name]["label"]
        assert named(found[name][2]) == variable
    assert {name: found[name][1] for name in behaviour["relabeling"]} == behaviour["relabeling"]
    assert MlflowHook.get_ui_field_behaviour()["relabeling"] == behaviour["relabeling"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_arguments(operator: str) -> None:
    kind = getattr(tracklayer_airflow, operator)
    told: dict[str, dict[str, list[str]]] = {}
    for row in rows("Operators and sensors"):
        if row[0]:
            told[named(row[0])] = {}
        told[list(told)[-1]][named(row[1])] = row
    assert tuple(told) == OPERATORS
    arguments = {
        name: argument
        for one in kind.__mro__
        if one.__module__.startswith("tracklayer_airflow")
        for name, argument in inspect.signature(one.__init__).parameters.items()
        if name not in {"self", "args", "kwargs"}
    }
    assert set(told[operator]) == set(arguments)
    for name, row in told[operator].items():
        assert (row[2] == "required") is (arguments[name].default is inspect.Parameter.empty), name
        assert row[1].endswith("*") is (name in kind.template_fields), name


def test_every_operator_is_there() -> None:
    made = {name for name in tracklayer_airflow.__all__ if name.endswith(("Operator", "Sensor")) or name == "Tracked"}
    assert made == {*OPERATORS, "TrackedPythonOperator"}
    assert "`TrackedPythonOperator`" in PAGE
    assert "`@task.tracked`" in PAGE


def test_macros_and_links() -> None:
    from tracklayer_airflow import links
    from tracklayer_airflow.plugin import TracklayerPlugin

    assert [named(row[0]) for row in rows("Macros")] == [macro.__name__ for macro in TracklayerPlugin.macros]
    told = {(named(row[0]), named(row[1])) for row in rows("Links and XComs") if row[0]}
    made = (getattr(links, path.rpartition(".")[2]) for path in INFO["extra-links"])
    assert told == {(link.name, link.xcom_key) for link in made}

"""Params as they are sent: names and values that MLflow takes, nothing lost of what it would not, no secrets."""

from __future__ import annotations

import hashlib
import json
import re

import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings

from harness.configurations import configurations, leaves, read_back
from harness.params import encoded
from tracklayer.params import FOLDER, VALUE_LIMIT, flatten, valid_key
from tracklayer.redaction import Redaction

UNHURRIED = settings(deadline=None)  # machines that run tests may be busy

# ---------------------------------------------------------------------------------------------------------------------
# Valid for MLflow, and nothing lost
# ---------------------------------------------------------------------------------------------------------------------


def test_a_long_value_goes_whole_to_an_artifact_and_the_param_says_where() -> None:
    value = "select " + "é" * 7_000
    result = encoded({"model": {"query": value}, "short": 1})
    (path,) = result.artifacts
    assert result.artifacts[path].decode() == value
    text = result.params["model.query"]
    digest = hashlib.sha256(value.encode()).hexdigest()
    assert text == f"{value[:500]}… [7007 characters, sha256 {digest}, whole in {path}]"
    assert path == f"{FOLDER}/model_query-{digest[:12]}.txt"
    assert result.params["short"] == "1"


def test_a_value_of_just_the_limit_stays() -> None:
    result = encoded({"x": "a" * VALUE_LIMIT})
    assert result.params == {"x": "a" * VALUE_LIMIT}
    assert result.artifacts == {}


def test_the_same_long_value_is_the_same_param_whatever_is_logged_beside_it() -> None:
    first = encoded({"x": "a" * 7_000})
    again = encoded({"x": "a" * 7_000, "y": "b" * 7_000})
    assert first.params["x"] == again.params["x"]
    assert set(first.artifacts) < set(again.artifacts)
    assert encoded({"x": "a" * 6_999 + "b"}).params["x"] != first.params["x"]


def test_long_lists_go_whole_to_an_artifact() -> None:
    features = [f"feature_{number}" for number in range(5_000)]
    result = encoded({"features": features})
    (content,) = result.artifacts.values()
    assert json.loads(content) == features


@pytest.mark.parametrize(("value", "text"), [("a\x00b", "a\\u0000b"), ("a\ud800b", "a\\ud800b")])
def test_what_no_database_stores_is_shown_escaped_and_kept(value: str, text: str) -> None:
    result = encoded({"x": value})
    ((path, content),) = result.artifacts.items()
    assert result.params["x"].startswith(f"{text} [3 characters, sha256 ")
    assert (json.loads(content) if path.endswith(".json") else content.decode()) == value


@pytest.mark.parametrize(
    "key", ["lr", "model.lr", "a/b", "a b", "a:b", "ünï", "a-b_c", ".a", "a..b", "飛行", "x" * 250]
)
def test_a_name_that_mlflow_takes_stays_as_it_is(key: str) -> None:
    assert valid_key(key) == key
    assert encoded({key: 1}).params == {key: "1"}


@pytest.mark.parametrize(
    "key",
    [
        *("", ".", "..", "../a", "a/../b", "/a", "a/", "a//b", "./a", "a/./b", "..a", "a%", "a\n", "a\tb", "a=b"),
        *("x" * 251, "a\x00", "\ud800", "a\\b", "👩‍🚀", "//a", "...", "a/..", "(", "a@b"),
    ],
)
def test_a_name_that_mlflow_refuses_is_mapped_and_the_original_kept(key: str) -> None:
    result = encoded({key: 1, "other": 2})
    (name,) = set(result.params) - {"other"}
    assert is_valid_for_mlflow(name)
    assert result.params[name] == "1"
    ((path, content),) = result.artifacts.items()
    assert path.startswith(f"{FOLDER}/names-")
    assert json.loads(content) == {name: {"key": key, "path": [key]}}


def test_names_that_would_be_mapped_to_the_same_one_are_kept_apart() -> None:
    keys = ["a%", "a&", "a_", "x" * 251, "x" * 252, "", ".", "..", "/"]
    result = encoded(dict.fromkeys(keys, 1))
    assert len(result.params) == len(keys)
    assert "a_" in result.params
    taken = valid_key("a%")
    assert encoded({"a%": 1, taken: 2}).params[taken] in {"1", "2"}
    assert len(encoded({"a%": 1, taken: 2}).params) == 2


def is_valid_for_mlflow(name: str) -> bool:
    """What mlflow.utils.validation asks of a name, and PostgreSQL too (a test on a real server is in integration)."""
    import posixpath

    if not re.fullmatch(r"[/\w.\- :]{1,250}", name):
        return False
    normal = posixpath.normpath(name)
    return normal == name and normal != "." and not normal.startswith(("..", "/"))


@given(configurations())
@settings(UNHURRIED, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example({"a": {"b": 1}, "a.b": 2})
@example({"": {"": 1}, ".": 2})
@example({"x": ".", "y": {"": ""}, "a": {}})
def test_every_param_is_valid_and_can_be_read_back(params: dict[str, object]) -> None:
    result = encoded(params)
    for name, text in result.params.items():
        assert is_valid_for_mlflow(name)
        assert len(text) <= VALUE_LIMIT
        assert "\x00" not in text
        text.encode("utf-8")
    assert all(re.fullmatch(r"tracklayer/params/[A-Za-z0-9_.-]{1,120}", path) for path in result.artifacts)
    assert read_back(result.params, result.artifacts, result.artifacts.__getitem__) == leaves(params, Redaction())
    assert encoded(params) == result


# ---------------------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------------------


def test_secrets_are_masked_before_anything_else() -> None:
    long_secret = "hunter2" * 2_000
    result = encoded(
        {
            "db": {"password": "hunter2", "url": "postgres://me:hunter2@host/db"},
            "api_key": long_secret,
            "key": pydantic.SecretStr("hunter2"),
            "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "fast"}],
            "args": ["--password", "hunter2", "--lr", "0.1"],
            "text": "x" * 7_000 + " password=hunter2",
            "postgres://me:hunter2@host": 1,
            "pin": "hunter2",
        },
        "pin",
    )
    everything = repr(result.params) + repr(result.artifacts)
    assert "hunter2" not in everything
    assert result.params["db.url"] == "postgres://me:***@host/db"
    assert result.params["api_key"] == "***"
    assert result.params["env.0.value"] == "***"
    assert result.params["env.1.value"] == "fast"
    assert json.loads(result.params["args"]) == ["--password", "***", "--lr", "0.1"]


def test_the_users_patterns_mask_params_too() -> None:
    """With or without a neighbour's name, which counts as the last part of the param's own."""
    params = {
        "my_pin": "1",
        "a": {"user_pin": "2", "pins": "3"},
        "xyz": "4",
        "env": [{"name": "her_pin", "value": "5"}, {"name": "", "value": "6"}, {"value_pin": "7"}],
        "b_secret": "8",
    }
    assert encoded(params, "*_pin", "x?z", "!*_secret").params == {
        "my_pin": "***",
        "a.user_pin": "***",
        "a.pins": "3",
        "xyz": "***",
        "env.0.name": "her_pin",
        "env.0.value": "***",
        "env.1.name": "",
        "env.1.value": "6",
        "env.2.value_pin": "***",
        "b_secret": "8",
    }


def test_the_users_patterns_know_no_neighbour_where_there_is_none() -> None:
    assert Redaction(["*.value"]).mask("env", {"value": "1"}) == {"value": "***"}


def test_flatten_alone_never_shows_a_value_of_a_secret_type() -> None:
    assert flatten({"a": pydantic.SecretStr("hunter2"), "b": [pydantic.SecretBytes(b"x")]}) == {
        "a": "***",
        "b": ["***"],
    }

"""Secrets: what is masked by name, by type and by shape, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracklayer.redaction import MASK, NAMES, Redaction, is_secret, mask_text, mask_url

UNHURRIED = settings(deadline=None)  # machines that run tests may be busy
REDACTION = Redaction()
SRC = Path(__file__).parents[2] / "src"
# Put together here, so that no scanner takes them for real ones.
GITHUB = "ghp_" + "A1b2" * 9
AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + "." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabc+/=\n-----END RSA PRIVATE KEY-----"


# ---------------------------------------------------------------------------------------------------------------------
# By name
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *("db_password", "DB_PASSWORD", "dbPassword", "db-password", "db.password", "Password1", "passwords"),
        *("PGPASSWORD", "dbpassword", "spring.datasource.password", "passwd", "user_passwd"),
        *("client_secret", "clientSecret", "secrets.db.user", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id"),
        *("api_key", "apiKey", "APIKey", "X-API-KEY", "apikey", "openai_api_key", "api.keys.0"),
        *(
            "token",
            "hf_token",
            "HF_TOKEN",
            "accessToken",
            "access_token",
            "token_2",
            "GITHUB_TOKEN_PROD",
            "token.value",
        ),
        *("private_key", "privateKey", "ssh_key", "signing_key", "credential", "db.credentials.user", "creds"),
        *("connection_string", "connectionString", "AZURE_STORAGE_CONNECTION_STRING", "conn_str", "sentry_dsn"),
        *(
            "Authorization",
            "headers.authorization",
            "proxy-authorization",
            "Cookie",
            "set-cookie",
            "basic_auth",
            "auth",
        ),
        *("slack_webhook", "fernet_key", "pass", "smtp_pass", "passphrase", "bearer"),
    ],
)
def test_names_that_are_masked(name: str) -> None:
    assert REDACTION.hides(name) or REDACTION.mask(name, "hunter2") == MASK
    assert REDACTION.mask(name, "hunter2") == MASK
    assert REDACTION.mask(name, b"hunter2") == MASK
    assert REDACTION.mask(name, ["hunter2"]) == MASK
    assert REDACTION.mask(name, {"inner": "hunter2"}) == MASK


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer", "tokenizer_name", "max_tokens", "tokens_per_second", "num_tokens", "max_new_tokens", "tokenize"),
        *(
            "pad_token",
            "eos_token",
            "bosToken",
            "unk_token",
            "token_pattern",
            "token_type",
            "mask_token",
            "special_token",
        ),
        *(
            "secretary",
            "secretariat",
            "passenger",
            "passengers",
            "compass",
            "bypass",
            "passed",
            "first_pass",
            "n_passes",
        ),
        *("key", "primary_key", "sort_key", "keyboard", "monkey", "keys", "foreign_key", "key_metrics"),
        *("author", "authors", "authority", "auth_type", "connection", "connect_timeout", "max_connections"),
        *("lr", "model.optimizer.lr", "cookiecutter", "accredited", "", "ünï", "tracklayer.key", "webhooker"),
    ],
)
def test_names_that_are_not(name: str) -> None:
    assert not REDACTION.hides(name)
    assert REDACTION.mask(name, "value") == "value"


def test_numbers_under_a_name_that_only_says_token_are_kept() -> None:
    assert REDACTION.mask("token_smoothing", 0.1) == 0.1
    assert REDACTION.mask("token", 5) == 5
    assert REDACTION.mask("token", "5") == MASK
    assert REDACTION.mask("password", 12345) == MASK


@pytest.mark.parametrize("value", [None, True, False])
def test_whether_there_is_a_secret_is_none(value: object) -> None:
    assert REDACTION.mask("password", value) is value


def test_patterns_of_the_user_are_added() -> None:
    redaction = Redaction(["ssn", "card number", "*_pin", "x?z"])
    for name in ("ssn", "applicant.ssn", "applicantSsn", "card_number", "cardNumber", "card.number", "my_pin", "XyZ"):
        assert redaction.mask(name, "1") == MASK
        assert redaction.mask(name, 1) == MASK
    for name in ("session", "card", "number_card", "pin", "my_pins", "xyyz"):
        assert redaction.mask(name, "1") == "1"
    assert redaction.mask("password", "hunter2") == MASK


def test_patterns_of_the_user_can_exempt() -> None:
    redaction = Redaction(["!demo_password", "!public_*", "secret_sauce"])
    assert redaction.mask("demo_password", "demo") == "demo"
    assert redaction.mask("public_token", "abc") == "abc"
    assert redaction.mask("password", "hunter2") == MASK
    assert redaction.mask("demo_password", f"http://me:hunter2@host {GITHUB}") == f"http://me:{MASK}@host {MASK}"


def test_patterns_may_come_from_an_iterator_and_be_empty() -> None:
    redaction = Redaction(iter(["ssn", "", "!", "*"]))
    assert redaction.mask("ssn", "1") == MASK


# ---------------------------------------------------------------------------------------------------------------------
# By type
# ---------------------------------------------------------------------------------------------------------------------


class Generic(pydantic.Secret[int]):
    pass


def made(module: str, name: str) -> object:
    """A value of a class of this name, as if it came from that package."""
    return type(name, (), {"__module__": module, "__repr__": lambda self: "hunter2"})()


@pytest.mark.parametrize(
    "value",
    [
        pydantic.SecretStr("hunter2"),
        pydantic.SecretBytes(b"hunter2"),
        pydantic.Secret[str]("hunter2"),
        Generic(5),
        made("prefect.blocks.system", "Secret"),
        made("starlette.datastructures", "Secret"),
        made("airflow.models.connection", "Connection"),
        made("airflow.sdk.definitions.connection", "Connection"),
        made("airflow.models.variable", "Variable"),
        made("kubernetes.client.models.v1_secret", "V1Secret"),
    ],
)
def test_types_that_are_made_for_secrets(value: object) -> None:
    assert is_secret(value)
    assert REDACTION.mask("x", value) == MASK
    assert REDACTION.mask("x", {"a": [value]}) == {"a": [MASK]}


@pytest.mark.parametrize("value", ["Secret", 1, None, made("sqlite3", "Connection"), made("tf", "Variable"), int, {}])
def test_types_that_are_not(value: object) -> None:
    assert not is_secret(value)
    assert REDACTION.mask("x", value) is value or value == {}


@pytest.mark.slow
def test_the_secrets_of_prefect_and_airflow_themselves() -> None:
    script = """
import warnings
warnings.simplefilter("ignore")
from tracklayer.redaction import MASK, Redaction, is_secret
from airflow.sdk import Connection
from prefect.blocks.system import Secret
for value in (Connection(conn_id="a", conn_type="http", password="hunter2"), Secret(value="hunter2")):
    assert is_secret(value), value
    assert Redaction().mask("x", value) == MASK
from airflow.sdk.log import mask_secret
assert Redaction().mask("x", "the word is correcthorse!") == "the word is correcthorse!"
mask_secret("correcthorse")
assert Redaction().mask("x", ["the word is correcthorse!"]) == ["the word is ***!"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=_environment())


def test_recognising_them_imports_nothing() -> None:
    script = (
        "import sys; from tracklayer.redaction import Redaction; Redaction(['a*']).mask('x', {'password': [1, 'a@b']})\n"
        "assert not {'pydantic', 'airflow', 'prefect', 'urllib.parse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=_environment())


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(SRC)}


# ---------------------------------------------------------------------------------------------------------------------
# By shape
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me:***@host:5432/db"),
        (
            "postgresql+psycopg2://me:p%40ss@host/db?sslmode=require",
            "postgresql+psycopg2://me:***@host/db?sslmode=require",
        ),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("amqp://me:p@ss@host", "amqp://me:***@host"),
        ("amqp://me:pa/ss@host", "amqp://me:***@host"),
        ("http://me:a@h1,http://you:b@h2", "http://me:***@h1,http://you:***@h2"),
        ("see http://me:hunter2@host/x and http://host/y", "see http://me:***@host/x and http://host/y"),
        (f"https://{'t' * 24}@github.com/a/b", "https://***@github.com/a/b"),
        ("https://host/x?token=abc&page=2", "https://host/x?token=***&page=2"),
        ("https://host/x?sv=2026&sig=a%2Fb#top", "https://host/x?sv=2026&sig=***#top"),
        ("https://host/x?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("Server=db;Uid=me;Pwd=hunter2;Timeout=5", "Server=db;Uid=me;Pwd=***;Timeout=5"),
        ("AccountName=a;AccountKey=abc+/==;Suffix=x", "AccountName=a;AccountKey=***;Suffix=x"),
        ("host=db user=me password=hunter2 port=1", "host=db user=me password=*** port=1"),
        ("Client(url='x', password='hunter 2', n=1)", "Client(url='x', password=***, n=1)"),
        ('{"user": "me", "db_password": "hunter2"}', '{"user": "me", "db_password": ***}'),
        ("{'api_key': 'hunter2', 'n': 1}", "{'api_key': ***, 'n': 1}"),
        ("run --password hunter2 --lr 0.1", "run --password *** --lr 0.1"),
        ("run --db-password=hunter2 --api-token abc", "run --db-password=*** --api-token ***"),
        ("curl -H 'Authorization: Basic bWU6aHVudGVyMg=='", "curl -H 'Authorization: Basic ***'"),
        ("Bearer abcdefghijklmnop1234", "Bearer ***"),
        (f"key {GITHUB}, next", "key ***, next"),
        (AWS, "***"),
        (f"{AWS}/x", "***/x"),
        (JWT, "***"),
        (f"before\n{PEM}\nafter", "before\n***\nafter"),
        ("sk-" + "a1B2" * 6, "***"),
        ("xoxb-" + "1234567890-abcdef", "***"),
        ("https://hooks.slack.com/services/" + "T0/B0/abc", "https://hooks.slack.com/services/***"),
        ("glpat-" + "a" * 20, "***"),
        ("hf_" + "a" * 34, "***"),
    ],
)
def test_secrets_inside_text(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked
    assert REDACTION.mask("x", text) == masked
    assert REDACTION.mask("x", ["a", {"b": (text,)}]) == ["a", {"b": (masked,)}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://bucket/path/to/file.parquet",
        "http://host:8080/path/@at",
        "http://host:8080/a:b@c",
        "ssh://git@host/repo.git",
        "postgresql://me@host/db",
        "sqlite:////tmp/x.db",
        "me@example.org",
        "Enter the password: and press return",
        "password=None, secret=False",
        "max_tokens=512, tokenizer=bert",
        "AutoTokenizer(pad_token='<pad>', eos_token='</s>')",
        "https://host/x?page=2&sort=key",
        "scikit-learn sk-learn-gradient-boosting-model",
        "basic understanding of bearer responsibilities",
        "0f4c2d9e-9d5b-4b6e-8a52-0b5b7c7c1a11",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "airflow:default/flights/manual__2026-11-21T00:00:00+00:00/train#1",
        "tl1." + "WyJhYmMiLCIxIl0" * 5,
        "(?u)\\b\\w\\w+\\b",
    ],
)
def test_text_that_is_none_stays(text: str) -> None:
    assert mask_text(text) == text
    assert REDACTION.mask("x", text) is text


def test_only_urls() -> None:
    assert mask_url("http://me:hunter2@host?token=abc") == "http://me:***@host?token=***"
    assert mask_url(f"password=x {GITHUB}") == f"password=x {GITHUB}"


def test_bytes_that_hold_a_secret_are_masked_whole() -> None:
    assert REDACTION.mask("x", b"http://me:hunter2@host") == MASK
    assert REDACTION.mask("x", b"\xff\x00") == b"\xff\x00"


@UNHURRIED
@given(
    st.text(
        st.characters(exclude_categories=("Cs", "Zs", "Cc", "Zl", "Zp"), exclude_characters="/?#@'\"<>&;,"), min_size=8
    )
)
def test_no_password_survives_in_a_url(password: str) -> None:
    if password.isdigit() or password.replace("*", "") == "" or password in "postgresql://me:***@host:5432/mlflow":
        return
    masked = mask_text(f"postgresql://me:{password}@host:5432/mlflow")
    assert masked == "postgresql://me:***@host:5432/mlflow"


@UNHURRIED
@given(st.text())
def test_masking_text_twice_is_masking_it_once(text: str) -> None:
    assert mask_text(mask_text(text)) == mask_text(text)


@pytest.mark.parametrize(
    "part",
    [
        *(
            "a",
            "://",
            "://a:",
            "://a:b",
            "://a:b/@",
            "password=",
            "'password':",
            "--a-",
            "eyJ",
            "eyJaaaaaaaa.eyJ",
            "?a",
        ),
        *(
            "-----BEGIN A",
            "-----BEGIN PRIVATE KEY-----",
            "sk-",
            "?token",
            "authorization: ",
            "bearer ",
            "_",
            "gh",
            "a_",
        ),
        *("AKIA", "\"'", "://a:b.c"),
    ],
)
def test_long_hostile_text_takes_linear_time(part: str) -> None:
    def seconds(size: int) -> float:
        text = part * (size // len(part)) + " @"
        start = time.process_time()
        mask_text(text)
        return time.process_time() - start

    # Not a benchmark: twice the text may take about twice as long, and anything quadratic would take minutes here.
    assert seconds(1_000_000) < 30


# ---------------------------------------------------------------------------------------------------------------------
# Containers
# ---------------------------------------------------------------------------------------------------------------------


def test_names_inside_count_with_those_around_them() -> None:
    config = {"db": {"password": "hunter2", "port": 5}, "api": {"key": "hunter2"}, "steps": [{"token": "a"}, {"lr": 1}]}
    assert REDACTION.mask("config", config) == {
        "db": {"password": MASK, "port": 5},
        "api": {"key": MASK},
        "steps": [{"token": MASK}, {"lr": 1}],
    }
    assert config["db"] == {"password": "hunter2", "port": 5}


def test_a_name_that_stands_beside_its_value_counts() -> None:
    env = [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "fast"}]
    assert REDACTION.mask("env", env) == [{"name": "DB_PASSWORD", "value": MASK}, {"name": "MODE", "value": "fast"}]


def test_what_follows_a_flag_is_masked() -> None:
    assert REDACTION.mask("argv", ["--password", "hunter2", "--lr", "1"]) == ["--password", MASK, "--lr", "1"]
    assert REDACTION.mask("argv", ("--token=abc", "--x")) == ("--token=***", "--x")


def test_kinds_of_containers_stay() -> None:
    assert REDACTION.mask("x", ("a", GITHUB)) == ("a", MASK)
    assert REDACTION.mask("x", {"a", GITHUB}) == {"a", MASK}
    assert REDACTION.mask("x", frozenset({GITHUB})) == frozenset({MASK})
    assert REDACTION.mask("x", OrderedDict(a=1)) == {"a": 1}


def test_cycles_end() -> None:
    config: dict[str, object] = {"a": 1}
    config["self"] = config
    assert REDACTION.mask("x", config) == {"a": 1, "self": "…"}
    json.dumps(REDACTION.mask("x", config))


def test_a_value_that_raises_is_not_shown() -> None:
    class Hostile(dict[str, object]):
        def items(self) -> Any:
            raise RuntimeError

    assert REDACTION.mask("x", Hostile(a=1)) == MASK
    assert REDACTION.mask("x", types.SimpleNamespace(a=1)) == types.SimpleNamespace(a=1)

from __future__ import annotations

import json
import math

import pytest

from tracklayer.exceptions import AccessDenied, AlreadyExists, NotFound, Refused, StoreError, StoreUnavailable
from tracklayer.store import Metric, wire
from tracklayer.store.answer import Answer, error_of
from tracklayer.store.endpoint import Endpoint

ENDPOINT = Endpoint.find("http://mlflow:5000", {})


def answer(status: int, body: bytes = b"") -> Answer:
    return Answer(status=status, headers={}, body=body)


def error(status: int, code: str, message: str = "because") -> StoreError | None:
    body = json.dumps({"error_code": code, "message": message}).encode()
    return error_of(answer(status, body), ENDPOINT, "log a batch")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "RESOURCE_DOES_NOT_EXIST", NotFound),
        (400, "RESOURCE_ALREADY_EXISTS", AlreadyExists),
        (400, "INVALID_PARAMETER_VALUE", Refused),
        (500, "INVALID_STATE", Refused),
        (400, "BAD_REQUEST", StoreUnavailable),
        (500, "INTERNAL_ERROR", StoreUnavailable),
        (503, "TEMPORARILY_UNAVAILABLE", StoreUnavailable),
        (429, "REQUEST_LIMIT_EXCEEDED", StoreUnavailable),
        (403, "PERMISSION_DENIED", AccessDenied),
        (401, "UNAUTHENTICATED", AccessDenied),
        (500, "SOMETHING_NEW", StoreUnavailable),
        (400, "SOMETHING_NEW", StoreError),
        (404, "ENDPOINT_NOT_FOUND", StoreError),
    ],
)
def test_mlflows_error_codes(status: int, code: str, kind: type[StoreError]) -> None:
    found = error(status, code)
    assert type(found) is kind
    assert "http://mlflow:5000" in str(found)


def test_a_databases_statement_is_not_passed_on() -> None:
    assert "VALUES" not in str(error(500, "INTERNAL_ERROR", "UNIQUE failed [SQL: INSERT … VALUES ('s3cret')]"))


def test_a_success_is_no_error() -> None:
    assert error_of(answer(200, b"{}"), ENDPOINT, "x") is None


def test_a_long_page_is_cut() -> None:
    page = b"<html><style>p {}</style><script>alert(1)</script><p>Bad gateway</p>" + b"x" * 10_000
    told = str(error_of(answer(502, page), ENDPOINT, "log a batch"))
    assert "Bad gateway" in told
    assert "alert" not in told
    assert len(told) < 700


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("Wed, 21 Oct", None)]
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert Answer(status=429, headers={"retry-after": header}, body=b"").retry_after == seconds


def test_no_bare_nan_gets_into_a_request() -> None:
    points = [Metric(key="m", value=value, timestamp=1) for value in (math.nan, math.inf, -math.inf, 0.5)]
    assert [point["value"] for point in wire.metrics(points)] == ["NaN", "Infinity", "-Infinity", 0.5]
    with pytest.raises(ValueError, match="JSON"):
        wire.encoded({"value": math.nan})


def test_the_last_points_of_a_large_batch_are_sent_first() -> None:
    points = wire.metrics([Metric(key=key, value=0, timestamp=step, step=step) for step in range(60) for key in "ab"])
    sent = list(wire.last_first(points))
    assert [(point["key"], point["step"]) for point in sent[:4]] == [("a", 59), ("b", 59), ("a", 0), ("b", 0)]
    assert sorted(map(str, sent)) == sorted(map(str, points))
    assert wire.last_first(points[:100]) == points[:100]


@pytest.mark.parametrize(
    ("text", "sent"),
    [("plain ünïcödé 🚂", "plain ünïcödé 🚂"), ("a\0b", "a␀b"), ("\udce9", "�"), ("\ud83d\ude82", "🚂"), ("", "")],
)
def test_text_that_every_database_takes(text: str, sent: str) -> None:
    assert wire.text(text) == sent


def test_an_answer_that_leaves_fields_out_or_sends_numbers_as_text() -> None:
    body = b'{"run": {"info": {"run_id": "r", "experiment_id": "1", "start_time": "123", "new": {}}, "data": {}}}'
    run = wire.decoded(body, wire.RunAnswer).run.value()
    assert (run.run_id, run.start_time, run.end_time, run.name, run.artifact_uri) == ("r", 123, None, "", "")


def test_metrics_that_are_no_json_numbers() -> None:
    body = b'{"info": {}, "data": {"metrics": [{"key": "a", "value": "NaN"}, {"key": "b", "value": "-Infinity"}, {"key": "c", "value": 1}]}}'
    metrics = wire.decoded(body, wire.RunWire).value().metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (-math.inf, 1.0)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"<html>", b'{"run": 1}', b'{"run": {"info": {"run_id": 5}}}'])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError):
        wire.decoded(body, wire.RunAnswer)

"""What is taken for Airflow's word, and that no secret is told: against a stub, in place of an Airflow."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.context import State, TaskRun, WorkflowRun
from tracklayer.exceptions import SettingsError
from tracklayer.settings import load
from tracklayer_airflow import truth
from tracklayer_airflow.api import AirflowUnavailable, Api, api
from tracklayer_airflow.settings import AirflowSettings, airflow_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAG_RUN = WorkflowRun(orchestrator="airflow", workflow="flights", run_id="r1")
AWAY = "404 page not found\n"
NO_RUN = {"detail": "The DagRun with dag_id: `flights` and run_id: `r1` was not found"}
NO_DAG = {"detail": "Unable to obtain dag with id flights from session"}
SECRET = "hunter2"


@contextmanager
def answering(answer: Callable[[str], tuple[int, object]]) -> Iterator[tuple[str, list[str | None]]]:
    """A server at whose paths the function answers, and what it was told as ``Authorization``."""
    told: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers["Authorization"])
            status, body = answer(self.path)
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815  # the base class's way to name it

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "body",
    [
        AWAY,
        {"detail": "Not Found"},
        {"error": "API route not found"},
        {"detail": "the tenant was not found"},
        {"detail": ["flights"]},
        ["flights"],
        "[" * 100_000,
    ],
    ids=["an ingress", "a router", "api_url with /api/v2", "a gateway", "a list", "no table", "nested"],
)
def test_not_every_404_is_airflows_word(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DAG run that runs would be taken for deleted, and its parent be ended."""
    with answering(lambda _path: (404, body)) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        said = rf"{url} is not Airflow's API \(404 .*check that api_url"
        with pytest.raises(AirflowUnavailable, match=said):
            truth.of_dag_run(DAG_RUN)
        with pytest.raises(AirflowUnavailable, match=said):
            truth.of_try(DAG_RUN, TaskRun(task="train"))


def test_a_dag_of_which_only_the_ingress_answers_is_not_taken_for_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one question reached Airflow, the next one did not."""
    page = {"airflow.dag_run_url": "https://airflow.example.com/dags/flights/runs/r1"}
    run = WorkflowRun(orchestrator="airflow", workflow="flights", run_id="r1", tags=page)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    with answering(lambda path: (404, NO_RUN if "dagRuns" in path else AWAY)) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        with pytest.raises(AirflowUnavailable, match="is not Airflow's API"):
            truth.of_dag_run(run)


def test_airflows_own_404_is_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda path: (404, NO_RUN) if "dagRuns" in path else (200, {"dag_id": "flights"})) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        assert truth.of_dag_run(DAG_RUN) == State(status="GONE")
        assert truth.of_try(DAG_RUN, TaskRun(task="train")) is None
    with answering(lambda path: (404, NO_RUN if "dagRuns" in path else NO_DAG)) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        assert truth.of_dag_run(DAG_RUN) is None, "another Airflow's"


@pytest.mark.parametrize("run_id", ["a/b", "..", "."])
def test_of_an_id_that_the_api_has_no_path_for_nobody_can_say(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer would be about another path, and a DAG run that runs be taken for deleted."""
    run = WorkflowRun(orchestrator="airflow", workflow="flights", run_id=run_id)
    with answering(lambda _path: (404, NO_RUN)) as (url, told):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        assert truth.of_dag_run(run) is None
        assert truth.of_try(run, TaskRun(task="train")) is None
    assert told == []


@pytest.mark.parametrize("body", [{"status": "ok"}, {"dag_id": "flights", "dag_run_id": "r2"}, "<html>", []])
def test_an_answer_about_something_else_is_none(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page for everything: the DAG run would be said to run."""
    with answering(lambda _path: (200, body)) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        with pytest.raises(AirflowUnavailable, match=r"is not Airflow's API \(200 "):
            truth.of_dag_run(DAG_RUN)


@pytest.mark.parametrize(
    ("told", "expected"), [("yesterday", None), ("2027-01-01T12:30:00", "2027-01-01T12:30:00+00:00"), (7, None)]
)
def test_a_moment_that_cannot_be_read_is_not_known(
    told: object, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"dag_id": "flights", "dag_run_id": "r1", "state": "failed", "end_date": told}
    with answering(lambda _path: (200, found)) as (url, _):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        state = truth.of_dag_run(DAG_RUN)
    assert state is not None
    assert (state.status, state.ended_at and state.ended_at.isoformat()) == ("FAILED", expected)


def test_a_token_with_the_end_of_its_line_is_sent_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_TOKEN", f" {SECRET}\n")
    with answering(lambda _path: (404, NO_RUN)) as (url, told):
        monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_URL", url)
        assert truth.of_try(DAG_RUN, TaskRun(task="train")) is None
    assert told == [f"Bearer {SECRET}"]


@pytest.mark.parametrize("token", [f"Bearer {SECRET}", f"{SECRET}\nX-Evil: 1", f"{SECRET}é"])
def test_a_wrong_token_is_not_shown(token: str) -> None:
    with pytest.raises(SettingsError, match=r"'airflow\.api_token' \(not shown\)") as caught:
        api(AirflowSettings(api_url="http://airflow:8080", api_token=token))
    assert SECRET not in str(caught.value)


def test_a_wrong_token_that_was_given_is_not_shown() -> None:
    """HTTP's own library tells the whole of a header that it cannot send."""
    with answering(lambda _path: (201, {"access_token": f"{SECRET}\n\n"})) as (url, _):
        asked = Api(url, AirflowSettings(api_username="reader", api_password="open sesame"))
        with pytest.raises(AirflowUnavailable, match="gives no token to 'reader'") as caught:
            asked.has_dag("flights")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            f"https://me:{SECRET}@airflow.example.com",
            r"\(https://airflow\.example\.com\) holds credentials: .*api_username",
        ),
        (f"https://me:a/{SECRET}@airflow.example.com", "must be an address"),
        (f"me:{SECRET}@airflow.example.com", "must be an address like https://airflow.example.com, not what it is"),
        (f"https://airflow.example.com/?token={SECRET}", "must end with its path"),
        (
            "airflow.example.com:8080",
            "must be an address like https://airflow.example.com, not airflow.example.com:8080",
        ),
        ("https://airflow.example.com:port", "must be an address"),
        ("https://[airflow", "must be an address"),
        ("https://", "must be an address"),
        ("https://airflow.example.com/a b", "must be an address"),
    ],
)
@pytest.mark.parametrize("variable", ["TRACKLAYER_AIRFLOW_API_URL", "AIRFLOW__API__BASE_URL"])
def test_a_wrong_address_is_named_without_credentials(
    url: str, message: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__API__BASE_URL", raising=False)
    monkeypatch.setenv(variable, url)
    name = "setting 'airflow.api_url'" if variable.startswith("TRACKLAYER") else f"the environment variable {variable}"
    with pytest.raises(SettingsError, match=message) as caught:
        truth.of_dag_run(DAG_RUN)
    assert str(caught.value).startswith(name)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e99", "soon"])
def test_a_wrong_timeout_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKLAYER_AIRFLOW_API_TIMEOUT", value)
    with pytest.raises(SettingsError, match=rf"'airflow\.api_timeout' .* must be a number greater than 0.*{value}"):
        airflow_settings(load())

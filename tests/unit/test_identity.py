from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracklayer.context import RunContext, RunRef, TaskRun, Token, WorkflowRun
from tracklayer.exceptions import TokenError
from tracklayer.identity import (
    TOKEN_LIMIT,
    TOKEN_PREFIX,
    attempt_tag,
    format_token,
    key_tag,
    parse_key,
    parse_token,
    produced_tag,
    run_key,
    task_key,
    workflow_run_key,
)

names = st.text(min_size=1, max_size=30)
ids = st.text("0123456789abcdef", min_size=32, max_size=32)


def context(workflow: str, run: str, task: str, index: str | None = None, try_number: int = 1) -> RunContext:
    return RunContext(
        workflow_run=WorkflowRun(orchestrator="airflow", workflow=workflow, run_id=run),
        task_run=TaskRun(task=task, index=index, try_number=try_number),
    )


@given(names, names, names, names, names, names)
def test_different_places_have_different_keys(a: str, b: str, c: str, d: str, e: str, f: str) -> None:
    same = (a, b, c) == (d, e, f)
    assert (run_key(context(a, b, c)) == run_key(context(d, e, f))) is same


def test_a_slash_or_a_bracket_in_a_name_does_not_make_two_places_alike() -> None:
    assert run_key(context("a/b", "c", "d")) != run_key(context("a", "b/c", "d"))
    assert run_key(context("a", "b", "c[1]")) != run_key(context("a", "b", "c", index="1"))
    assert run_key(context("a", "b", "c#2")) != run_key(context("a", "b", "c", try_number=2))


def test_tries_share_the_task_and_differ_in_the_run() -> None:
    first, second = context("w", "r", "t"), context("w", "r", "t", try_number=2)
    assert first.task_run
    assert second.task_run
    assert run_key(first) != run_key(second)
    assert task_key(first.workflow_run, first.task_run) == task_key(second.workflow_run, second.task_run)
    assert run_key(first.of_workflow_run()) == workflow_run_key(first.workflow_run)


@given(st.text())
def test_index_tags_are_names_that_mlflow_takes_and_hides(text: str) -> None:
    for name in (key_tag(text), attempt_tag(text), produced_tag(text), produced_tag(text, text)):
        assert name.startswith("mlflow.tracklayer.")
        assert len(name) <= 250
        assert name.isascii()


def test_a_version_of_a_dataset_has_a_tag_of_its_own() -> None:
    assert len({produced_tag("s3://b/x"), produced_tag("s3://b/x", "1"), produced_tag("s3://b/x", "2")}) == 3


@given(ids, st.text("0123456789", min_size=1, max_size=18), names.filter(str.isprintable), ids, ids)
def test_a_token_survives_the_journey(run: str, experiment: str, key: str, parent: str, root: str) -> None:
    token = Token(
        run=RunRef(run_id=run, experiment_id=experiment, key=key, stage="training"),
        parent=RunRef(run_id=parent, experiment_id=experiment, key=key),
        root=root,
    )
    text = format_token(token)
    assert parse_token(text) == token
    assert text.isascii()
    assert not set(text) & set(" \"'\\$`")


def test_a_token_of_a_parent_has_none() -> None:
    token = Token(run=RunRef(run_id="a" * 32, experiment_id="0"))
    assert parse_token(format_token(token)) == token


@given(st.text(max_size=200))
def test_whatever_comes_from_outside_is_a_token_or_a_token_error(text: str) -> None:
    for candidate in (text, TOKEN_PREFIX + text):
        with pytest.raises(TokenError):
            parse_token(candidate)


def forged(fields: object) -> str:
    return TOKEN_PREFIX + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "fields",
    [
        ["a", "1", "", "", "", "", ""],
        ["' OR 1=1", "1", "", "", "", "", "", ""],
        ["a" * 65, "1", "", "", "", "", "", ""],
        ["a", "../1", "", "", "", "", "", ""],
        ["a", "1", "key\nwith a line", "", "", "", "", ""],
        ["a", "1", "", "", "parent`", "1", "", ""],
        ["a", "1", "", "", "", "", "", "root;"],
        ["a", "1", "", "", "", "", "", 7],
        {"run": "a"},
        None,
    ],
)
def test_a_forged_token_is_refused(fields: object) -> None:
    with pytest.raises(TokenError):
        parse_token(forged(fields))


@pytest.mark.parametrize("letter", ["d", "\N{CYRILLIC SMALL LETTER DE}"])
def test_the_token_of_a_place_with_the_longest_names_is_read(letter: str) -> None:
    """Airflow's limit for ids of DAGs, runs and tasks."""
    longest = letter * 250
    workflow_run = WorkflowRun(orchestrator="airflow", workflow=longest, run_id=longest)
    key = run_key(RunContext(workflow_run=workflow_run, task_run=TaskRun(task=longest)))
    parent = RunRef(run_id="b" * 32, experiment_id="9" * 18, key=workflow_run_key(workflow_run))
    run = RunRef(run_id="a" * 32, experiment_id="9" * 18, key=key, stage=longest)
    token = Token(run=run, parent=parent, root="b" * 32)
    assert parse_token(format_token(token)) == token


def test_a_deeply_nested_token_is_refused() -> None:
    """Python's own error for it is none that a pipeline with a damaged token would expect."""
    body = base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")
    with pytest.raises(TokenError, match="nested too deeply"):
        parse_token(TOKEN_PREFIX + body)


def test_a_huge_token_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(TokenError, match=f"limit of {TOKEN_LIMIT}"):
        parse_token(TOKEN_PREFIX + "A" * TOKEN_LIMIT)


@given(names, names, names, names, st.none() | names, st.integers(1, 999))
def test_a_key_is_parsed_back_to_its_place(
    instance: str, workflow: str, run: str, task: str, index: str | None, try_number: int
) -> None:
    workflow_run = WorkflowRun(orchestrator="airflow", instance=instance, workflow=workflow, run_id=run)
    task_run = TaskRun(task=task, index=index, try_number=try_number)
    assert parse_key(run_key(RunContext(workflow_run=workflow_run, task_run=task_run))) == (workflow_run, task_run)
    assert parse_key(workflow_run_key(workflow_run)) == (workflow_run, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "airflow",
        "airflow:default/flights",
        "airflow/flights/r1",
        "airflow:default//r1",
        "airflow:default/flights/r1/train",
        "airflow:default/flights/r1/train#",
        "airflow:default/flights/r1/train#01",
        "airflow:default/flights/r1/train[3#1",
        "airflow:default/flights/r1/train#1/more",
        "airflow:default/flights/r%1/train#1",
        "airflow:default/flights/r%ff/train#1",
        "airflow:default/fl ights/r1",
        "airflow:default/fl%69ghts/r1",
        "airflow:default/flights/r%2f1",
        "airflow:default/flights/r1\n",
    ],
)
def test_what_no_run_has_for_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a key|decode"):
        parse_key(text)

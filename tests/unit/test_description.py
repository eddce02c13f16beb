from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracklayer.context import RunContext, RunRef, TaskRun, Upstream, WorkflowRun
from tracklayer.description import LIMIT, MARKER, compose, escape, page_link, with_downstream, with_user_text
from tracklayer.linking import link_tags, read_links
from tracklayer.store import Run

TASK = RunContext(
    workflow_run=WorkflowRun(
        orchestrator="airflow", workflow="flights", run_id="r1", url="http://127.0.0.1:8080/dags/x"
    ),
    task_run=TaskRun(task="train", url="http://127.0.0.1:8080/task"),
)
PREPARED = Upstream(
    run=RunRef(run_id="a" * 32, experiment_id="7", key="airflow:default/prepare/r0/clean#1", name="clean")
)


def consumer(run_id: str, name: str) -> Run:
    return Run(
        run_id=run_id, experiment_id="9", name=name, status="FINISHED", start_time=1, end_time=2, artifact_uri="x"
    )


def test_the_description_leads_to_upstream_and_to_the_orchestrator() -> None:
    text = compose(TASK, parent=RunRef(run_id="p", experiment_id="7", name="r1"), upstream=[PREPARED])
    assert f"[clean](#/experiments/7/runs/{'a' * 32})" in text
    assert "(http://127.0.0.1:8080/task)" in text
    assert "(http://127.0.0.1:8080/dags/x)" in text
    assert "(#/experiments/7/runs/p)" in text


def test_what_the_user_wrote_stays_above_whatever_is_written_anew() -> None:
    text = compose(TASK, parent=None, upstream=[PREPARED], user="My **notes**")
    once = with_downstream(text, [consumer("b", "evaluate")])
    twice = with_downstream(once, [consumer("b", "evaluate"), consumer("c", "report")])
    assert twice.startswith("My **notes**\n")
    assert twice.count("[evaluate](#/experiments/9/runs/b)") == 1
    assert "[report](#/experiments/9/runs/c)" in twice
    assert f"[clean](#/experiments/7/runs/{'a' * 32})" in twice
    assert with_downstream(twice, [consumer("b", "evaluate"), consumer("c", "report")]) == twice


def test_a_description_without_our_part_is_kept_whole() -> None:
    assert with_downstream("only the user's", [consumer("b", "evaluate")]).startswith("only the user's\n")


def test_new_user_text_replaces_only_the_users() -> None:
    text = with_downstream(compose(TASK, parent=None, upstream=[PREPARED], user="old"), [consumer("b", "evaluate")])
    new = with_user_text(text, "new")
    assert new.startswith("new\n")
    assert "old" not in new
    assert new.partition(MARKER)[2] == text.partition(MARKER)[2]


@given(st.text())
def test_names_from_outside_make_no_markup(name: str) -> None:
    line = escape(name)
    assert "\n" not in line
    plain = line
    for character in "\\`*_{}[]()#|<>~&@$:":
        plain = plain.replace("\\" + character, "")
    assert not set(plain) & set("`*_[]<>|")
    assert "://" not in plain


def test_only_web_pages_become_links() -> None:
    assert page_link("x", "javascript:alert(1)") is None
    assert page_link("x", "http://host/a)b") == "[x](http://host/a%29b)"


def test_many_links_do_not_make_a_description_that_stores_refuse() -> None:
    many = [
        Upstream(run=RunRef(run_id=f"{n:032}", experiment_id="1", name="x" * 200, key="k" * 300)) for n in range(80)
    ]
    assert len(compose(TASK, parent=None, upstream=many, user="mine")) <= LIMIT


def test_links_are_read_as_they_were_written() -> None:
    upstream = Upstream(run=RunRef(run_id="a", experiment_id=""), kind="data", dataset="s3://b", digest="7")
    assert read_links(link_tags([upstream])) == [upstream]
    assert read_links({"mlflow.tracklayer.upstream.x": "not json"})[0].run.run_id == "x"
    assert read_links({"mlflow.tracklayer.upstream.x": '{"kind": "made up"}'})[0].kind == "hand-over"

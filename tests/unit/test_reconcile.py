"""Reconciling's own logic: places from tags, links in descriptions, what is said and kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tracklayer.context import RunContext, RunRef, TaskRun, Upstream, WorkflowRun
from tracklayer.description import DOWNSTREAM_MARKER, MARKER, NOTE_TAG, compose, with_downstream
from tracklayer.identity import ROOT_TAG, key_tag, run_key, upstream_tag
from tracklayer.provisional import provisional_id
from tracklayer.reconcile import Findings, LeftAlone, Scope
from tracklayer.reconcile.findings import KINDS, OpenParent, OpenRun, moment
from tracklayer.reconcile.relations import given_out_in
from tracklayer.reconcile.relinking import moved, redirected, with_upstream
from tracklayer.reconcile.truth import is_ours, place_of
from tracklayer.store import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD, NEW = "a" * 32, "b" * 32
REF = RunRef(run_id=NEW, experiment_id="7", name="train", key="airflow:default/flights/r1/train#1")
CONTEXT = RunContext(
    workflow_run=WorkflowRun(orchestrator="airflow", workflow="fl/ights", run_id="r 1", url="https://a.example/r1"),
    task_run=TaskRun(task="train", index="3", try_number=2),
)


def run(tags: Mapping[str, str]) -> Run:
    return Run(
        run_id=OLD,
        experiment_id="1",
        name="train",
        status="RUNNING",
        start_time=1,
        end_time=None,
        artifact_uri="",
        tags=tags,
    )


def test_a_place_is_rebuilt_from_the_tags_and_has_them_all() -> None:
    key = run_key(CONTEXT)
    tags = {"tracklayer.key": key, key_tag(key): "1", "prefect.task_run_id": "x"}
    place = place_of(run(tags))
    assert place is not None
    assert (place.workflow_run.workflow, place.workflow_run.run_id) == ("fl/ights", "r 1")
    assert place.task_run is not None
    assert (place.task_run.task, place.task_run.index, place.task_run.try_number) == ("train", "3", 2)
    assert dict(place.task_run.tags) == tags
    of_parent = place_of(run({"tracklayer.key": run_key(CONTEXT.of_workflow_run())}))
    assert of_parent is not None
    assert of_parent.task_run is None
    assert of_parent.key == place.key


@pytest.mark.parametrize(
    "tags",
    [{}, {"tracklayer.key": "nonsense"}, {"tracklayer.key": run_key(CONTEXT)}, {key_tag(run_key(CONTEXT)): "1"}],
)
def test_whose_run_it_is_is_said_by_key_and_index_tag_together(tags: Mapping[str, str]) -> None:
    assert not is_ours(run(tags))
    key = run_key(CONTEXT)
    assert is_ours(run({"tracklayer.key": key, key_tag(key): "1"}))


def test_links_in_a_description_lead_elsewhere_and_the_users_words_stay() -> None:
    words = f"see (#/experiments/1/runs/{OLD}) myself"
    old = RunRef(run_id=OLD, experiment_id="pending", name="prepare")
    note = compose(CONTEXT, parent=old, upstream=[Upstream(run=old)], user=words)
    after = redirected(note, OLD, REF)
    assert after.startswith(words), "to the letter"
    own = after.partition(MARKER)[2]
    assert OLD not in own
    assert own.count(f"(#/experiments/7/runs/{NEW})") == 2
    assert "https://a.example/r1" in own
    assert redirected(words, OLD, REF) == words, "a description without tracklayer's part is the user's"
    assert redirected(after, OLD, REF) == after


def test_one_more_link_goes_to_the_others() -> None:
    first, second = RunRef(run_id=OLD, experiment_id="1", name="one"), REF
    note = compose(CONTEXT, parent=None, upstream=[Upstream(run=first)], user="my words")
    note = with_downstream(note, [run({})])
    item = Upstream(run=second, kind="data", dataset="s3://b/x", digest="1")
    after = with_upstream(note, item)
    expected = compose(CONTEXT, parent=None, upstream=[Upstream(run=first), item], user="my words")
    assert after.partition(DOWNSTREAM_MARKER)[0].strip() == expected.strip()
    assert after.partition(DOWNSTREAM_MARKER)[2].strip() == note.partition(DOWNSTREAM_MARKER)[2].strip()
    assert with_upstream(after, item) == after, "once"


@pytest.mark.parametrize(
    "note", ["", "my words", f"{MARKER}\n\n**airflow** x", f"my words\n\n{MARKER}\n\n**airflow** x"]
)
def test_the_first_link_gets_a_heading(note: str) -> None:
    after = with_upstream(note, Upstream(run=REF, kind="data"))
    assert after.startswith(note.partition(MARKER)[0].strip())
    assert after.count(MARKER) == after.count("**Upstream**") == 1
    assert f"/runs/{NEW})" in after.partition("**Upstream**")[2]


def test_what_leads_to_a_run_is_found_in_its_tags() -> None:
    tags = {
        "mlflow.parentRunId": OLD,
        ROOT_TAG: OLD,
        "tracklayer.superseded_by": "c" * 32,
        upstream_tag(OLD): '{"kind":"token"}',
        NOTE_TAG: f"{MARKER}\n\n[x](#/experiments/1/runs/{OLD})",
        "mine": OLD,
    }
    to_set, to_delete = moved(tags, OLD, REF)
    assert to_set == {
        "mlflow.parentRunId": NEW,
        ROOT_TAG: NEW,
        upstream_tag(NEW): '{"kind":"token"}',
        NOTE_TAG: f"{MARKER}\n\n[x](#/experiments/7/runs/{NEW})",
    }
    assert to_delete == [upstream_tag(OLD)]
    assert moved({**tags, **to_set}, "d" * 32, REF) == ({}, [])


def test_ids_that_were_given_out_are_seen() -> None:
    given, other = provisional_id("x"), provisional_id("y")
    real = "4d0b2f6c1a834e5f9f0c6a1e2b3d4c5f"
    tags = {
        "mlflow.parentRunId": given,
        ROOT_TAG: real,
        upstream_tag(other): "{}",
        upstream_tag(real): "{}",
        "x": given,
    }
    assert given_out_in(tags) == [("mlflow.parentRunId", given), (upstream_tag(other), other)]


def test_the_scope_goes_by_tracklayers_tags() -> None:
    tags = {"tracklayer.orchestrator": "airflow", "tracklayer.workflow": "flights"}
    assert Scope().covers(tags)
    assert Scope().covers({})
    assert Scope(orchestrators=frozenset({"airflow", "prefect"}), workflows=frozenset({"flights"})).covers(tags)
    assert not Scope(orchestrators=frozenset({"prefect"})).covers(tags)
    assert not Scope(workflows=frozenset({"flights"})).covers({})
    assert Scope(since=timedelta(days=1)) == Scope(since=timedelta(days=1))


def test_findings_are_sorted_by_exactly_their_kind() -> None:
    stage = OpenRun(run=REF, status="FAILED", ended_at=1_000, because="x")
    parent = OpenParent(run=REF, status="FAILED", ended_at=None, because="x")
    findings = Findings(found=(parent, stage), left_alone=(LeftAlone(run=REF, because="y"),), unknown=1)
    assert findings.of(OpenRun) == [stage]
    assert findings.of(OpenParent) == [parent]
    assert stage.change == "RUNNING → FAILED, ended 1970-01-01T00:00:01Z"
    assert parent.change == "RUNNING → FAILED, ended by now"
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    assert moment(1_795_000_000_123) == "2026-11-18T11:06:40Z"


@pytest.mark.parametrize("milliseconds", [10**18, -(10**18)])
def test_a_moment_that_no_calendar_has_is_said_all_the_same(milliseconds: int) -> None:
    """A foreign client may have written it; one run is not to end the whole examination."""
    assert moment(milliseconds) == f"{milliseconds} ms"

"""Names from templates: what is rendered, what vanishes, what is refused, and that MLflow takes the result."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracklayer.context import RunContext, TaskRun, WorkflowRun
from tracklayer.exceptions import SettingsError
from tracklayer.naming import (
    FIELDS,
    check_template,
    experiment_name,
    run_name,
    valid_experiment_name,
    valid_run_name,
)
from tracklayer.settings import Settings

UNHURRIED = settings(deadline=None)  # machines that run tests may be busy
WORKFLOW_RUN = WorkflowRun(
    orchestrator="airflow",
    instance="eu",
    workflow="flights",
    run_id="manual__1",
    version="v3",
    started_at=datetime(2026, 11, 21, 23, 30, tzinfo=timezone(timedelta(hours=-2))),
    logical_date=datetime(2026, 11, 20, tzinfo=UTC),
    params={"model": {"lr": 0.5, "depth": 3}, "source": "s3://bucket"},
)
CONTEXT = RunContext(
    workflow_run=WORKFLOW_RUN,
    task_run=TaskRun(
        task="model.train", index="7", try_number=2, params={"model": {"lr": 0.25}, "password": "hunter2"}
    ),
    stage="training",
)
PARENT = CONTEXT.of_workflow_run()
BARE = RunContext(workflow_run=WorkflowRun(orchestrator="script", workflow="flights", run_id="r1"))


def experiment(template: str, context: RunContext = CONTEXT, **settings: object) -> str:
    return experiment_name(context, Settings(experiment=template, **settings))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# Fields
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("team", "risk"),
        ("project", "scoring"),
        ("stage", "training"),
        ("orchestrator", "airflow"),
        ("instance", "eu"),
        ("workflow", "flights"),
        ("workflow_run", "manual__1"),
        ("task", "model.train"),
        ("task_run", "model.train[7] #2"),
        ("index", "7"),
        ("try", "2"),
        ("version", "v3"),
        ("date", "2026-11-20"),
        ("logical_date", "2026-11-20T00:00:00"),
        ("started_at", "2026-11-22T01:30:00"),
        ("params.model.lr", "0.25"),
        ("params.model.depth", "3"),
        ("params.source", "s3://bucket"),
    ],
)
def test_every_field(field: str, shown: str) -> None:
    assert experiment(f"{{{field}}}", team="risk", project="scoring") == shown


def test_every_field_that_may_be_named_is_tested_above() -> None:
    tested = {mark.args[1][index][0] for mark in test_every_field.pytestmark for index in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    assert {field for field in FIELDS if field != "params.<key>"} <= tested


def test_the_defaults() -> None:
    assert experiment_name(CONTEXT, Settings()) == "flights"
    assert run_name(CONTEXT, Settings()) == "model.train[7] #2"
    assert run_name(PARENT, Settings()) == "manual__1"


def test_parent_and_stage_run_of_one_workflow_run_share_the_default_experiment() -> None:
    assert experiment_name(CONTEXT, Settings()) == experiment_name(PARENT, Settings())


def test_a_workflow_run_is_shown_by_its_name_where_it_has_one() -> None:
    named = replace(PARENT, workflow_run=replace(WORKFLOW_RUN, name="crimson-otter"))
    assert run_name(named, Settings()) == "crimson-otter"


def test_text_around_fields_and_doubled_braces_stay() -> None:
    assert experiment("/Shared/{workflow} {{v1}}") == "/Shared/flights {v1}"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{workflow}-{logical_date:%Y-%m-%d}", "flights-2026-11-20"),
        ("{started_at:%H:%M}", "01:30"),
        ("{date:%G-W%V}", "2026-W47"),
        ("{date:%-d. %B, 100%%}", "20. November, 100%"),
        ("{params.model.lr:.0e}", "2e-01"),
        ("{params.model.depth:03d}", "003"),
        ("{workflow:.4}", "flig"),
        ("{try:>3}", "2"),
        ("x{try:>3}", "x  2"),
        ("{index:03d}", "7"),
    ],
)
def test_formats(template: str, shown: str) -> None:
    assert experiment(template) == shown


def test_the_settings_version_wins_over_the_workflows() -> None:
    assert experiment("{workflow}-{version}", version="2.0") == "flights-2.0"


@pytest.mark.parametrize(
    ("index", "try_number", "shown"),
    [
        (None, 1, "train"),
        ("0", 1, "train[0]"),
        ("outer-1-2", 1, "train[outer-1-2]"),
        ("0f4c2d9e-9d5b-4b6e-8a52-0b5b7c7c1a11", 1, "train[0f4c2d9e]"),
        (None, 3, "train #3"),
        ("5", 2, "train[5] #2"),
    ],
)
def test_how_a_task_run_is_shown(index: str | None, try_number: int, shown: str) -> None:
    task_run = TaskRun(task="train", index=index, try_number=try_number)
    assert run_name(RunContext(workflow_run=WORKFLOW_RUN, task_run=task_run), Settings()) == shown


# ---------------------------------------------------------------------------------------------------------------------
# Params
# ---------------------------------------------------------------------------------------------------------------------


def test_params_of_the_run_win_over_those_of_the_task_and_of_the_workflow_run() -> None:
    settings = Settings(run_name="{params.model.lr} {params.model.depth} {params.own}")
    assert run_name(CONTEXT, settings, {"model": {"lr": 0.125}, "own": [1, 2]}) == "0.125 3 [1, 2]"
    assert run_name(CONTEXT, settings, {"model.lr": 0.125}) == "0.125 3"


def test_secrets_stay_out_of_names() -> None:
    settings = Settings(run_name="{params.password}-{params.url}-{params.ssn}", redact=("ssn",))
    shown = run_name(CONTEXT, settings, {"url": "http://me:hunter2@host", "ssn": "078-05-1120"})
    assert shown == "***-http://me:***@host-***"


def test_a_long_param_is_cut() -> None:
    assert run_name(CONTEXT, Settings(run_name="{params.x}"), {"x": "a" * 10_000}) == "a" * 60


def test_params_are_only_read_if_a_template_names_one() -> None:
    class Explosive(dict[str, object]):
        def __iter__(self) -> object:  # type: ignore[override]
            raise AssertionError("read")

    assert run_name(CONTEXT, Settings(), Explosive(a=1)) == "model.train[7] #2"


# ---------------------------------------------------------------------------------------------------------------------
# Fields without a value
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{team}/{workflow}", "flights"),
        ("{team}/{project}/{workflow}", "flights"),
        ("{workflow}/{team}", "flights"),
        ("{workflow}/{team}/{stage}", "flights/training"),
        ("/Shared/{team}/{workflow}", "/Shared/flights"),
        ("/{team}/{workflow}", "/flights"),
        ("prefix/{team}/{workflow}", "prefix/flights"),
        ("{workflow} ({team})", "flights"),
        ("{workflow}[{team}]-{stage}", "flights-training"),
        ("({team}) {workflow}", "flights"),
        ("{stage}-lr={params.none}", "training"),
        ("{stage}-lr={params.none}-depth={params.model.depth}", "training-depth=3"),
        ("lr={params.none}-{stage}", "training"),
        ("{stage} lr: {params.none}", "training"),
        ("{stage}: {params.none}", "training"),
        ("{workflow}-v{params.none}", "flights"),
        ("{workflow}{team}", "flights"),
        ("{team}", "flights"),
        ("{team}-{project}", "flights"),
        ("all of {team}", "all of"),
        ("{team}{{x}}", "{x}"),
    ],
)
def test_a_field_without_a_value_vanishes_with_what_joins_it(template: str, shown: str) -> None:
    assert experiment(template) == shown


def test_a_blank_value_is_none() -> None:
    assert experiment("{team}/{workflow}", team=" ") == "flights"


def test_where_nothing_is_left_the_run_is_called_by_its_place() -> None:
    assert run_name(CONTEXT, Settings(run_name="{team}")) == "model.train[7] #2"
    assert run_name(PARENT, Settings(parent_name="{team}{task}{stage}")) == "manual__1"


def test_dates_fall_back_to_the_start_and_then_to_now() -> None:
    started = replace(WORKFLOW_RUN, logical_date=None)
    assert experiment("{date} {logical_date:%d}", replace(CONTEXT, workflow_run=started)) == "2026-11-22 22"
    task_run = TaskRun(task="train", started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert experiment("{started_at}", replace(BARE, task_run=task_run)) == "2026-01-02T03:04:05"
    before = datetime.now(UTC).date()
    shown = experiment("{date}", BARE)
    assert before.isoformat() <= shown <= datetime.now(UTC).date().isoformat()


def test_a_naive_date_is_taken_for_utc() -> None:
    naive = replace(WORKFLOW_RUN, logical_date=datetime(2026, 11, 20))  # noqa: DTZ001 - this is what is tested
    assert experiment("{logical_date}", replace(CONTEXT, workflow_run=naive)) == "2026-11-20T00:00:00"


def test_a_date_at_the_end_of_time_is_no_error() -> None:
    last = replace(WORKFLOW_RUN, logical_date=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))
    assert experiment("{logical_date}", replace(CONTEXT, workflow_run=last)).startswith("9999-12-31")


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{workflow.__class__}",
        "{workflow.__class__.__mro__}",
        "{workflow[0]}",
        "{params}",
        "{params.}",
        "{params[a]}",
        "{settings}",
        "{context.workflow_run.params}",
        "{}",
        "{0}",
        "{ workflow }",
        "{Workflow}",
        "{workflow!r}",
        "{workflow!s}",
        "{workflow:{stage}}",
        "{workflow:>1000}",
        "{workflow:.99999999999}",
        "{workflow:%Y}",
        "{date:03d}",
        "{started_at:%Q}",
        "{logical_date:%Y-%}",
        "{date:day}",
        "{workflow",
        "workflow}",
        "{workflow!}",
    ],
)
def test_a_wrong_template_is_told(template: str) -> None:
    with pytest.raises(SettingsError, match=r"^setting 'experiment' in x\.toml: .*" + re.escape(repr(template)[1:-1])):
        check_template(template, setting="'experiment' in x.toml")
    with pytest.raises(SettingsError):
        experiment(template)


def test_the_message_says_what_is_allowed_and_what_comes_near() -> None:
    with pytest.raises(SettingsError) as raised:
        check_template("{workfow}", setting="experiment")
    assert "did you mean {workflow}?" in str(raised.value)
    assert all(f"{{{field}}}" in str(raised.value) for field in FIELDS)
    with pytest.raises(SettingsError, match=r"fields have no attributes and no index: write {workflow}"):
        check_template("{workflow.name}", setting="experiment")


def test_a_param_whose_name_looks_like_an_attribute_is_only_looked_up() -> None:
    assert experiment("{stage} {params.__class__}") == "training"
    assert run_name(CONTEXT, Settings(run_name="{params.a[0].__class__}"), {"a[0].__class__": 5}) == "5"


# ---------------------------------------------------------------------------------------------------------------------
# Valid for MLflow
# ---------------------------------------------------------------------------------------------------------------------


def test_a_workflow_called_default_does_not_land_in_mlflows_default_experiment() -> None:
    context = replace(CONTEXT, workflow_run=replace(WORKFLOW_RUN, workflow="Default"))
    assert re.fullmatch(r"Default-[0-9a-f]{12}", experiment_name(context, Settings()))
    assert experiment_name(context, Settings()) == experiment_name(context.of_workflow_run(), Settings())
    assert experiment("Default") == "Default"


@pytest.mark.parametrize("name", ["flights", "a/b c", "ünï", "飛行", "می‌خواهم", "x" * 250, "0", ".", "a..b", "👩‍🚀"])
def test_a_valid_name_stays_as_it_is(name: str) -> None:
    assert valid_experiment_name(name) == name
    assert valid_run_name(name) == name


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("", "unnamed"),
        ("  ", "unnamed"),
        (" a ", "a"),
        ("a\nb", "a_b"),
        ("a\x00b", "a_b"),
        ("a\ud800b", "a_b"),
        ("invoice\u202egnp.exe", "invoice_gnp.exe"),
        ("x" * 257, "x" * 243),
    ],
)
def test_a_name_that_mlflow_cannot_take_becomes_one_that_it_can(name: str, readable: str) -> None:
    assert re.fullmatch(re.escape(readable) + r"-[0-9a-f]{12}", valid_experiment_name(name))


ANY_TEXT = st.text(st.characters(exclude_categories=()))
# Names that tend to be cut or mapped to the same one: a long common beginning, blanks and controls.
NEAR = st.builds(lambda count, end: "n" * count + end, st.sampled_from([0, 240, 249, 255, 300]), ANY_TEXT)


@UNHURRIED
@given(NEAR)
def test_what_comes_out_is_valid_and_stable(name: str) -> None:
    for make, limit in ((valid_experiment_name, 256), (valid_run_name, 250)):
        made = make(name)
        assert 0 < len(made) <= limit
        assert made == made.strip()
        assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in made)
        made.encode("utf-8")
        assert make(made) == made
        assert make(name) == made


@UNHURRIED
@given(NEAR, NEAR)
def test_two_names_never_become_one(one: str, other: str) -> None:
    if one != other:
        assert valid_experiment_name(one) != valid_experiment_name(other)
        assert valid_run_name(one) != valid_run_name(other)


TEMPLATES = st.lists(
    st.one_of(
        st.sampled_from([f"{{{field}}}" for field in FIELDS if "<" not in field]),
        st.sampled_from(
            ["{params.a.b}", "{params.a}", "{date:%Y}", "-", "/", " (", ")", "lr=", "[", "]", "v", "{{", "}}"]
        ),
    ),
    max_size=8,
).map("".join)


@UNHURRIED
@given(
    template=TEMPLATES,
    workflow=ANY_TEXT,
    run_id=ANY_TEXT,
    task=st.none() | ANY_TEXT,
    index=st.none() | ANY_TEXT,
    team=st.none() | ANY_TEXT,
    stage=st.none() | ANY_TEXT,
    param=st.none() | ANY_TEXT | st.floats() | st.integers() | st.binary(),
)
def test_whatever_a_workflow_is_called_it_gets_names(
    template: str,
    workflow: str,
    run_id: str,
    task: str | None,
    index: str | None,
    team: str | None,
    stage: str | None,
    param: object,
) -> None:
    workflow_run = WorkflowRun(orchestrator="x", workflow=workflow, run_id=run_id, params={"a": {"b": param}})
    task_run = None if task is None else TaskRun(task=task, index=index)
    context = RunContext(workflow_run=workflow_run, task_run=task_run, stage=stage)
    settings = Settings(experiment=template, run_name=template, parent_name=template, team=team)
    for name in (experiment_name(context, settings), run_name(context, settings)):
        assert 0 < len(name) <= 256
        assert name == name.strip()
        name.encode("utf-8")

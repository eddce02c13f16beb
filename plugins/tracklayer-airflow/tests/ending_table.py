"""What is to become of every task and DAG run of ``dags_scheduled``: one table, on whatever executor and database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from airflow_story import AIRFLOW, PARENT, Story, name
from observed_story import ObservedStory

from tracklayer.identity import ROOT_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.airflow import AirflowService
    from tracklayer.store import Run

SUPERSEDED: Final = "tracklayer.superseded_by"

OBSERVED: Final = "observed_"
"""How the names of those DAGs begin whose tasks are plain MLflow, and observed."""

EXPERIMENT: Final = "endings, chosen by the code"
"""Where the code of their tasks starts its runs."""


class Ending(NamedTuple):
    """How a run ended: its status, what is noted about that, and the type of the error."""

    status: str
    note: str | None = None
    error: str | None = None


DONE: Final = Ending("FINISHED")
GONE: Final = Ending("KILLED", "its process is gone")
TERMINATED: Final = Ending("KILLED", "terminated", "AirflowTaskTerminated")


def failed(error: str, note: str | None = None) -> Ending:
    """FAILED by an exception."""
    return Ending("FAILED", note, error)


@dataclass(frozen=True)
class Row:
    """One task, or one DAG run, and what there has to be of it afterwards.

    Attributes:
        case: which of the ways to end it shows; empty if it only stands beside one.
        dag: the DAG.
        task: the task with its map index; empty for the DAG run itself.
        state: Airflow's state of it in the end; None if Airflow has forgotten it.
        tries: how the run of each try ended; where that depends on who saw it first, every right answer. None: no run.
        links: what the last try is linked to.
        told: what is in the message of the last try's error.
        run: which of the DAG's runs, where it has several.
    """

    case: str
    dag: str
    task: str
    state: str | None
    tries: tuple[Ending | frozenset[Ending], ...] = ()
    links: tuple[str, ...] = ()
    told: str = ""
    run: str = ""

    def __str__(self) -> str:
        return f"{self.case}: {self.run or self.dag}.{self.task}".rstrip(".")


_LOST: Final = frozenset({GONE, TERMINATED})
"""The code did not finish, whatever was said about it; the supervisor kills it when it hears, and is heard first or not."""

_ORPHANED: Final = frozenset({failed("BrokenPipeError"), failed("BrokenPipeError", "left open")})

_ENDS: Final = (
    Row("success", "ends", "success", "success", (DONE,)),
    Row("exception", "ends", "exception", "failed", (failed("ValueError"),), told="no data"),
    Row("AirflowFail", "ends", "airflow_fail", "failed", (failed("AirflowFailException"),)),  # retries left, and none
    Row("AirflowSkip", "ends", "airflow_skip", "skipped", (Ending("FINISHED", "skipped"),)),
    Row("sys.exit", "ends", "sys_exit", "failed", (failed("SystemExit"),)),
    Row("os._exit", "ends", "os_exit", "failed", (GONE,)),
    Row("execution_timeout", "ends", "execution_timeout", "failed", (failed("AirflowTaskTimeout", "timed out"),)),
    Row("SIGTERM", "ends", "sigterm", "success", (DONE,)),  # Airflow calls on_kill for it, and the task goes on
    Row("SIGKILL with retries left", "ends", "sigkill_with_retries", "success", (GONE, DONE)),
    Row("SIGKILL without retries left", "ends", "sigkill", "failed", (GONE,)),
    Row("retried then succeeded", "ends", "retried", "success", (failed("ConnectionError"), DONE)),
    Row("mapped over 5 with one failing", "ends", "mapped[0]", "success", (DONE,)),
    Row("mapped over 5 with one failing", "ends", "mapped[1]", "success", (DONE,)),
    Row("mapped over 5 with one failing", "ends", "mapped[2]", "failed", (failed("ValueError"),), told="three"),
    Row("mapped over 5 with one failing", "ends", "mapped[3]", "success", (DONE,)),
    Row("mapped over 5 with one failing", "ends", "mapped[4]", "success", (DONE,)),
    Row("", "ends", "nothing", "success", (DONE,)),
    Row("dynamic mapping over zero items", "ends", "over_nothing", "skipped"),
    Row("deferrable resumed twice", "ends", "deferring", "success", (DONE,)),
    Row("reschedule sensor poked three times", "ends", "rescheduled", "success", (DONE,)),
    Row("", "ends", "taken", "success", (DONE,)),
    Row("branch not taken", "ends", "not_taken", "skipped"),
    Row("short-circuited", "ends", "short_circuited", "skipped"),
    Row("upstream_failed", "ends", "after_failure", "upstream_failed"),
    Row("setup and teardown", "ends", "set_up", "success", (DONE,)),
    Row("setup and teardown", "ends", "between", "failed", (failed("ValueError"),), ("set_up",)),
    Row("setup and teardown", "ends", "tear_down", "success", (DONE,), ("between",)),
    Row("TaskGroup", "ends", "group.grouped", "success", (DONE,), ("success",)),
    Row("TaskGroup", "ends", "group.next_of_group", "success", (DONE,), ("group.grouped",)),
    Row("", "ends", "holding", "success", (DONE,)),
    Row("manual run with no logical date", "ends", "", "failed", (Ending("FAILED"),)),
)

_OF_OBSERVED: Final = (
    Row("success", "observed_ends", "success", "success", (DONE,)),
    Row("exception", "observed_ends", "exception", "failed", (failed("ValueError"),), told="no data"),
    Row("AirflowFail", "observed_ends", "airflow_fail", "failed", (failed("AirflowFailException"),)),
    Row("AirflowSkip", "observed_ends", "airflow_skip", "skipped", (Ending("FINISHED", "skipped"),)),
    Row("sys.exit", "observed_ends", "sys_exit", "failed", (failed("SystemExit"),)),
    Row("os._exit", "observed_ends", "os_exit", "failed", (GONE,)),
    Row("os._exit", "observed_ends", "os_exit_afterwards", "failed", (GONE,)),
    Row(
        "execution_timeout",
        "observed_ends",
        "execution_timeout",
        "failed",
        (failed("AirflowTaskTimeout", "timed out"),),
    ),
    Row("SIGTERM", "observed_ends", "sigterm", "success", (DONE,)),
    Row("SIGTERM to the supervisor", "observed_ends", "sigterm_to_supervisor", "success", (DONE,)),
    Row("SIGKILL with retries left", "observed_ends", "sigkill_with_retries", "success", (GONE, DONE)),
    Row("SIGKILL without retries left", "observed_ends", "sigkill", "failed", (GONE,)),
    Row("retried then succeeded", "observed_ends", "retried", "success", (failed("ConnectionError"), DONE)),
    Row("", "observed_ends", "holding", "success"),  # it does not call MLflow
    Row("reschedule sensor poked three times", "observed_ends", "rescheduled", "success", (DONE,)),
    Row("setup and teardown", "observed_ends", "set_up", "success", (DONE,)),
    Row("setup and teardown", "observed_ends", "between", "failed", (failed("ValueError"),), ("set_up",)),
    Row("setup and teardown", "observed_ends", "tear_down", "success", (DONE,), ("between",)),
    Row("", "observed_ends", "", "failed", (Ending("FAILED"),)),
    Row("supervisor killed", "observed_held", "supervisor_killed", "failed", (GONE,)),
    # No listener hears of the end of a process without a supervisor: what the scheduler said of it stands.
    Row("supervisor killed", "observed_held", "orphaned", "failed", (GONE,)),
    Row("heartbeat time-out", "observed_held", "heartbeat_lost", "failed", (GONE,)),
    Row("marked failed while running", "observed_held", "marked_failed", "failed", (GONE,)),
    Row("marked success while running", "observed_held", "marked_success", "success", (GONE,)),
    Row("", "observed_held", "", "failed", (Ending("FAILED"),)),
    Row("cleared after success", "observed_cleared", "again", "success", (DONE, DONE)),
    Row("", "observed_cleared", "", "success", (DONE,)),
    Row("dagrun_timeout", "observed_timed", "endless", "skipped", (GONE,)),
    Row(
        "dagrun_timeout",
        "observed_timed",
        "",
        "failed",
        (Ending("FAILED"),),
        told="timed_out" if AIRFLOW >= (3, 2) else "",
    ),
    # The word of its end comes when what the user has asked to be called has been, and the DAG run has ended long before.
    Row("", "observed_slow", "told_slowly", "success", (DONE,)),
    Row("", "observed_slow", "told_too_slowly", "success", (DONE,)),
    Row("", "observed_slow", "failure_told_too_slowly", "failed", (failed("ValueError"),)),
    Row("", "observed_slow", "", "failed", (Ending("FAILED"),)),
    Row("DAG run deleted", "observed_deleted", "forgotten", None, (GONE,)),
    Row("DAG run deleted", "observed_deleted", "", None, (Ending("KILLED", "gone"),)),  # by `tracklayer reconcile`
)

ROWS: Final = (
    *_ENDS,
    *_OF_OBSERVED,
    Row("SIGTERM to the supervisor", "evicted", "sigterm_to_supervisor", "success", (DONE,)),
    Row("", "evicted", "", "success", (DONE,)),
    Row("a person is asked", "asked", "answered", "success", (DONE,)),
    Row("", "asked", "", "success", (DONE,)),
    # Given up by the scheduler, or found by whoever looks on the machine.
    Row("supervisor killed", "held", "supervisor_killed", "failed", (GONE,)),
    # Its own process goes on, until it has something to tell the supervisor that is not there. What it then says of its
    # end is what stands; the note of whoever gave it up may stay.
    Row("supervisor killed", "held", "orphaned", "failed", (_ORPHANED,), told="Broken pipe"),
    Row("heartbeat time-out", "held", "heartbeat_lost", "failed", (_LOST,)),
    Row("marked failed while running", "held", "marked_failed", "failed", (_LOST,)),
    Row("marked success while running", "held", "marked_success", "success", (_LOST,)),
    Row("", "held", "", "failed", (Ending("FAILED"),)),
    Row("cleared after success", "cleared", "again", "success", (DONE, DONE)),
    Row("", "cleared", "", "success", (DONE,)),
    Row("dagrun_timeout", "timed", "endless", "skipped", (_LOST,)),
    # Airflow 3.1 tells its listeners no reason.
    Row("dagrun_timeout", "timed", "", "failed", (Ending("FAILED"),), told="timed_out" if AIRFLOW >= (3, 2) else ""),
    Row("DAG run deleted", "deleted", "forgotten", None, (_LOST,)),
    Row("DAG run deleted", "deleted", "", None, (Ending("KILLED", "gone"),)),  # by `tracklayer reconcile`
    *(
        row
        for date in ("2025-01-01", "2025-01-02", "2025-01-03")
        for row in (
            Row("backfill of three dates", "daily", "day", "success", (DONE,), run=date),
            Row("backfill of three dates", "daily", "", "success", (DONE,), run=date),
        )
    ),
    *(
        row
        for dag in ("one_of_two", "two_of_two")
        for row in (
            Row("two DAGs on one schedule", dag, "same", "success", (DONE,)),
            Row("two DAGs on one schedule", dag, "", "success", (DONE,)),
        )
    ),
    Row("two DAG versions", "versioned", "first", "success", (DONE,)),
    Row("two DAG versions", "versioned", "", "success", (DONE,)),
    Row("two DAG versions", "versioned", "second", "success", (DONE,), run="versioned again"),
    Row("two DAG versions", "versioned", "", "success", (DONE,), run="versioned again"),
)


RUN_TYPES: Final = {"backfill of three dates": "backfill", "two DAGs on one schedule": "scheduled"}
"""How DAG runs come about, by the case of their rows; all others are started by hand."""


@dataclass(frozen=True)
class Ended:
    """A DAG run that has ended: what MLflow and what Airflow has of it, asked for once.

    Attributes:
        story: its runs.
        states: Airflow's state of each task, and, under the empty name, of the DAG run; empty if it is deleted.
        versions: ids of the DAG versions that Airflow ran them with, by the same names.
        dag_run: the DAG run as Airflow's API tells it; empty if it is deleted.
    """

    story: Story
    states: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    dag_run: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, airflow: AirflowService, story: Story) -> Self:
        """What there is now."""
        path = f"/api/v2/dags/{story.dag_id}/dagRuns"
        every = {run["dag_run_id"]: run for run in airflow.call(f"{path}?limit=100")["dag_runs"]}
        dag_run = every.get(story.told["run_id"])
        if dag_run is None:
            return cls(story, {})
        instances = airflow.call(f"{path}/{story.told['run_id']}/taskInstances?limit=100")["task_instances"]
        named = {
            item["task_id"] + (f"[{item['map_index']}]" if item["map_index"] >= 0 else ""): item for item in instances
        }
        states = {task: item["state"] for task, item in named.items()}
        versions = {task: item["dag_version"]["id"] for task, item in named.items() if item["dag_version"]}
        return cls(story, {**states, "": dag_run["state"]}, versions, dag_run)


def how(run: Run) -> Ending:
    """How a run ended; `GONE` whoever noticed that: the next process on the machine, or the end of the DAG run."""
    note, error = run.tags.get("tracklayer.outcome"), run.tags.get("tracklayer.error.type")
    return (
        GONE if (run.status, note) in {("KILLED", "died"), ("KILLED", "left open")} else Ending(run.status, note, error)
    )


def check(ended: Ended, row: Row) -> None:
    """Compare a row with what there is.

    Raises:
        AssertionError: it differs.
    """
    story = ended.story
    assert ended.states.get(row.task) == row.state
    runs = story.tries(row.task) if row.task else [story.parent]
    told = [how(run) for run in runs]
    allowed = [{one} if isinstance(one, Ending) else set(one) for one in row.tries]
    assert len(told) == len(allowed), told
    assert all(one in right for one, right in zip(told, allowed, strict=True)), f"{told}, not {allowed}"
    if not runs:
        return
    assert row.told in runs[-1].tags.get("tracklayer.error.message", "")
    assert all((run.end_time or 0) >= (run.start_time or 1) for run in runs)
    assert {run.tags["airflow.dag_id"] for run in runs} == {row.dag}
    _check_dag_run(ended, row, runs)
    if row.task:
        _check_tries(story, row, runs)
    else:
        _check_parent(ended, row, runs[0])


def _check_dag_run(ended: Ended, row: Row, runs: list[Run]) -> None:
    """What tells DAG runs of one DAG apart, on parent and tries: how it came about, its date, and the DAG's version."""
    run_type = RUN_TYPES.get(row.case, "manual")
    assert {run.tags["airflow.run_type"] for run in runs} == {run_type}
    dates = {run.tags.get("airflow.logical_date") for run in runs}
    if run_type == "manual":
        assert dates == {None}
    elif run_type == "backfill":
        assert dates == {f"{row.run}T00:00:00+00:00"}
    else:
        assert [Story.moment(str(date)) for date in dates] == [Story.moment(ended.dag_run["logical_date"])]
    versions = {run.tags["airflow.dag_version"] for run in runs}
    if ended.dag_run:
        known = {version["id"]: version["version_number"] for version in ended.dag_run["dag_versions"]}
        assert versions == ({ended.versions[row.task]} if row.task else set(known))
        assert [known[version] for version in versions] == [2 if row.run == "versioned again" else 1]


def _check_tries(story: Story, row: Row, runs: list[Run]) -> None:
    task, _, index = row.task.rstrip("]").partition("[")
    address = f"/dags/{row.dag}/runs/{story.told['run_id']}/tasks/{task}" + (f"/mapped/{index}" if index else "")
    for number, run in enumerate(runs, 1):
        assert run.tags["tracklayer.key"].endswith(f"/{row.task}#{number}")
        # Airflow escapes what is in a run id.
        url = run.tags["airflow.task_url"].replace("%3A", ":").replace("%2B", "+")
        assert url.partition("?")[0].endswith(address)
        assert f"try_number={number}" in url
        assert run.tags["tracklayer.stage"] == task
        assert run.tags[PARENT] == run.tags[ROOT_TAG] == story.parent.run_id
    assert [run.tags.get(SUPERSEDED) for run in runs] == [*(run.run_id for run in runs[1:]), None]
    assert story.upstream(row.task) == sorted(row.links)
    if isinstance(story, ObservedStory):
        assert {run.name for run in runs} == {f"{task} by itself"}
        assert {story.experiment(run) for run in runs} == {EXPERIMENT}


def _check_parent(ended: Ended, row: Row, parent: Run) -> None:
    """The parent, and that there are no runs but those of the table's tasks."""
    of_table = {one.task for one in ROWS if (one.dag, one.run) == (row.dag, row.run) and one.task and one.tries}
    assert {name(run) for run in ended.story.runs} - {""} == of_table
    assert PARENT not in parent.tags
    assert parent.name == ended.story.told["run_id"]
    if isinstance(ended.story, ObservedStory):
        assert ended.story.experiment(parent) == row.dag
        assert len(ended.story.all_runs) == len(ended.story.runs)
    assert f"/dags/{row.dag}/runs/" in parent.tags["airflow.dag_run_url"]
    assert SUPERSEDED not in parent.tags
    assert ended.dag_run.get("logical_date") is None or "airflow.logical_date" in parent.tags

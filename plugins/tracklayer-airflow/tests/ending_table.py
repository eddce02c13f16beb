"""What is to become of each task of the DAG ``ends`` (``dags_scheduled``), on whatever executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_story import PARENT, Story, name

if TYPE_CHECKING:
    from harness.airflow import AirflowService
    from tracklayer.store import Run

DONE: Final = ("FINISHED", None)
GONE: Final = ("KILLED", "its process is gone")
FAILED: Final = ("FAILED", None)

ENDS: Final[dict[str, tuple[str, list[tuple[str, str | None]], list[str]]]] = {
    # task: Airflow's state; status and note of the run of each try; what the last one is linked to
    "success": ("success", [DONE], []),
    "exception": ("failed", [FAILED], []),
    "airflow_fail": ("failed", [FAILED], []),  # no retry, though there are some left
    "airflow_skip": ("skipped", [("FINISHED", "skipped")], []),
    "sys_exit": ("failed", [FAILED], []),
    "os_exit": ("failed", [GONE], []),
    "execution_timeout": ("failed", [("FAILED", "timed out")], []),
    "sigterm": ("success", [DONE], []),  # Airflow calls on_kill for it, and the task goes on
    "sigkill_with_retries": ("success", [GONE, DONE], []),
    "sigkill": ("failed", [GONE], []),
    "retried": ("success", [FAILED, DONE], []),
    "mapped[0]": ("success", [DONE], []),
    "mapped[1]": ("success", [DONE], []),
    "mapped[2]": ("failed", [FAILED], []),
    "mapped[3]": ("success", [DONE], []),
    "mapped[4]": ("success", [DONE], []),
    "nothing": ("success", [DONE], []),
    "deferring": ("success", [DONE], []),
    "rescheduled": ("success", [DONE], []),
    "taken": ("success", [DONE], []),
    "set_up": ("success", [DONE], []),
    "between": ("failed", [FAILED], ["set_up"]),
    "tear_down": ("success", [DONE], ["between"]),
    "group.grouped": ("success", [DONE], ["success"]),
    "group.next_of_group": ("success", [DONE], ["group.grouped"]),
}

NEVER: Final = {
    "over_nothing": "skipped",
    "after_failure": "upstream_failed",
    "not_taken": "skipped",
    "short_circuited": "skipped",
}
"""Tasks that never run, and Airflow's states of them. They have no run."""


def how(run: Run) -> tuple[str, str | None]:
    """Status and note of a run; `GONE` whoever noticed that: the next process on the machine, or the end of the DAG run."""
    note = run.tags.get("tracklayer.outcome")
    return GONE if (run.status, note) in {("KILLED", "died"), ("KILLED", "left open")} else (run.status, note)


def check(airflow: AirflowService, story: Story) -> None:
    """Compare what there is of a DAG run of ``ends``, in Airflow and in MLflow, with the table.

    Raises:
        AssertionError: it differs.
    """
    path = f"/api/v2/dags/{story.dag_id}/dagRuns/{story.told['run_id']}/taskInstances?limit=100"
    instances = airflow.call(path)["task_instances"]
    states = {
        item["task_id"] + (f"[{item['map_index']}]" if item["map_index"] >= 0 else ""): item["state"]
        for item in instances
    }
    found = {task: (states.get(task), [how(run) for run in story.tries(task)], story.upstream(task)) for task in ENDS}
    assert found == ENDS
    assert {task: states.get(task) for task in NEVER} == NEVER
    assert {name(run) for run in story.runs} - {""} == set(ENDS)
    assert story.parent.status == "FAILED"
    assert {run.tags.get(PARENT) for run in story.runs} == {None, story.parent.run_id}
    for task in ENDS:
        tries = [run.tags["tracklayer.key"].rpartition("#")[2] for run in story.tries(task)]
        assert tries == [str(number) for number in range(1, len(tries) + 1)]

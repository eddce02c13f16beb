"""The example DAGs that come with Airflow and its standard provider, and how they are told apart from each other."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_story import AIRFLOW, without_tracking

from harness.airflow import AirflowService

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.airflow import AirflowHome

PACKAGES: Final = ("airflow.example_dags", "airflow.providers.standard.example_dags")

FILES_LEFT_OUT: Final = {
    "example_branch_operator": "makes virtual environments, from a registry",
    "example_branch_operator_decorator": "makes virtual environments, from a registry",
    "example_dag_decorator": "asks a server on the Internet",
    "example_python_decorator": "makes virtual environments, from a registry",
    "example_python_operator": "makes virtual environments, from a registry",
    "tutorial_objectstorage": "reads from a store on the Internet",
    "tutorial_taskflow_api_virtualenv": "makes virtual environments, from a registry",
    **({"example_bash_decorator": "imports what Airflow 3.1 has elsewhere"} if AIRFLOW < (3, 2) else {}),
}
"""Files of example DAGs that are not run, by their names, and why."""

_NOT_SOON: Final = (datetime.now(UTC) + timedelta(days=3)).strftime("%A")
"""A day of the week that it is not before all tests have ended."""

BY_CLOCK: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "example_branch_datetime_operator": (("pendulum.time(15, 0, 0)", "pendulum.time(0, 0, 0, 1)"),),
    "example_branch_day_of_week_operator": (
        ('week_day="Monday"', f'week_day="{_NOT_SOON}"'),
        ("week_day={WeekDay.SATURDAY, WeekDay.SUNDAY}", "week_day=set(WeekDay)"),
    ),
    # With all of them at once, a slow machine takes longer.
    "example_external_task_marker_dag": (("timeout=600", "timeout=3600"),),
    "example_passing_params_via_test_command": (("minutes=4", "minutes=60"),),
}
"""What is always changed in files of example DAGs, by their names: a text and what stands for it. They look at the hour or the day,
which may be another one by the time that the other side is run, or may take a few minutes only."""

ADAPTED: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "example_sensors": (
        # Two tasks make and remove a file, in whatever order; both sides have one, and it was anybody's.
        ("t5 >> t6 >> t7", "t5 >> t8 >> t6 >> t7"),
        ('filepath="/tmp/temporary_file_for_testing"', 'filepath=os.environ["AIRFLOW_HOME"] + "/temporary_file"'),
        ("/tmp/temporary_file_for_testing", "$AIRFLOW_HOME/temporary_file"),
        ("import datetime\n", "import datetime\nimport os\n"),
        # They look once a minute, and dag.test() ends no trigger by its time-out: this one would take an hour.
        ("timeout=3", "timeout=1"),
        ("timeout=1", "poke_interval=0.1, timeout=0.3"),
        # What has passed already is not deferred, and returns something else.
        ("delta=datetime.timedelta(seconds=2), deferrable", "delta=datetime.timedelta(0), deferrable"),
        ("delta=datetime.timedelta(seconds=2)", "poke_interval=0.1, delta=datetime.timedelta(seconds=2)"),
        ("hours=1)).time(),\n        deferrable", "seconds=1)).time(),\n        deferrable"),
        # The same at every hour: what is an hour from now has passed at eleven in the evening.
        ("(datetime.datetime.now(tz=datetime.UTC) + datetime.timedelta(hours=1)).time()", "datetime.time.max"),
        ("target_time=datetime.datetime.now(tz=datetime.UTC).time()", "target_time=datetime.time.min"),
        ("week_day=WeekDay.MONDAY", f"week_day=WeekDay.{_NOT_SOON.upper()}"),
    ),
}
"""What else is changed in them for ``dag.test()``. A scheduler runs them as they are: it fails what is deferred for a second now and
then, see `LEFT_OUT_OF_SCHEDULES`."""

DAGS_LEFT_OUT: Final = {
    "example_branch_dop_operator_v3": "looks at the minute of its logical date, which is now; a scheduler is told one",
    "example_external_task": "waits for a DAG run that only a scheduler starts",
    "example_external_task_marker_child": "waits for a DAG run of the same logical date",
    # Answered by the test, its tasks are failed by Airflow's scheduler now and then, with or without us, like those of
    # example_external_task below: one of them waits for a second only.
    "example_hitl_operator": "waits for people",
    "example_retry_policy": "asks a server on the Internet",
    "example_task_state_store_mapped": "throws dice in tasks that run in any order",
    "example_time_delta_sensor_async": "waits for half a minute; test_waiting.py has its sensor",
    "example_trigger_controller_dag": "waits for a DAG run that only a scheduler starts",
}
"""DAGs of the other files that are not run, and why."""

PLUGINS: Final = """\
from airflow.example_dags.plugins.decreasing_priority_weight_strategy import DecreasingPriorityWeightStrategyPlugin
from airflow.example_dags.plugins.workday import WorkdayTimetablePlugin
"""
"""A module for Airflow's plugins' folder, with those of its examples' plugins that the example DAGs need."""

CONFS: Final = {"example_params_ui_tutorial": {"required_field": "wanted by its form"}}
"""What DAGs want to be started with."""

LEFT_OUT_OF_SCHEDULES: Final = {
    "example_sensors": "waits for a week where one of its tasks removes the file that another one has just made",
    **{dag_id: DAGS_LEFT_OUT[dag_id] for dag_id in ("example_hitl_operator", "example_retry_policy")},
    "example_asset_with_watchers": "has a triggerer remove files in /tmp by names that anybody may have given one",
    # Its supervisor reaps one task in ten only after five seconds, tracked or not. A task that is deferred and whose
    # trigger has fired by then is scheduled again when the executor reports its end, for which the scheduler fails it.
    **({"example_external_task": "is failed by Airflow at times, with or without us"} if AIRFLOW < (3, 3) else {}),
}
"""DAGs that a real scheduler does not run, and why: it runs those, too, that wait for each other or for half a minute."""

LOGICAL_DATE: Final = "2026-01-01T00:00:00+00:00"
"""That of all DAG runs on a scheduler: some wait for another DAG's run of the same one."""

_VOLATILE: Final = (
    (r"http://127\.0\.0\.1:\d+", "<airflow>"),
    (r"manual__[0-9T:.+-]+(_\w{8})?", "<run id>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:?\d\d|Z)?", "<time>"),
    (r"\d{4}-?\d\d-?\d\dT\d{6}(\.\d+)?", "<time>"),
    (r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \w+ \d{4}", "<time>"),
    (r"\b1[789]\d{8}(\.\d+)?\b", "<seconds>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"0x[0-9a-f]{6,}", "<address>"),
)


def sources() -> list[Path]:
    """The files with Airflow's example DAGs."""
    found: list[Path] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        found += sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    return found


def changed(path: Path, *changes: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """What stands in a file of DAGs, with what is changed in it; a change that would change nothing is an error."""
    text = path.read_text()
    for before, after in [change for one in changes for change in one.get(path.stem, ())]:
        assert before in text, (path.stem, before)
        text = text.replace(before, after)
    return text


def copied(folder: Path, *, adapt: bool) -> list[dict[str, Any]]:
    """Copy the files of DAGs, each to a folder of its own: ``dag.test()`` reads all of a DAG's folder anew each time.

    Args:
        folder: where to.
        adapt: with what is `ADAPTED`, too.

    Returns:
        Airflow's setting ``dag_bundle_config_list``, with a bundle for each.
    """
    bundles = []
    for path in sources():
        if path.stem not in FILES_LEFT_OUT:
            place = folder / path.stem
            place.mkdir(parents=True)
            (place / path.name).write_text(changed(path, BY_CLOCK, ADAPTED if adapt else {}))
            local = "airflow.dag_processing.bundles.local.LocalDagBundle"
            bundles.append({"name": path.stem, "classpath": local, "kwargs": {"path": str(place)}})
    return bundles


def with_plugins(folder: Path) -> Path:
    """A folder of plugins, for Airflow's setting ``plugins_folder``."""
    folder.mkdir()
    (folder / "plugins_of_the_examples.py").write_text(PLUGINS)
    return folder


def without_sleep(folder: Path) -> Path:
    """A folder for PATH in which ``sleep`` takes no time: the examples' commands sleep for minutes, one for an hour."""
    folder.mkdir()
    (folder / "sleep").write_text("#!/bin/sh\nexit 0\n")
    (folder / "sleep").chmod(0o755)
    return folder


def without_chance(folder: Path) -> Path:
    """A folder for PYTHONPATH with which every process throws the same dice, those that fork included."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, random\nrandom.seed(0)\nos.register_at_fork(after_in_child=lambda: random.seed(0))\n"
    )
    return folder


def by_scheduler(home: AirflowHome, environ: Mapping[str, str], *, seconds: float) -> dict[str, Any]:
    """Run the examples by a real Airflow, all at the same time, each once and none by its own schedule.

    Args:
        home: its home.
        environ: for all of its processes.
        seconds: time limit for all of them.

    Returns:
        As `AirflowHome.test` does.
    """
    environ = {
        **environ,
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
    }
    with AirflowService(home, environ=environ, triggerer=True) as airflow:
        known = _all_dags(airflow)
        assert airflow.call("/api/v2/importErrors")["total_entries"] == 0
        wanted = sorted(known - LEFT_OUT_OF_SCHEDULES.keys())
        runs = {dag_id: airflow.trigger(dag_id, CONFS.get(dag_id), logical_date=LOGICAL_DATE) for dag_id in wanted}
        end = time.monotonic() + seconds
        for dag_id, run_id in runs.items():
            airflow.wait(dag_id, run_id, seconds=max(1.0, end - time.monotonic()))
    return home.told(runs, environ=environ)


def _all_dags(airflow: AirflowService) -> set[str]:
    """The ids of all DAGs, once no more of them are found: the dag-processor takes a file after the other."""
    known: set[str] = set()
    for _ in range(20):
        time.sleep(15)
        found: list[str] = []
        while page := airflow.call(f"/api/v2/dags?limit=50&offset={len(found)}")["dags"]:
            found += [dag["dag_id"] for dag in page]
        if known == (known := set(found)) and known:
            return known
    raise AssertionError(f"DAGs are still being found, {len(known)} by now")


def ending(told: dict[str, Any], home: Path) -> dict[str, Any]:
    """How a DAG run ended, without what is different each time, and without the XComs that are tracklayer's own.

    >>> told = {"run_id": "manual__2026-01-01T00:00:00+00:00", "state": "success", "tasks": {"a": ["success", 1]}}
    >>> told |= {"xcoms": {"a.return_value": "at 2026-01-01 10:00:00", "a.tracklayer_url": "http://…"}, "events": {}}
    >>> ending(told, Path("/home/airflow"))["xcoms"]
    {'a.return_value': 'at <time>'}
    """
    xcoms = without_tracking(told["xcoms"])
    events = {
        uri: {name: value for name, value in extra.items() if not name.startswith("tracklayer")}
        for uri, extra in told["events"].items()
    }
    text = json.dumps(
        {"state": told["state"], "tasks": told["tasks"], "xcoms": xcoms, "events": events}, sort_keys=True
    )
    text = text.replace(told["run_id"], "<run id>").replace(str(home), "<home>")
    for pattern, instead in _VOLATILE:
        text = re.sub(pattern, instead, text)
    found: dict[str, Any] = json.loads(text)
    return found

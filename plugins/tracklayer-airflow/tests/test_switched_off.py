"""Where tracking is off, tasks run as their untracked counterparts, and nothing of tracklayer's core is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest

from harness.airflow import AirflowHome
from harness.process import free_port
from tracklayer_airflow import switch

if TYPE_CHECKING:
    from collections.abc import Callable

DAGS = Path(__file__).parent / "dags_switched_off"

pytestmark = pytest.mark.timeout(1_200)

WHY = "tracking is off because there is no tracking URI: set MLFLOW_TRACKING_URI"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            lambda: {
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
                "AIRFLOW__TRACKLAYER__ENABLED": "False",
            },
            0,
        ),
        (lambda: {"TRACKLAYER_TEAM": "risk"}, 1),
    ],
    ids=["by the switch", "without a tracking URI"],
)
def test_nothing_is_imported_and_the_tasks_run(
    tmp_path: Path, environ: Callable[[], dict[str, str]], told: int
) -> None:
    """Though there are settings: of how to track, and not where."""
    home = AirflowHome(tmp_path / "home", DAGS)
    (home.folder / "tracklayer.toml").write_text('project = "flights"\n')
    ran = home.test("switched_off", environ=environ())["switched_off"]
    assert {task: state for task, (state, _) in ran["tasks"].items() if state != "success"} == {}
    assert ran["xcoms"] == {
        "managed.return_value": [],
        "by_operator.return_value": [],
        "templated.return_value": ".",
        "plain.return_value": [],
        "asking.return_value": [None, None, "None\n"],
        "afterwards.return_value": True,
    }
    assert home.log.count(WHY) == told
    assert home.log.count("tracking") == home.log.count("tracking_uri") + 2 * told


@pytest.mark.parametrize(
    ("files", "environ", "spoken_of"),
    [
        ({}, {}, False),
        ({"tracklayer.toml": 'team = "risk"'}, {}, False),
        ({"pyproject.toml": 'dependencies = ["tracklayer"]'}, {}, False),
        ({"../tracklayer.toml": 'tracking_uri = "http://mlflow"'}, {}, True),
        ({"pyproject.toml": '[tool.tracklayer.airflow]\nmlflow_conn_id = "mlflow"'}, {}, True),
        ({"pyproject.toml": 'tool.tracklayer.tracking_uri = "http://mlflow"', "named.toml": ""}, {}, True),
        (
            {"pyproject.toml": 'tool.tracklayer.tracking_uri = "http://mlflow"', "named.toml": ""},
            {"TRACKLAYER_CONFIG": "named.toml"},
            False,
        ),
        ({"named.toml": 'tracking_uri = "http://mlflow"'}, {"TRACKLAYER_CONFIG": "named.toml"}, True),
        ({}, {"TRACKLAYER_CONFIG": "missing.toml"}, False),
    ],
)
def test_which_files_speak_of_a_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    environ: dict[str, str],
    *,
    spoken_of: bool,
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    assert any(map(switch._names_a_server, switch._files())) is spoken_of


def test_a_server_that_code_has_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DAG file, as a task's process reads it before the task begins."""
    monkeypatch.setattr(switch, "is_spoken_of", lambda: False)
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert switch.is_spoken_of_in_task()
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # as it was
    assert not switch.is_spoken_of_in_task()

"""Where the relay keeps what it makes, and the environment in which its processes run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_FOREIGN = ("AIRFLOW_", "KFP_", "MLFLOW_", "PREFECT_", "TRACKLAYER_", "_AIRFLOW_")
"""Prefixes of variables that would turn the relay into something else, were they taken over from the shell."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that holds everything: databases, artifacts, data and logs.

    Attributes:
        home: the folder, absolute; `.demo` in the repository unless said otherwise.
    """

    home: Path

    @property
    def database(self) -> Path:
        """MLflow's SQLite file."""
        return self.home / "mlflow.db"

    @property
    def tracking_database(self) -> str:
        """The same as a tracking URI."""
        return f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow's server keeps artifacts."""
        return self.home / "artifacts"

    @property
    def data(self) -> Path:
        """Where the flights are prepared."""
        return self.home / "data"

    @property
    def temporary(self) -> Path:
        """Where everything puts its temporary files; emptied by each relay."""
        return self.home / "tmp"

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.home / "logs" / f"{name}.log"

    def program(self, name: str) -> str:
        """A program of the environment that runs the relay."""
        return str(Path(sys.executable).parent / name)

    def environment(self) -> dict[str, str]:
        """Every process's environment: the shell's, less what belongs to other installations."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return inherited | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
            "TMPDIR": str(self.temporary),
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "GIT_PYTHON_REFRESH": "quiet",
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

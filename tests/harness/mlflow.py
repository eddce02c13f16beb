"""Real MLflow tracking servers."""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.process import Program, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 180.0
"""How long a server may take to start: it imports for 10 to 60 s, depending on what else the machine does."""

SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else it is 15 processes and 3 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5",  # kept when idle; a database serves 100 of us all at once
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "95",  # else 16 requests at once can deadlock for 30 s
}


class MlflowServer:
    """An ``mlflow server`` with one worker on a free loopback port.

    Attributes:
        uri: its tracking URI.
        port: its port, the same after `stop` and `start`.
        backend: URI of the database behind it.
        artifacts: folder in which it keeps artifacts.
    """

    def __init__(
        self,
        backend: str,
        folder: Path,
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            backend: a SQLAlchemy URI (``sqlite:////…``, ``postgresql+psycopg2://…``, ``mysql+pymysql://…``).
            folder: for its log and its artifacts.
            arguments: more arguments of ``mlflow server``; with ``--default-artifact-root`` among them, artifacts
                do not go through the server.
            environ: variables for it alone.
        """
        self.backend = backend
        self.artifacts = folder / "artifacts"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._arguments = tuple(arguments)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TRACKLAYER_"))
        }
        self._environ = {**inherited, **SETTINGS, **(environ or {})}
        self._program: Program | None = None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        artifacts = (
            () if "--default-artifact-root" in self._arguments else ("--artifacts-destination", str(self.artifacts))
        )
        command = (
            *(str(Path(sys.executable).with_name("mlflow")), "server", "--backend-store-uri", self.backend),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *artifacts,
            *self._arguments,
        )
        self._program = Program(command, log=self._folder / "server.log", environ=self._environ, cwd=self._folder)
        try:
            wait_for(self.answers, START_SECONDS, "answer of the MLflow server", self._program)
        except BaseException:
            self.stop()
            raise
        return self

    def answers(self) -> bool:
        """Whether it answers right now."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): it still takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it without warning (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it; no error if it does not run."""
        program, self._program = self._program, None
        if program is not None:
            program.stop()

    def log(self) -> str:
        """What it has written so far."""
        path = self._folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *details: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._program is None:
            raise RuntimeError("the MLflow server does not run")
        self._program.signal(number)

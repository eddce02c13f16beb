"""The two servers of the relay: MLflow's on SQLite, and Prefect's, each on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from typing import TYPE_CHECKING

from examples.relay.processes import Failed, Household, tail

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from examples.relay.place import Place

_START_UP = 180.0
"""Seconds; a busy machine of two cores was seen to take 57."""
_POLL = 0.25


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def mlflow_server(household: Household, place: Place) -> Iterator[Server]:
    """Start MLflow's server on the SQLite file and the artifact folder of `place`; stopped with the block."""
    port = free_port()
    place.artifacts.mkdir(parents=True, exist_ok=True)
    command = [
        *(place.program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", place.tracking_database),
        *("--artifacts-destination", str(place.artifacts)),
    ]
    # Without its job runners the server is two processes instead of fifteen.
    env = place.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with household.running(command, env=env, log=place.log("mlflow-server"), cwd=place.home) as process:
        yield Server("mlflow server", f"http://127.0.0.1:{port}", "/health", process, place.log("mlflow-server"))


@contextlib.contextmanager
def prefect_server(household: Household, place: Place) -> Iterator[Server]:
    """Start Prefect's server with its database in `place`; stopped with the block."""
    port = free_port()
    command = [place.program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with household.running(
        command, env=place.environment(), log=place.log("prefect-server"), cwd=place.home
    ) as process:
        yield Server("prefect server", f"http://127.0.0.1:{port}", "/api/health", process, place.log("prefect-server"))


class Server:
    """A server that was started; `url` is where it will answer."""

    def __init__(self, name: str, url: str, health: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.url = url
        self._health = health
        self._process = process
        self._log = log

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            Failed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + _START_UP
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise Failed(f"{self.name} ended with {code}:\n{tail(self._log)}")
            if self.answers():
                return
            time.sleep(_POLL)
        raise Failed(f"{self.name} did not answer within {_START_UP:.0f} s:\n{tail(self._log)}")

    def answers(self) -> bool:
        """Does it answer at this moment?"""
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + self._health, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

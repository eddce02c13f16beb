"""Real Airflows: DAGs run by ``dag.test()`` in a process of their own, or by a scheduler with all that belongs to it."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from harness.process import Program, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 240.0
"""How long the components may take to start: on a busy machine without byte code they import for minutes."""


_EMPTY: list[Path] = []
"""A database of Airflow's on SQLite as it is made, if this process has made one: it takes seconds."""

# -P: else this module stands for Airflow in the script.
_SCRIPT = ("-P", str(Path(__file__).with_name("dag_test.py")))

LOCKED = 10
"""So often a request is made that Airflow's database has no time for."""


class AirflowHome:
    """An Airflow home of its own that sees one folder of DAGs.

    As a context manager it runs tests in forks of one process that has imported Airflow.

    Attributes:
        folder: the home.
        log: what the last `test` wrote.
    """

    def __init__(
        self,
        folder: Path,
        dags: Path,
        *,
        database: str | None = None,
        imported: Sequence[str] = (),
        python: Path | None = None,
    ) -> None:
        """Make the home and its database.

        Args:
            folder: where it is to be; made if need be.
            dags: the folder of DAGs.
            database: SQLAlchemy's URI of an empty database; None for SQLite in the folder.
            imported: modules that the process imports from which tests are forked, beside Airflow.
            python: of the environment whose Airflow it is (see `harness.without`); None for that of the tests.
        """
        self.folder = folder
        self.log = ""
        self._imported = tuple(imported)
        self._python = python or Path(sys.executable)
        self._server: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "MLFLOW_", "TRACKLAYER_")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        self._environ = {
            **inherited,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TRACKLAYER_JOURNAL": str(folder / "journal"),
            "TRACKLAYER_PATIENCE": "20",  # the machine is busy, the server is slow, and not away
            **({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database} if database else {}),
        }
        self._migrate(database)

    @property
    def program(self) -> str:
        """The command ``airflow``."""
        return str(self._python.with_name("airflow"))

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a process of this Airflow.

        Args:
            more: variables for it alone (``MLFLOW_TRACKING_URI``, ``TRACKLAYER_…``); nothing of whoever runs the
                tests is inherited.
        """
        return {**self._environ, **(more or {})}

    def test(
        self,
        *dags: str,
        environ: Mapping[str, str] | None = None,
        not_run: str = "",
        seconds: float = 480,
        fresh: bool = False,
    ) -> dict[str, Any]:
        """Run DAGs one after the other by ``dag.test()``, all in one process.

        Args:
            dags: DAG ids, each with a conf as JSON if need be: ``flights={"sample": 100}``. ``*`` stands for all that
                are not named, and ``-flights`` leaves one out. ``flights!train`` runs one task by ``airflow tasks test``, and
                nothing else with it.
            environ: see `environ`.
            not_run: a regular expression; tasks whose whole ids it matches succeed without being run.
            seconds: time limit for all of them.
            fresh: in a process that imports everything itself, also where others are forked.

        Returns:
            By DAG id: ``run_id``, ``state``, ``tasks`` (``name[map index]`` to state and try), ``xcoms``
            (``name[map index].key`` to value) and ``events`` (asset URI to the extra of its event).
        """
        output = self.folder / "test.json"
        output.unlink(missing_ok=True)
        arguments = [str(output), not_run, *dags]
        if self._server is None or fresh:
            self.log = self._run([str(self._python), *_SCRIPT, *arguments], environ or {}, seconds)
        else:
            self.log = self._fork(self._server, arguments, environ or {}, seconds)
        found: dict[str, Any] = json.loads(output.read_text())
        return found

    def told(self, runs: Mapping[str, str], *, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """How DAG runs ended that a scheduler started, as `test` tells it.

        Args:
            runs: run ids by DAG id.
            environ: see `environ`.
        """
        return self.test(*(f"{dag_id}@{run_id}" for dag_id, run_id in runs.items()), environ=environ)

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [str(self._python), *_SCRIPT, "--serve", *self._imported],
            env=self.environ(),
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *details: object) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.communicate()  # it ends where its standard input does

    def _fork(
        self, server: subprocess.Popen[str], arguments: Sequence[str], environ: Mapping[str, str], seconds: float
    ) -> str:
        log = self.folder / "test.log"
        job = {"environ": self.environ(environ), "arguments": arguments, "log": str(log)}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], seconds)[0]:
            os.killpg(server.pid, signal.SIGKILL)
        code, told = server.stdout.readline().strip(), log.read_text(errors="replace")
        if code != "0":
            raise RuntimeError(
                f"dag.test() of {' '.join(arguments)} ended with {code or 'a time-out'}:\n{told[-5000:]}"
            )
        return told

    def _migrate(self, database: str | None) -> None:
        """Make the tables; on SQLite Airflow does so in the first home alone, and the others have a copy of them."""
        own = self.folder / "airflow.db"
        empty = next((path for path in _EMPTY if path.exists()), None)
        if database is None and empty is not None:
            shutil.copyfile(empty, own)
            return
        self._run([self.program, "db", "migrate"], {}, 300)
        if database is None:
            _EMPTY.append(shutil.copyfile(own, self.folder / "empty.db"))

    def _run(self, command: Sequence[str], environ: Mapping[str, str], seconds: float) -> str:
        done = subprocess.run(
            command,
            env=self.environ(environ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-5000:]}")
        return done.stdout


class AirflowService:
    """A running Airflow: api-server, scheduler, dag-processor, and a triggerer if asked for.

    With LocalExecutor, or with Celery's workers if there are any.
    """

    def __init__(
        self,
        home: AirflowHome,
        *,
        environ: Mapping[str, str] | None = None,
        triggerer: bool = False,
        workers: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Describe it; entering it as a context manager starts it.

        Args:
            home: its home; nothing else may use it meanwhile.
            environ: more variables, see `AirflowHome.environ`.
            triggerer: start a triggerer too, for deferrable tasks.
            workers: Celery's workers by name, with more variables for each; `environ` says where their broker is.
        """
        self.home = home
        self.uri = ""
        self._more = environ or {}
        self._components = ["api-server", "scheduler", "dag-processor", *(["triggerer"] if triggerer else [])]
        self._workers = workers or {}
        self._programs: dict[str, Program] = {}
        self._token = ""

    def __enter__(self) -> Self:
        """Start everything, and wait until the API answers and the DAGs are known."""
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        environ = self.home.environ(
            {
                "AIRFLOW__API__BASE_URL": self.uri,
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.uri}/execution/",
                "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
                **self._more,
            }
        )
        arguments = {
            "api-server": ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            "scheduler": ["--skip-serve-logs"],
            "triggerer": ["--skip-serve-logs"],
        }
        try:
            for name in self._components:
                self._programs[name] = Program(
                    [self.home.program, name, *arguments.get(name, [])],
                    log=self.home.folder / f"{name}.log",
                    environ=environ,
                    cwd=self.home.folder,
                )
            for name, more in self._workers.items():
                options = ["--celery-hostname", name, "--concurrency", "4", "--without-mingle", "--without-gossip"]
                self._programs[name] = Program(
                    [self.home.program, "celery", "worker", "--skip-serve-logs", *options],
                    log=self.home.folder / f"{name}.log",
                    environ={**environ, **more, "AIRFLOW_HOME": str(self._home_of(name))},
                    cwd=self.home.folder,
                )
            wait_for(self._answers, START_SECONDS, "answer of Airflow's API", self._programs["api-server"])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        """Stop everything."""
        self.stop()

    def stop(self, *names: str) -> None:
        """Stop components, politely first; all if none is named."""
        for name in reversed(names or tuple(self._programs)):
            program = self._programs.pop(name, None)
            if program is not None:
                program.stop()

    def log(self, component: str) -> str:
        """What a component has written so far."""
        path = self.home.folder / f"{component}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, logical_date: str | None = None) -> str:
        """Start a DAG run, as soon as the DAG is known and active; its run id."""
        path = f"/api/v2/dags/{dag_id}"
        wait_for(lambda: self._is_known(path), START_SECONDS, f"DAG {dag_id}", self._programs["dag-processor"])
        run = self.call(f"{path}/dagRuns", {"logical_date": logical_date, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def wait(self, dag_id: str, run_id: str | None = None, *, seconds: float = 120) -> dict[str, Any]:
        """Wait until a DAG run has ended.

        Args:
            dag_id: the DAG.
            run_id: None for the only run of it, which may still have to be started.
            seconds: time limit.

        Returns:
            The DAG run as the API tells it.
        """
        found: dict[str, Any] = {}

        def ended() -> bool:
            runs = self.call(f"/api/v2/dags/{dag_id}/dagRuns")["dag_runs"]
            run: dict[str, Any] = next((run for run in runs if run_id in {None, run["dag_run_id"]}), {})
            found.update(run)
            return run.get("state") in {"success", "failed"}

        wait_for(ended, seconds, f"end of a run of {dag_id}", self._programs["scheduler"])
        return found

    def links(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, str | None]:
        """The extra links on a task's page."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/links?map_index={map_index}"
        links: dict[str, str | None] = self.call(path)["extra_links"]
        return links

    def call(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> Any:
        """Call Airflow's REST API.

        Args:
            path: of what is called.
            body: sent as JSON; None for nothing.
            method: of HTTP; None: POST if there is a body, else GET.

        Returns:
            The answer's JSON; None if it is empty.

        Raises:
            urllib.error.HTTPError: it was refused; its text is added to the message. (A database that is locked, as
                SQLite's is now and then under a scheduler that is busy, is asked again.)
        """
        request = urllib.request.Request(
            self.uri + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        for _ in range(LOCKED):
            try:
                return _answer(request)
            except urllib.error.HTTPError as error:
                if error.code != 500 or "Database error" not in error.msg:
                    raise
                time.sleep(0.5)
        return _answer(request)

    def _home_of(self, worker: str) -> Path:
        """A worker's own home, as on a machine of its own: in a common one there is one pid file for all workers."""
        folder = self.home.folder / worker
        folder.mkdir(exist_ok=True)
        return folder

    def _answers(self) -> bool:
        try:
            self._token = self.call("/auth/token")["access_token"]
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _is_known(self, path: str) -> bool:
        try:
            return not self.call(path)["is_paused"]
        except urllib.error.HTTPError:
            time.sleep(0.5)
            return False


def _answer(request: urllib.request.Request) -> Any:
    """The JSON that is answered; None for nothing. Raises HTTPError, with the answer's text in its message."""
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        error.msg = f"{error.msg}: {error.read()[:500].decode(errors='replace')}"
        raise
    return json.loads(content) if content else None

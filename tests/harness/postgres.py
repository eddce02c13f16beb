"""PostgreSQL servers of a test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from harness.backends import lacking
from harness.process import Program, free_port, wait_for


class PostgresCluster:
    """A PostgreSQL server of a test's own, that may be killed and started again.

    PostgreSQL refuses to be root, and whom root gives its place to cannot enter pytest's folders; then the cluster
    has a folder beside them, which `close` removes.

    Attributes:
        uri: of its database ``postgres``, for SQLAlchemy.
    """

    def __init__(self, folder: Path) -> None:
        """Make it; skips the test where PostgreSQL's programs are not installed."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
        if not versions:
            lacking("postgresql-programs", "they are not in /usr/lib/postgresql")
        self._programs = versions[-1].parent
        self._home = folder
        self._as: list[str] = []
        self._program: Program | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "postgres.log"
        if os.geteuid() == 0:
            user = next((one for one in pwd.getpwall() if one.pw_name in {"postgres", "nobody"}), None)
            if user is None or shutil.which("setpriv") is None:
                lacking(
                    "postgresql-programs", "PostgreSQL refuses to run as root, and there is nobody else to run it as"
                )
            self._home = Path(tempfile.mkdtemp(prefix="tracklayer-postgres-"))
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.port = free_port()
        self.uri = f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"
        command = ["initdb", "-D", str(self._home / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(self._command(*command), check=True, capture_output=True, cwd="/", timeout=120)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        import psycopg2

        def answers() -> bool:
            try:
                psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres").close()
            except psycopg2.OperationalError:
                return False
            return True

        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        command = self._command("postgres", "-D", str(self._home / "data"), "-p", str(self.port), *options)
        self._program = Program(command, log=self._log, cwd=Path("/"))
        wait_for(answers, 60, "answer of PostgreSQL", self._program)

    def kill(self) -> None:
        """Kill all of it without warning; what was committed is there again after `start`."""
        program, self._program = self._program, None
        if program is not None:
            program.signal(signal.SIGKILL)
            program.stop()
            # Where nobody reaps orphans it stays as a zombie, which the next one would take for a living server.
            (self._home / "data" / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._as, str(self._programs / program), *arguments]

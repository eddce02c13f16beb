"""Faults that are made, not simulated: proxies that injure, ports that swallow, databases that die, disks that are full."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from harness.backends import lacking
from harness.mlflow import MlflowServer
from harness.proxy import HTML, Answer, Fault, RecordingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STRICT: Final = {"MLFLOW_TRUNCATE_LONG_VALUES": "false"}
"""The setting with which a server refuses what is too long; as MLflow starts it, it cuts that."""

# ---------------------------------------------------------------------------------------------- on the way


def _error(status: int, code: str) -> Answer:
    return Answer(status, json.dumps({"error_code": code, "message": "injected"}).encode())


def _lost(handler: Any) -> None:
    handler.forwarded()
    handler.reset()


def _half(handler: Any) -> None:
    handler.send(handler.forwarded(), part=0.5)
    handler.reset()


def _truncated(handler: Any) -> Answer:
    whole = handler.forwarded()
    return Answer(whole.status, whole.body[: len(whole.body) // 2], whole.headers)


def _done_and_500(handler: Any) -> Answer:
    handler.forwarded()
    return _error(500, "INTERNAL_ERROR")


LATE: Final = (1.1, 5.0)
"""How long a late request is on the way, in seconds: longer than a client waits whose time-out is 1 s."""

WITHIN_THE_REQUEST: Final = "reset in the middle of the request"

INJURIES: Final[Mapping[str, Callable[[Any], Answer | None]]] = {
    WITHIN_THE_REQUEST: lambda handler: handler.reset(),
    "reset before the answer": lambda handler: handler.reset(),
    "reset in the middle of the answer": _half,
    "an answer cut short": _truncated,
    "an answer lost after the commit": _lost,
    "500": lambda _: _error(500, "INTERNAL_ERROR"),
    "500 after the commit": _done_and_500,
    "503": lambda _: _error(503, "TEMPORARILY_UNAVAILABLE"),
    "429 with Retry-After": lambda _: Answer(429, b"slow down", {"Content-Type": "text/plain", "Retry-After": "1"}),
    "a gateway's page": lambda _: Answer(502, HTML, {"Content-Type": "text/html"}),
    "a login page that says 200": lambda _: Answer(200, HTML, {"Content-Type": "text/html"}),
}
"""What may happen to a request, by its name."""


class Unreliable(RecordingProxy):
    """A proxy that injures requests at random, but by a seed, until it is told to be sound.

    Attributes:
        injured: how many requests were.
    """

    def __init__(self, target: str, injuries: list[str], *, chance: float, seed: int) -> None:
        """Listen.

        Args:
            target: the server behind.
            injuries: names in `INJURIES`; also ``silence``, no answer for as long as the client waits, and ``late``:
                the request is on the way for so long that the client has given it up, and comes to the server all
                the same.
            chance: of each request to be injured, from 0 to 1. The first one is in any case: on a busy machine a task
                may be over after a few.
            seed: for the dice.
        """
        self._dice = random.Random(seed)
        self._injuries = injuries
        self._chance = chance
        self.injured = 0
        super().__init__(target)

    def sound(self) -> None:
        """Injure nothing any more."""
        self._chance = 0.0

    def _next_fault(self, path: str) -> Fault | None:
        with self._lock:
            spared = self._dice.random() >= self._chance
            if spared and (self.injured or self._chance == 0.0):
                return None
            self.injured += 1
            name = self._dice.choice(self._injuries)
        if name == "silence":
            return Fault(lambda _: self._silent(), path, 1)
        part = 0.5 if name == WITHIN_THE_REQUEST else 1.0
        return Fault(self._late if name == "late" else INJURIES[name], path, 1, part)

    def _late(self, handler: Any) -> None:
        with self._lock:
            seconds = self._dice.uniform(*LATE)
        time.sleep(seconds)
        handler.forwarded()
        handler.reset()

    def _silent(self) -> None:
        self._released.wait(20)


@contextmanager
def hole_at(port: int) -> Iterator[None]:
    """Swallow what comes to a loopback port that nobody listens at: connections are neither taken nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        yield


# ---------------------------------------------------------------------------------------------- below the server


@contextmanager
def locked(server: MlflowServer) -> Iterator[None]:
    """Lock a server's SQLite database, as a backup or somebody's shell does."""
    connection = sqlite3.connect(server.backend.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


class GuardedServer(MlflowServer):
    """A server that wants credentials, and remembers for a second whose it has seen.

    Attributes:
        admin: the header ``Authorization`` of its administrator.
    """

    ADMIN = ("admin", "adm1n-password")

    def __init__(self, folder: Path, database: str | None = None) -> None:
        """Write its configuration.

        Args:
            folder: for its files.
            database: where runs are; None for a SQLite file there. Users are in a SQLite file in any case.
        """
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "auth.ini"
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = sqlite:///{folder / 'auth.db'}\nadmin_username = {self.ADMIN[0]}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "grant_default_workspace_access = false\nauth_cache_ttl_seconds = 1\n"
        )
        environ = {
            **STRICT,
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
        }
        backend = database or f"sqlite:///{folder / 'mlflow.db'}"
        super().__init__(backend, folder, arguments=("--app-name", "basic-auth"), environ=environ)
        self.admin = "Basic " + base64.b64encode(":".join(self.ADMIN).encode()).decode()

    def create_user(self, name: str, password: str) -> None:
        """Let somebody in."""
        self._ask("POST", "users/create", {"username": name, "password": password})

    def set_password(self, name: str, password: str) -> None:
        """Change somebody's password: the old one is worth nothing any more when this returns."""
        self._ask("PATCH", "users/update-password", {"username": name, "password": password})
        time.sleep(1.2)

    def _ask(self, method: str, path: str, body: Mapping[str, str]) -> None:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": self.admin},
            method=method,
        )
        urllib.request.urlopen(request, timeout=20).close()


# ---------------------------------------------------------------------------------------------- below the journal


@contextmanager
def disk(folder: Path, size: int, *, read_only: bool = False) -> Iterator[Path]:
    """A small disk of its own, mounted at `folder`; skips the test where nothing can be mounted.

    Args:
        folder: where to mount it; made.
        size: in bytes.
        read_only: mount it so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0777{',ro' if read_only else ''}"
    if shutil.which("mount") is None:
        lacking("mounts", "there is no program `mount`")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tracklayer-test", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        lacking("mounts", f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Fill the disk of `folder` but for `leave` bytes."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))


TURNED_CLOCK: Final = """
import os, time

def turn(real, unit):
    def told():
        try:
            with open({path!r}) as file:
                return real() + unit(float(file.read() or 0))
        except OSError:
            return real()
    return told

time.time_ns = turn(time.time_ns, lambda seconds: int(seconds * 1e9))
time.time = turn(time.time, float)
"""
"""Code for a process whose clock is to follow the file ``path``: seconds by which it is wrong."""


_CLOCK: Final = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long turned(void) {
    char text[32] = {0};
    const char *path = getenv("TURNED_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += turned();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *into) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (into) *into = exact.tv_sec;
    return exact.tv_sec;
}
"""


def clock_library(folder: Path) -> Path:
    """A library to preload: the clock of the process is then wrong by the seconds in the file ``$TURNED_CLOCK``.

    Skips the test where there is no C compiler.
    """
    if shutil.which("cc") is None:
        lacking("compiler", "there is none to make a clock that can be turned")
    library = folder / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(command, input=_CLOCK, text=True, check=True, capture_output=True)
    return library

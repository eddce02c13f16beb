"""Machines of their own: network namespaces with host names, cables that can be pulled, and one server for all.

Every address lives in these namespaces; nothing of the machine's own network is touched. The MLflow server stays where
it is: a relay listens in a namespace of its own, and forwards to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Self

from harness.backends import lacking
from harness.process import Program, wait_for
from harness.warm import Warm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.mlflow import MlflowServer

SERVER = "10.213.0.1"
PORT = 5000

# A socket belongs to the namespace in which it was made: this one listens there, and forwards from here.
_RELAY = """
import ctypes, os, socket, sys, threading
name, address, port, target = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
def enter(path):
    file = os.open(path, os.O_RDONLY)
    if libc.setns(file, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
here = "/proc/%d/ns/net" % os.getppid()
enter("/run/netns/" + name)
listener = socket.create_server((address, port), backlog=64)
enter(here)
def pump(source, sink):
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    taken, _ = listener.accept()
    try:
        onward = socket.create_connection(("127.0.0.1", target), timeout=5)
    except OSError:
        taken.close()
        continue
    onward.settimeout(None)
    for pair in ((taken, onward), (onward, taken)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


class Machines:
    """Machines that can reach one server, and each be cut off from it.

    Attributes:
        uri: the server's tracking URI, the same on every machine.
    """

    def __init__(self, names: Sequence[str], server: MlflowServer, folder: Path) -> None:
        """Make them; skips the test where no namespaces can be made.

        Args:
            names: their host names.
            server: the server, which runs on this machine.
            folder: for the relay's log.
        """
        self.uri = f"http://{SERVER}:{PORT}"
        self._mark = f"tl{uuid.uuid4().hex[:6]}"
        self._names = tuple(names)
        self._relay: Program | None = None
        if shutil.which("ip") is None or os.geteuid() != 0:
            lacking("namespaces", "they need root, and `ip` of iproute2")
        self._hub = f"{self._mark}-hub"
        made = subprocess.run(["ip", "netns", "add", self._hub], capture_output=True, text=True)
        if made.returncode:
            lacking("namespaces", f"none can be made here: {made.stderr.strip()}")
        try:
            self._build(server, folder)
        except BaseException:
            self.close()
            raise

    def _build(self, server: MlflowServer, folder: Path) -> None:
        self._in(self._hub, "ip", "link", "set", "lo", "up")
        self._in(self._hub, "ip", "address", "add", f"{SERVER}/32", "dev", "lo")
        for number, name in enumerate(self._names, start=1):
            home = self.namespace(name)
            self._ip("netns", "add", home)
            self._ip(
                "link", "add", f"to{number}", "netns", self._hub, "type", "veth", "peer", "name", "wire", "netns", home
            )
            self._in(self._hub, "ip", "address", "add", f"10.213.{number}.1/24", "dev", f"to{number}")
            self._in(self._hub, "ip", "link", "set", f"to{number}", "up")
            self._in(home, "ip", "link", "set", "lo", "up")
            self._in(home, "ip", "address", "add", f"10.213.{number}.2/24", "dev", "wire")
            self._in(home, "ip", "link", "set", "wire", "up")
            self._in(home, "ip", "route", "add", "default", "via", f"10.213.{number}.1")
        command = [sys.executable, "-c", _RELAY, self._hub, SERVER, str(PORT), str(server.port)]
        self._relay = Program(command, log=folder / "relay.log")
        wait_for(self._answers, 30, "answer through the relay", self._relay)

    def namespace(self, name: str) -> str:
        """Name of the network namespace of a machine."""
        return f"{self._mark}-{name}"

    def warm(self, name: str) -> Warm:
        """A process that makes others, all of them on the machine `name`."""
        host = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name) if shutil.which("unshare") else ()
        return Warm(command=("ip", "netns", "exec", self.namespace(name), *host))

    def pull(self, name: str) -> None:
        """Pull the machine's cable: it has no route any more."""
        self._in(self._hub, "ip", "link", "set", self._cable(name), "down")

    def plug(self, name: str) -> None:
        """Put the cable back, however the machine was cut off."""
        cable = self._cable(name)
        self._in(self._hub, "ip", "link", "set", cable, "up")
        subprocess.run(
            ["ip", "-n", self.namespace(name), "neigh", "del", f"10.213.{cable[2:]}.1", "dev", "wire"],
            capture_output=True,
        )
        if not self._routes(name):
            self._in(self.namespace(name), "ip", "route", "add", "default", "via", f"10.213.{cable[2:]}.1")

    def swallow(self, name: str) -> None:
        """Let everything that the machine sends vanish, as behind a firewall: nobody answers, nobody refuses."""
        gateway = f"10.213.{self._cable(name)[2:]}.1"
        told = ("neigh", "replace", gateway, "lladdr", "02:00:00:00:00:99", "dev", "wire", "nud", "permanent")
        self._in(self.namespace(name), "ip", *told)

    def close(self) -> None:
        """Remove them."""
        if self._relay is not None:
            self._relay.stop()
        for name in (*(self.namespace(name) for name in self._names), self._hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _cable(self, name: str) -> str:
        return f"to{self._names.index(name) + 1}"

    def _routes(self, name: str) -> str:
        return self._in(self.namespace(name), "ip", "route", "show", "default")

    def _answers(self) -> bool:
        script = f"import urllib.request as u; u.urlopen('{self.uri}/health', timeout=5)"
        command = ["ip", "netns", "exec", self.namespace(self._names[0]), sys.executable, "-S", "-c", script]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _in(self, namespace: str, *command: str) -> str:
        return self._ip("netns", "exec", namespace, *command)

    @staticmethod
    def _ip(*arguments: str) -> str:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

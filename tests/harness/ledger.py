"""What user code was told: a ledger beside MLflow, written by the code under test itself.

Each call of tracklayer or mlflow has two lines in the ledger, each one `os.write`: one before the call (*attempted*)
and one after it has returned (*acknowledged*). A process that is killed in between has attempted, and been promised
nothing. `harness.audit` compares the ledger with what MLflow has in the end.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LABEL = "ledger"
"""Name of the tag by which a run is known to the ledger; its value is the run's label."""


def value_of(key: str, step: int) -> float:
    """The value of each metric point, so that a ledger need not tell it; now and then one that is no number.

    >>> value_of("loss", 3) == value_of("loss", 3)
    True
    """
    odd = {94: float("nan"), 95: float("inf"), 96: float("-inf")}
    return odd.get(step % 97, (zlib.crc32(f"{key}/{step}".encode()) % 1_000_003) / 1_000)


@dataclass(frozen=True)
class Entry:
    """One call.

    Attributes:
        kind: ``run``, ``param``, ``points``, ``tag`` (its value is None if it is taken away), ``dataset``, ``artifact``,
            ``link``, ``rename``, ``refused`` (a value that the server does not take), ``model``, ``output``, ``ready``,
            ``end``, ``resume``, ``close``.
        run: label of the run that it is about.
        told: what the call said, by name.
        at: when it was attempted, in milliseconds since the epoch.
        done_at: when it had returned; None if it never did.
        answer: what it returned, as far as that matters (``id``).
        error: what it raised; None if it did not.
    """

    kind: str
    run: str
    told: Mapping[str, Any]
    at: int
    done_at: int | None = None
    answer: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether the call had returned, so that what it said must be in MLflow."""
        return self.done_at is not None


class Ledger:
    """The writing side, in the process under test; for all its threads and forks.

    >>> Ledger(path).call("param", "train", lambda: run.log_param("lr", 1), key="lr", value="1")  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._numbers = itertools.count()

    def call(
        self, kind: str, run: str, function: Callable[[], Any], answer: Callable[[Any], Any] | None = None, **told: Any
    ) -> Any:
        """Call `function`, with a line before and a line after.

        Args:
            kind: see `Entry`.
            run: label of the run.
            function: the call; what it raises passes on.
            answer: what to keep of its result, as a dictionary.
            told: what the call says.
        """
        number = f"{os.getpid()}.{next(self._numbers)}"
        self._write({"n": number, "kind": kind, "run": run, "told": told})
        try:
            result = function()
        except BaseException as error:
            if told.get("raises") != type(error).__name__:
                self._write({"n": number, "error": f"{type(error).__name__}: {error}"[:500]})
                raise
            self._write({"n": number, "done": {}})
            raise
        self._write({"n": number, "done": answer(result) if answer is not None else {}})
        return result

    def reached(self, place: str) -> None:
        """Note that the code has come to a place."""
        self._write({"place": place})

    def _write(self, line: Mapping[str, Any]) -> None:
        # The clock that user code sees, which a test may turn: times in MLflow must be what it said.
        text = json.dumps({**line, "at": time.time_ns() // 1_000_000})
        os.write(self._file, text.encode() + b"\n")


@dataclass(frozen=True)
class Read:
    """A ledger, read.

    Attributes:
        entries: the calls, in the order in which they were attempted.
        places: the places that the code has come to.
        last_at: when the last line was written, in milliseconds since the epoch; 0 for an empty ledger.
    """

    entries: tuple[Entry, ...] = ()
    places: tuple[str, ...] = ()
    last_at: int = 0

    def acknowledged(self) -> int:
        """How many calls had returned."""
        return sum(entry.done for entry in self.entries)


def read(path: Path) -> Read:
    """Read a ledger; one that is not there yet is empty. A torn last line was never acknowledged."""
    if not path.exists():
        return Read()
    attempted: dict[str, dict[str, Any]] = {}
    places, last_at = [], 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        told = json.loads(line)
        last_at = told["at"]
        if "place" in told:
            places.append(told["place"])
        elif "kind" in told:
            attempted[told["n"]] = told
        else:
            attempted[told["n"]] |= {
                "done_at": told["at"] if "done" in told else None,
                "answer": told.get("done"),
                "error": told.get("error"),
            }
    entries = tuple(
        Entry(
            kind=told["kind"],
            run=told["run"],
            told=told["told"],
            at=told["at"],
            done_at=told.get("done_at"),
            answer=told.get("answer"),
            error=told.get("error"),
        )
        for told in attempted.values()
    )
    return Read(entries, tuple(places), last_at)

"""Ends that came late are looked at again, however many other runs of the server once died."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import pytest

from harness.faulty_store import Clock, FaultyStore
from tracklayer.ending import DIED, LEFT_OPEN
from tracklayer.exceptions import AccessDenied, StoreUnavailable
from tracklayer.journal.identities import Identities
from tracklayer.journal.late_ends import FEW, LateEnds
from tracklayer.journal.operations import End, Named
from tracklayer.journal.progress import Progress
from tracklayer.outcome import OUTCOME_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.faulty_store import KeptRun
    from tracklayer.store import Run, Store

ENDED = 1_700_000_000_000

OTHERS = 1_500
"""So many runs of the experiment died before, and keep that mark."""


class Server(FaultyStore):
    """A store that counts the runs that it tells of, and lets nobody write to some of them."""

    def __init__(self) -> None:
        super().__init__(1, Clock())
        self.told = 0
        self.denied: set[str] = set()
        self.refusing = False
        for number in range(OTHERS):
            self.make(f"other {number}", {OUTCOME_TAG: DIED}).status = "KILLED"

    def get_run(self, run_id: str) -> Run:
        self.told += 1
        return super().get_run(run_id)

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        deleted: bool = False,
    ) -> list[Run]:
        found = super().search_runs(experiment_ids, filter_string, order_by=order_by, limit=limit, deleted=deleted)
        self.told += len(found)
        return found

    def ping(self) -> str:
        if self.refusing:
            raise AccessDenied("nobody is let in")
        return super().ping()

    def update_run(
        self, run_id: str, *, status: str | None = None, end_time: int | None = None, name: str | None = None
    ) -> None:
        if run_id in self.denied:
            raise AccessDenied("this one is somebody else's")
        super().update_run(run_id, status=status, end_time=end_time, name=name)


def ended(server: Server, marks: Sequence[str]) -> tuple[LateEnds, list[KeptRun]]:
    """Runs whose ends came late, and that somebody has taken meanwhile for such that nobody will end."""
    identities = Identities(cast("Store", server), Progress(None))
    late = LateEnds(cast("Store", server), identities, recovering=True)
    runs = []
    for number, mark in enumerate(marks):
        run = server.make(f"own {number}", {})
        identities.learn(Named(f"local-{number}", run.run_id, "1"))
        late.announcement(run.run_id, End(run.run_id, "FINISHED", ENDED))
        run.tags[OUTCOME_TAG], run.status = mark, "KILLED"
        runs.append(run)
    return late, runs


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 250])
def test_what_was_said_in_place_of_a_real_end_is_taken_back_however_many_runs_died(count: int) -> None:
    server = Server()
    late, runs = ended(server, [(LEFT_OPEN, DIED)[number % 2] for number in range(count)])
    late.confirm()
    assert {(run.status, run.end_time, run.tags.get(OUTCOME_TAG)) for run in runs} == {("FINISHED", ENDED, None)}
    assert late.unconfirmed is None
    assert server.told == count, "no other runs are loaded"


@pytest.mark.parametrize("count", [2, FEW + 2])
def test_an_end_that_nobody_may_put_right_holds_up_no_other(count: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    late, runs = ended(server, [DIED] * count)
    server.denied.add(runs[0].run_id)
    server.refusing = True
    with pytest.raises(AccessDenied):
        late.confirm()
    server.refusing, server.outage = False, 1
    with pytest.raises(StoreUnavailable):
        late.confirm()
    assert late.unconfirmed is not None
    with caplog.at_level(logging.WARNING, "tracklayer"):
        late.confirm()
    assert [run.status for run in runs] == ["KILLED"] + ["FINISHED"] * (count - 1)
    assert runs[0].run_id in caplog.text
    told = server.told
    late.confirm()
    assert server.told == told, "it is not looked at again"


def test_a_run_that_somebody_has_opened_again_meanwhile_goes_on() -> None:
    late, (run,) = ended(server := Server(), [DIED])
    run.tags, run.status = {}, "RUNNING"
    late.confirm()
    assert (server.runs[run.run_id].status, late.unconfirmed) == ("RUNNING", None)

"""For how long the end of a workflow run waits for a parent that somebody else has still to deliver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from tracklayer import RunContext, RunRef, WorkflowRun
from tracklayer.exceptions import StoreUnavailable
from tracklayer.identity import workflow_run_key
from tracklayer.journal import endings
from tracklayer.journal.endings import PERHAPS_WAITED, PROMPT, WAITED, Endings
from tracklayer.journal.identities import Held, Later
from tracklayer.journal.operations import Close
from tracklayer.journal.progress import Progress
from tracklayer.provisional import PENDING, provisional_id
from tracklayer.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

RUN: Final = WorkflowRun(orchestrator="airflow", workflow="w", run_id="r: 1")
KEY: Final = workflow_run_key(RUN)
ENDED: Final = 1_700_000_000_000


class Nobody:
    """The runs of a server that has no parent, or cannot be asked."""

    def __init__(self) -> None:
        self.away = False

    def resolved_ref(self, _: RunRef) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Process:
    """One after the other that delivers the same end, at times that a test names."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *, perhaps: bool) -> None:
        self.server = Nobody()
        self._folder = folder
        self._patch = patch
        parent = RunRef(run_id=provisional_id(KEY), experiment_id=PENDING, key=KEY)
        self._end = Close(RunContext(workflow_run=RUN), "FINISHED", ENDED, parent, observed=True, perhaps=perhaps)

    def close(self, at: int) -> bool:
        """Whether the end is over and done with, for somebody who comes so many milliseconds after it."""
        self._patch.setattr(endings, "milliseconds", lambda _: ENDED + at)
        progress, backend = Progress(self._folder), type("Backend", (), {"store": None})
        ids = cast("Any", self.server)
        try:
            Endings(cast("Any", backend), Settings(), ids, progress, cast("Any", None), recovering=True).close(
                self._end, ENDED
            )
        except (Held, Later):
            return False
        finally:
            progress.close()
        return True


@pytest.mark.parametrize("perhaps", [True, False])
def test_an_end_waits_from_when_the_server_could_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, perhaps: bool
) -> None:
    process, long = Process(tmp_path, monkeypatch, perhaps=perhaps), PERHAPS_WAITED if perhaps else WAITED
    process.server.away = True
    with pytest.raises(StoreUnavailable):
        process.close(3_600_000)
    process.server.away = False
    back = 2 * WAITED
    assert not process.close(back)
    assert not process.close(back + long - 1_000)
    assert process.close(back + long + 1_000)


def test_what_may_never_come_is_not_waited_for_where_nothing_was_the_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Process(tmp_path, monkeypatch, perhaps=True).close(PROMPT - 1)
    assert not Process(tmp_path, monkeypatch, perhaps=True).close(PROMPT + 1)
    assert not Process(tmp_path, monkeypatch, perhaps=False).close(1)

"""What the doctor finds in the journals: what is left to deliver, what is damaged, what the server refused."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracklayer.cli.finding import Finding
from tracklayer.redaction import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracklayer.journal.inspection import JournalInfo
    from tracklayer.settings import Settings

SECTION: Final = "Journal"

SHOWN: Final = 5
"""So many refused values are told of each journal; its file has them all."""


def undelivered(settings: Settings) -> Iterator[Finding]:
    """Look at the journals of this machine.

    Args:
        settings: where they are.
    """
    from tracklayer.journal.folder import OFF, JournalFolder

    if settings.journal == OFF:
        yield Finding(
            section=SECTION,
            name="folder",
            text="what is logged is held in memory only, and lost if the process is killed (journal = off)",
        )
    folders = JournalFolder.every(settings)
    for folder in folders:
        yield Finding(section=SECTION, name="folder", text=str(folder.path))
    infos = [info for folder in folders for info in folder.journals()]
    yield from _left([info for info in infos if info.state == "left"])
    for info in infos:
        if not info.sound:
            yield Finding(
                section=SECTION,
                name="damaged",
                text=f"{info.name}: a part of it cannot be read",
                level="warning",
                advice=f"tracklayer journal verify {info.name}",
            )
        if info.refused:
            yield from _refused(info)
    if not any(info.state == "left" or info.refused or not info.sound for info in infos):
        yield Finding(section=SECTION, name="delivered", text="everything, or a process is at it", level="ok")


def _left(infos: Sequence[JournalInfo]) -> Iterator[Finding]:
    by_server = itertools.groupby(sorted(infos, key=_server), key=_server)
    for server, group in by_server:
        found = list(group)
        oldest = min((info.oldest for info in found if info.oldest is not None), default=None)
        since = (
            "" if oldest is None else f", the oldest of {datetime.fromtimestamp(oldest / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        )
        operations = sum(info.left for info in found)
        yield Finding(
            section=SECTION,
            name="left",
            text=f"{len(found)} journals with {operations} operations for {server}{since}",
            level="warning",
            advice="tracklayer flush delivers them; so does the next tracked process on this machine",
        )


def _server(info: JournalInfo) -> str:
    return info.header.tracking_uri if info.header else "an unknown server"


def _refused(info: JournalInfo) -> Iterator[Finding]:
    from tracklayer.journal.refusals import NAME, refusals

    for refusal in itertools.islice(refusals(info.path), SHOWN):
        what = " ".join(part for part in (refusal.kind, refusal.key) if part)
        yield Finding(
            section=SECTION,
            name="refused",
            text=mask_text(f"{what} of run {refusal.run}: {refusal.reason}"),
            level="warning",
            advice=f"the values are in {info.path / NAME}; log what is still wanted in a way that MLflow takes, and "
            "remove the folder",
        )
    if info.refused > SHOWN:
        yield Finding(
            section=SECTION,
            name="refused",
            text=f"and {info.refused - SHOWN} more values in {info.name}",
            level="warning",
            advice=f"they are in {info.path / NAME}",
        )

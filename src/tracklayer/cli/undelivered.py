"""What the doctor finds in the journals: what is left to deliver, what is damaged, what the server refused."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tracklayer.cli.finding import Finding
from tracklayer.exceptions import StoreError
from tracklayer.redaction import mask_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracklayer.journal.folder import JournalFolder
    from tracklayer.journal.inspection import JournalInfo
    from tracklayer.settings import Settings

SECTION: Final = "Journal"

SHOWN: Final = 5
"""So many refused values are told of each journal; its file has them all."""


def undelivered(settings: Settings) -> Iterator[Finding]:
    """Look at the journals of this machine, and at where new ones go.

    Args:
        settings: where they are.
    """
    from tracklayer.journal.folder import JournalFolder

    yield from _places(settings)
    folders = JournalFolder.every(settings)
    for folder in folders:
        yield from _folder(folder)
    infos = [info for folder in folders for info in folder.journals()]
    left = [info for info in infos if info.state in {"left", "damaged"}]
    yield from _left([info for info in left if _can_be_delivered(info)])
    for info in left:
        if not _can_be_delivered(info):
            yield _strange(info)
    for info in infos:
        if not info.sound:
            yield _warning(
                "damaged",
                f"{info.name}: a part of it cannot be read",
                f"tracklayer journal verify {info.path}",
            )
        if info.refused:
            yield from _refused(info)
    if not (left or any(info.refused or not info.sound for info in infos) or any(each.trouble for each in folders)):
        yield Finding(section=SECTION, name="delivered", text="everything, or a process is at it", level="ok")


def _warning(name: str, text: str, advice: str) -> Finding:
    return Finding(section=SECTION, name=name, text=text, level="warning", advice=advice)


def _places(settings: Settings) -> Iterator[Finding]:
    """Whether what is logged can be written, and carried away, where the settings say."""
    from tracklayer.journal.folder import OFF, obstacle

    if settings.journal == OFF:
        yield Finding(
            section=SECTION,
            name="folder",
            text="what is logged is held in memory only, and lost if the process is killed (journal = off)",
        )
    if why := obstacle(settings):
        yield Finding(
            section=SECTION,
            name="folder",
            text=f"what is logged cannot be kept there: {why}",
            level="problem" if settings.journal else "warning",  # elsewhere may do, where nobody has named one
            advice="make room, or let the user of the pipelines write there, or set TRACKLAYER_JOURNAL to another folder; "
            "until then it is kept in the folder for temporary files, or in memory",
        )
    if settings.carry:
        from tracklayer.journal.carrying import shelf

        try:
            shelf(settings.carry)
        except StoreError as error:
            yield Finding(
                section=SECTION,
                name="carry",
                text=f"what is left cannot be carried away: {mask_text(str(error))}",
                level="problem",
                advice="install what the message names where the pipelines run, or correct the setting carry",
            )


def _folder(folder: JournalFolder) -> Iterator[Finding]:
    yield Finding(section=SECTION, name="folder", text=str(folder.path))
    if folder.trouble:
        yield _warning(
            "folder",
            folder.trouble,
            "run this as the user whose journals are there, the one that runs the pipelines",
        )
    if others := folder.others():
        yield _warning(
            "others",
            f"{_count(others, 'journal')} of other users, which are passed over",
            "run this, and tracklayer flush, as those users, too",
        )


def _can_be_delivered(info: JournalInfo) -> bool:
    from tracklayer.journal.folder import FORMAT

    return info.header is not None and info.header.format <= FORMAT


def _strange(info: JournalInfo) -> Finding:
    if info.header is None:
        text, advice = (
            "it does not say for which server it is",
            f"tracklayer journal verify {info.path} says what is wrong",
        )
    else:
        text, advice = "a later version of tracklayer wrote it", "upgrade tracklayer here, then: tracklayer flush"
    return _warning(
        "left",
        f"{info.name} cannot be delivered: {text}",
        advice,
    )


def _left(infos: Sequence[JournalInfo]) -> Iterator[Finding]:
    by_server = itertools.groupby(sorted(infos, key=_server), key=_server)
    for server, group in by_server:
        found = list(group)
        oldest = min((info.oldest for info in found if info.oldest is not None), default=None)
        since = (
            "" if oldest is None else f", the oldest of {datetime.fromtimestamp(oldest / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        )
        operations = _count(sum(info.left for info in found), "operation")
        yield _warning(
            "left",
            f"{_count(len(found), 'journal')} with {operations} for {server}{since}",
            "tracklayer flush delivers them; so does the next tracked process on this machine",
        )


def _server(info: JournalInfo) -> str:
    return info.header.tracking_uri if info.header else "an unknown server"


def _refused(info: JournalInfo) -> Iterator[Finding]:
    from tracklayer.journal.refusals import NAME, refusals

    for refusal in itertools.islice(refusals(info.path), SHOWN):
        what = " ".join(part for part in (refusal.kind, refusal.key) if part)
        yield _warning(
            "refused",
            mask_text(f"{what} of run {refusal.run}: {refusal.reason}"),
            f"the values are in {info.path / NAME}, copies of artifacts beside it in files; log what is still "
            "wanted in a way that MLflow takes, and remove the folder",
        )
    if info.refused > SHOWN:
        yield _warning(
            "refused",
            f"and {_count(info.refused - SHOWN, 'more value')} in {info.name}",
            f"they are in {info.path / NAME}",
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

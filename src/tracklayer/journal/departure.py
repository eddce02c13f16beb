"""What becomes of what a process has not delivered when it ends: it stays on the disk, is carried away, or is lost.

It is lost if it is nowhere but in memory and can be neither written nor carried. Then somebody is told how much that is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tracklayer.journal.folder import name_for

if TYPE_CHECKING:
    from tracklayer.journal.live import LiveJournal

log = logging.getLogger("tracklayer")


def depart(journal: LiveJournal, url: str | None) -> bool:
    """Take what is left of a journal to a folder, what is in memory only among it. One warning says what cannot be kept.

    Args:
        journal: what is left of it is written to the disk first, as far as that can be done.
        url: the folder, any that fsspec knows; None if it is to stay where it is.

    Returns:
        Whether it is in that folder.
    """
    journal.save()
    failed = _carried(journal, url) if url is not None else None
    if failed is None and url is not None:
        return True
    journal.save()  # carrying may have taken a while
    with journal.unwritten() as unwritten:
        operations, size = unwritten.operations, unwritten.size
    if operations:
        log.warning(
            "tracking: %d operations (%d bytes) are lost with this process: they are not delivered, and cannot be written to a "
            "disk (%s)%s%s",
            operations,
            size,
            journal.trouble or "the journal has no folder",
            f"; they could not be carried away: {failed}" if failed is not None else "",
            f"; everything else stays in {journal.path}" if journal.path is not None else "",
        )
    elif failed is not None:
        log.warning("tracking: what was not delivered stays in %s: %s", journal.path, failed)
    return False


def close(journal: LiveJournal, url: str | None, *, complete: bool, end: int) -> None:
    """See to what is left at the end, and, where the disk goes away, to what was refused; then close the journal.

    Args:
        journal: the journal.
        url: the folder to which what is left is carried; None if it is to stay where it is.
        complete: whether all of it is delivered.
        end: the position up to which that is so.
    """
    gone = False
    if not complete or (url is not None and journal.progress.refused):
        gone = depart(journal, url)
    # What was refused is in the copy, too. If it stayed here, it would go by the name of the whole.
    journal.close(remove=complete or gone, end=end, keep_refused=not gone)


def _carried(journal: LiveJournal, url: str) -> Exception | None:
    """Carry it; what was in the way, if it could not be."""
    try:
        from tracklayer.journal.carrying import carry, contents

        with journal.unwritten() as unwritten:
            path = journal.path
            written = {} if path is None else contents(path)
            name = path.name if path is not None else name_for(journal.header)
            carried = carry(name, {**written, **unwritten.contents}, url)
    except Exception as error:
        return error
    log.info("what was not delivered is carried to %s", carried)
    return None

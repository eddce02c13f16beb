"""What of a journal is nowhere but in memory, as the files that a folder would have for it.

It ends with the process, unless it is delivered or written before, or carried away from here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tracklayer.journal.files import FOLDER
from tracklayer.journal.record import frames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from tracklayer.journal.chain import Chain
    from tracklayer.journal.files import Files
    from tracklayer.journal.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwritten:
    """It is as it was at one moment, whatever is delivered or written since.

    Attributes:
        contents: by the names of the files, what is in them or where that can be read.
        operations: how many of them would be missed: they are not delivered, or behind one that is not.
        size: bytes that these take, with their copies of artifacts.
    """

    contents: Mapping[str, bytes | Path]
    operations: int
    size: int

    @classmethod
    def of(cls, chain: Chain, files: Files, progress: Progress, opened: ExitStack) -> Unwritten:
        """See what there is; whoever calls holds the journal's lock.

        Args:
            chain: the segments.
            files: the copies of artifacts.
            progress: how far it is delivered.
            opened: closes what is opened for it: delivery may let go of a copy while it is being read.
        """
        delivered = progress.delivered
        contents: dict[str, bytes | Path] = {}
        operations = size = 0
        for segment in chain.memory:
            contents[segment.name] = data = segment.content()
            behind_header = islice(frames(data, segment.start), 1, None)
            operations += sum(frame.next > delivered for frame in behind_header)
            size += max(0, segment.end - max(segment.start, delivered))
        for copy in files.undelivered(delivered):
            descriptor = os.dup(copy.descriptor)
            opened.callback(os.close, descriptor)
            contents[f"{FOLDER}/{copy.name}"] = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
            # Of what is on the disk without its copy, only that copy would be missed.
            operations += not any(segment.start < copy.end <= segment.end for segment in chain.memory)
            size += copy.size
        return cls(contents={**contents, **progress.unwritten()}, operations=operations, size=size)

"""What a journal says about itself at its head: whose it is, and what whoever delivers it needs to know."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final

import msgspec

from tracklayer.journal.folder import FORMAT
from tracklayer.journal.operations import Header

if TYPE_CHECKING:
    from tracklayer.settings import Settings

CARRIED_SETTINGS: Final = (
    "experiment",
    "run_name",
    "parent_name",
    "team",
    "project",
    "version",
    "instance",
    "describe_upstream",
    "attempts",
    "redact",
)
"""The settings that whoever delivers a journal for somebody else needs."""


def heading(tracking_uri: str, settings: Settings) -> Header:
    """The header of a journal that this process begins now, for the back end with this URI (without credentials)."""
    told = msgspec.to_builtins({name: getattr(settings, name) for name in CARRIED_SETTINGS})
    return Header(
        format=FORMAT,
        tracking_uri=tracking_uri,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=time.time_ns() // 1_000_000,
        settings=told,
    )

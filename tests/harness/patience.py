"""Settings of tests that are about something else than a server that is away: a busy machine is none."""

from __future__ import annotations

from typing import Any, Final

from tracklayer.settings import Settings

PATIENCE: Final = 20.0
"""Seconds for which such a test waits for a server that does not answer; `isolated` says the same to settings that are loaded."""

TIMEOUT: Final = 30.0
"""Seconds that one answer may take."""

LINGER: Final = 60.0
"""Seconds that the end of a stage may take while the server takes what is sent."""


def patient(uri: str, **more: Any) -> Settings:
    """Settings that a test makes itself, which know no environment, with patience for a machine that does other things.

    Where nothing is wrong they wait no longer than the defaults do, with which a pause of a second is an outage: runs get
    provisional ids, and what waits for delivery gives up.

    Args:
        uri: the tracking URI.
        more: other settings, by the names of `Settings`' fields; these three, too.
    """
    return Settings(**{"patience": PATIENCE, "timeout": TIMEOUT, "linger": LINGER, **more, "tracking_uri": uri})

"""A part of an observed task that comes after a deferral or a new schedule: was a run left open by the one before?"""

from __future__ import annotations

import socket
import time

from tracklayer.settings import Settings
from tracklayer_airflow import observing


def test_nobody_waits_long_to_learn_whether_a_run_was_left_open() -> None:
    """A task that was rescheduled asks for its run at its end, and a server may take the question and not answer."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        settings = Settings(tracking_uri=f"http://127.0.0.1:{frozen.getsockname()[1]}", timeout=60)
        began = time.monotonic()
        assert not observing._is_there("mlflow.tracklayer.key.0", settings)
        assert time.monotonic() - began < 30, "the store's own time-out is 60 s"

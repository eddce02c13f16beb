"""A process that counts the lines of tracklayer's code that it runs, and kills itself before one of them."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.ledger import Ledger

if TYPE_CHECKING:
    from harness.plan import Plan


def trace(plan: Plan) -> None:
    """Count the lines of tracklayer's code that are run, in all threads; die before the one that the plan names."""
    import tracklayer

    home = str(Path(tracklayer.__file__).parent)
    count = 0

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == plan.trace:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def begun(frame: Any, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(home) else None

    ledger = Ledger(plan.ledger)
    if plan.trace < 0:
        atexit.register(lambda: ledger.reached(f"lines {count}"))
    sys.settrace(begun)
    threading.settrace(begun)

"""A trigger that ends its task, as it is asked to. The triggerer imports it; it knows nothing of tracking."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.triggers.base import TriggerEvent

EVENTS = {"success": TaskSuccessEvent, "failed": TaskFailedEvent, "skipped": TaskSkippedEvent}


class EndingTrigger(BaseTrigger):
    """Ends its task after some seconds, in the state `ends`; whether it says so beforehand is `end_from_trigger`."""

    def __init__(self, ends: str, seconds: float, *, end_from_trigger: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.ends = ends
        self.seconds = seconds
        self.end_from_trigger = end_from_trigger

    def serialize(self) -> tuple[str, dict[str, Any]]:
        told = {"ends": self.ends, "seconds": self.seconds, "end_from_trigger": self.end_from_trigger}
        return "ending_trigger.EndingTrigger", told

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(self.seconds)
        yield EVENTS[self.ends]()  # KeyError for another one: the trigger itself fails, and a worker hears of it

"""What a user declared about a flow or task: plain values that travel with it to wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """How a flow or task is tracked.

    Attributes:
        name: module and qualified name of the user's function: tells whose function is being called.
        is_flow: True for a flow, False for a task.
        stage: the stage of a task, None to let others decide.
        experiment: template of a flow's experiment, None for the setting.
        run_name: the run's name, None to let others decide.
        tags: names and values of tags.
    """

    name: str
    is_flow: bool = False
    stage: str | None = None
    experiment: str | None = None
    run_name: str | None = None
    tags: tuple[tuple[str, str], ...] = ()

    def as_flow(self) -> Tracked:
        """The same for a flow."""
        return replace(self, is_flow=True)

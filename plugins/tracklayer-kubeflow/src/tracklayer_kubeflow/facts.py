"""What is known about a pipeline and its tasks when it is compiled, and what a task wants to know of it as it runs."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class PipelineFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a pipeline's definition says of it.

    Attributes:
        name: the pipeline's name.
        description: its documentation, None if it has none.
        source: the file that defines it, None if unknown.
    """

    name: str
    description: str | None = None
    source: str | None = None


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a pipeline's definition says of one of its tasks.

    Attributes:
        task: the task's name, after those of the nested pipelines around it (``features.join``).
        loop: True if it runs once for each item of a loop.
        tries: how often it is tried at most.
        optional: True if it may not run at all (in a loop or a condition, or after one that may not run).
        ends: True if no task that certainly runs comes after it: it may be the last one.
        one_end: True if one and the same task run is the last one of every run of the pipeline: until that has ended,
            the pipeline run goes on.
        after: tasks whose output it uses: the run of the same iteration, or (outside of loops) all their runs.
        before_loop: those of them that run once, where this task runs in a loop.
    """

    task: str
    loop: bool = False
    tries: int = 1
    optional: bool = False
    ends: bool = False
    one_end: bool = False
    after: tuple[str, ...] = ()
    before_loop: tuple[str, ...] = ()


def to_text(facts: msgspec.Struct) -> str:
    """The facts as one line of JSON."""
    return msgspec.json.encode(facts).decode()


def pipeline_facts(text: str | None) -> PipelineFacts | None:
    """Read `PipelineFacts`; None for none and for what cannot be read: facts only ever make a story better."""
    return _read(text, PipelineFacts)


def task_facts(text: str | None) -> TaskFacts | None:
    """Read `TaskFacts`; None for none and for what cannot be read."""
    return _read(text, TaskFacts)


def tags(text: str | None) -> dict[str, str]:
    """Read tags; empty for none and for what cannot be read."""
    return _read(text, dict[str, str]) or {}


def _read(text: str | None, kind: type[T]) -> T | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return None

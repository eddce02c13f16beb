"""An operation of a journal, as it is shown: on a line for people, and as plain values for programs."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from tracklayer.lineage.label import printable

if TYPE_CHECKING:
    from tracklayer.journal.record import Record

_WIDTH: Final = 2_000
"""Characters of one operation that are shown at most; JSON has all of it."""


def line(record: Record, *, delivered: bool) -> Text:
    """An operation on one line, for people, without anything that steers the terminal.

    Args:
        record: what was read.
        delivered: whether it is delivered; it is shown dimmed then.
    """
    told = plain(record, delivered=delivered)
    for name in ("position", "next", "at", "delivered"):
        del told[name]
    operation = told.pop("operation")
    if isinstance(told.get("opening"), dict):
        told |= _opened(told.pop("opening"))
    if isinstance(told.get("context"), dict):
        told["context"] = _place(told["context"])
    about = [str(told.pop(name)) for name in ("run", "id", "model", "owner") if isinstance(told.get(name), str)]
    if operation == "log":
        told["points"] = [f"{point['key']}={point['value']} @{point['step']}" for point in told["points"]]
    parts = (f"{name}: {_short(value)}" for name, value in _said(told).items())
    return Text.assemble(
        (f"{record.position:>10} ", "dim"),
        (f"{moment(record.at)} ", "dim"),
        (f"{operation} ", "dim" if delivered else "bold"),
        (f"{printable(about[0], 60)} " if about else "", "cyan"),
        printable(" | ".join(parts), _WIDTH) if told else "",
    )


def _opened(opening: dict[str, Any]) -> dict[str, Any]:
    """What people want to know of a run that is about to be created; JSON has the rest."""
    names = ("name", "key", "experiment", "tags", "params", "note")
    parent, upstream = opening.get("parent"), opening.get("upstream") or ()
    return {
        **{name: opening.get(name) for name in names},
        "parent": parent.get("key") if isinstance(parent, dict) else None,
        "upstream": [item["run"]["run_id"] for item in upstream],
    }


def _place(context: dict[str, Any]) -> str:
    workflow_run, task_run = context["workflow_run"], context.get("task_run") or {}
    parts = (workflow_run["orchestrator"], workflow_run["workflow"], workflow_run["run_id"], task_run.get("task"))
    return " / ".join(part for part in parts if part)


def _said(value: Any) -> Any:
    """The same without what says nothing: None, False, and what is empty."""
    if isinstance(value, dict):
        return {key: said for key, item in value.items() if (said := _said(item)) not in (None, "", [], {}, False)}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _short(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False)


def plain(record: Record, *, delivered: bool) -> dict[str, Any]:
    """An operation as plain values, by the names of its fields; numbers that JSON does not know are text."""
    operation = record.operation
    told: dict[str, Any] = {
        "position": record.position,
        "next": record.next,
        "at": record.at,
        "delivered": delivered,
        "operation": operation.__struct_config__.tag,
    }
    for name in operation.__struct_fields__:
        told[name] = _builtin(getattr(operation, name))
    return told


def _builtin(value: Any) -> Any:
    import msgspec

    if isinstance(value, msgspec.Struct):
        return {name: _builtin(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple | list):
        return [_builtin(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _builtin(item) for key, item in value.items()}
    return msgspec.to_builtins(value, enc_hook=dict)


def is_about(record: Record, identifier: str) -> bool:
    """Whether it is about the run or model whose id, the server's or the local one, begins like this."""
    operation = record.operation
    names = ("run", "id", "run_id", "model", "model_id", "owner")
    return any(str(getattr(operation, name, "")).startswith(identifier) for name in names)


def moment(milliseconds: int | None) -> str:
    """A time, in the local time zone; None is never."""
    if milliseconds is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))

"""The arguments of a tracked function as params: plain values only, secrets masked as in Airflow's own logs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

ITEMS: Final = 100
"""A list or dictionary with more items than this is data, not a setting: it is left out."""

_SCALARS: Final = (str, int, float, bool, date, datetime, time, timedelta, Decimal, Enum, PurePath, UUID)


def arguments(operator: Any, parsed: Any) -> dict[str, object]:
    """What the function of this operator is called with, defaults included, what Airflow injects left out.

    What another task has returned is data rather than a setting: of that only scalars are taken (a path, a run id).

    Args:
        operator: the operator after its templates were rendered.
        parsed: the same operator as it stands in the DAG, perhaps mapped: where its arguments come from.

    Returns:
        Empty for an operator that calls no Python function.
    """
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

    function = getattr(operator, "python_callable", None)
    if function is None:
        return {}
    given = _bound(function, operator.op_args, operator.op_kwargs, defaults=True)
    partial = getattr(parsed, "partial_kwargs", None)
    if partial is None:
        partial = {"op_args": parsed.op_args, "op_kwargs": parsed.op_kwargs}
    sources = _bound(function, partial.get("op_args"), partial.get("op_kwargs"), defaults=False)
    returned = {name for name, source in sources.items() if _is_returned(source)}
    return {
        name: value
        for name, value in given.items()
        if name not in KNOWN_CONTEXT_KEYS
        and value not in ((), {})
        and (value is None or isinstance(value, _SCALARS) if name in returned else plain(value))
    }


def _bound(function: Any, args: Any, kwargs: Any, *, defaults: bool) -> dict[str, Any]:
    """Arguments by the names of the function's parameters."""
    try:
        bound = inspect.signature(function).bind_partial(*(args or ()), **(kwargs or {}))
    except (TypeError, ValueError):  # no signature to be had, or arguments that it does not take
        return dict(kwargs or {})
    if defaults:
        bound.apply_defaults()
    return dict(bound.arguments)


def _is_returned(value: object) -> bool:
    """Whether a value, as it stands in the DAG, is or holds the result of a task."""
    from airflow.sdk import XComArg

    return next(iter(XComArg.iter_xcom_references(value)), None) is not None


def plain(value: object) -> bool:
    """Whether a value is a setting that can be read in a param: a scalar, or few of them.

    >>> plain({"lr": 0.1, "layers": [64, 32]}), plain(object()), plain(list(range(1000)))
    (True, False, False)
    """
    if value is None or isinstance(value, _SCALARS):
        return True
    if isinstance(value, Mapping):
        return len(value) <= ITEMS and all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return len(value) <= ITEMS and all(plain(item) for item in value)
    return False


def masked(params: Mapping[str, object]) -> dict[str, object]:
    """The params with every secret masked that Airflow knows: values from connections and variables, and by name."""
    try:
        from airflow.sdk._shared.secrets_masker import redact
    except ImportError:  # Airflow 3.1
        from airflow.sdk.execution_time.secrets_masker import redact  # type: ignore[no-redef]  # its old home
    return {name: redact(value, name) for name, value in params.items()}

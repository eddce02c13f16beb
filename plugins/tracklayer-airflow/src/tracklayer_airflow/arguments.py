"""The arguments of a tracked function as params: plain values only, secrets masked as in Airflow's own logs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from tracklayer.interruption import let_through

log = logging.getLogger("tracklayer")

ITEMS: Final = 100
"""A list or dictionary with more items than this is data, not a setting: it is left out."""

ALL_ITEMS: Final = 1_000
"""The same for lists of lists: with all that is in them."""

TEXT: Final = 100_000
"""Text with more characters than this is data, too."""

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
    given = _bound(function, getattr(operator, "op_args", None), getattr(operator, "op_kwargs", None), defaults=True)
    partial = getattr(parsed, "partial_kwargs", None)
    if partial is None:
        partial = {"op_args": getattr(parsed, "op_args", None), "op_kwargs": getattr(parsed, "op_kwargs", None)}
    sources = _bound(function, partial.get("op_args"), partial.get("op_kwargs"), defaults=False)
    return {
        name: value
        for name, value in given.items()
        if name not in KNOWN_CONTEXT_KEYS and _is_setting(name, value, sources.get(name))
    }


def _is_setting(name: str, value: object, source: object) -> bool:
    """Whether the argument becomes a param; never raises, whatever the value's own methods do.

    Args:
        name: its name.
        value: the argument.
        source: what stands for it in the DAG.
    """
    try:
        if type(value) in {tuple, dict} and not value:  # no more arguments were given (*args, **kwargs)
            return False
        # Only then: walking through what stands in the DAG asks every value of what kind it is.
        return plain(value) and (_is_scalar(value) or not _is_returned(source))
    except Exception as error:
        let_through(error)
        log.warning("tracking: the argument %s is not among the run's params: %s", name, type(error).__name__)
        return False


def _bound(function: Any, args: Any, kwargs: Any, *, defaults: bool) -> dict[str, Any]:
    """Arguments by the names of the function's parameters."""
    # Nothing is taken apart that would have to be asked for (a mapped task's results), or that can be gone through but once.
    positional = args if isinstance(args, (list, tuple)) else ()
    named: dict[str, Any] = {}
    try:
        named = dict(kwargs) if isinstance(kwargs, Mapping) else {}
        bound = inspect.signature(function).bind_partial(*positional, **named)
        if defaults:
            bound.apply_defaults()
        return dict(bound.arguments)
    except Exception as error:  # no signature to be had, or arguments that it does not take
        let_through(error)
        return {str(name): value for name, value in named.items()}


def _is_returned(value: object) -> bool:
    """Whether a value, as it stands in the DAG, is or holds the result of a task."""
    from airflow.sdk import XComArg

    return next(iter(XComArg.iter_xcom_references(value)), None) is not None


def _is_scalar(value: object) -> bool:
    return value is None or (isinstance(value, _SCALARS) and not (isinstance(value, str) and str.__len__(value) > TEXT))


def plain(value: object) -> bool:
    """Whether a value is a setting that can be read in a param: a scalar, or few of them.

    >>> plain({"lr": 0.1, "layers": [64, 32]}), plain(object()), plain(list(range(1000)))
    (True, False, False)
    """
    return _count(value, ALL_ITEMS) is not None


def _count(value: object, most: int) -> int | None:
    """How many scalars there are in a value; None if it holds anything else, or more than `most`."""
    if _is_scalar(value):
        return 1
    if isinstance(value, dict):
        inside: Any = dict.values(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = value
    elif isinstance(value, Mapping) and len(value) <= ITEMS:
        return _count(dict(value), most)
    else:
        return None
    if len(inside) > ITEMS or (isinstance(value, dict) and not all(isinstance(key, str) for key in dict.keys(value))):
        return None
    found = 1
    for item in inside:
        more = _count(item, most - found)
        if more is None or (found := found + more) > most:
            return None
    return found


def masked(params: Mapping[str, object]) -> dict[str, object]:
    """The params with every secret masked that Airflow knows: values from connections and variables, and by name."""
    try:
        from airflow.sdk._shared.secrets_masker import redact
    except ImportError:  # Airflow 3.1
        from airflow.sdk.execution_time.secrets_masker import redact  # type: ignore[no-redef]  # its old home
    found: dict[str, object] = {}
    for name, value in params.items():
        try:
            found[name] = redact(value, name)
        except Exception as error:
            let_through(error)
            log.warning("tracking: %s is not among the run's params: %s", name, type(error).__name__)
    return found

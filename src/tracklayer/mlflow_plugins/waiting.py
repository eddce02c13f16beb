# mypy: disable-error-code="no-untyped-call"
"""How long a call inside a stage waits for a tracking server that is away: a second or so, not MLflow's four minutes.

MLflow's REST client repeats a request that got no answer for four minutes, and for twenty where packets vanish. Inside
a stage it tries once, with short time-outs; what it then raises is what it would have raised in the end. A server that
is there and asks to come again (429, 503) is asked again for some seconds; one that is there and slow is waited for as
MLflow would.

The time-outs are arguments of ``http_request`` in ``mlflow.utils.rest_utils``, which MLflow's stores do not pass on.
Where that function is not found as it is known, calls wait as long as in plain MLflow.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


T = TypeVar("T")

_LIMITS: ContextVar[tuple[float, float] | None] = ContextVar("tracklayer_time_outs", default=None)

PLACES: Final = ("mlflow.utils.rest_utils", "mlflow.store.tracking.rest_store")
PAUSES: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds between the tries where the server asks to come again."""

BUSY: Final = "error responses"
"""In the message of what MLflow raises if every try was answered with 429, 500, 502, 503 or 504."""

SLOW: Final = "Read timed out"
"""In the message of what MLflow raises if the server took the request and did not answer in time."""


def install() -> None:
    """Make MLflow's requests heed `short_waits`, once. Nothing is imported for that."""
    for place in PLACES:
        module = sys.modules.get(place)
        stock = getattr(module, "http_request", None)
        if stock is None or hasattr(stock, "tracklayer") or not _takes_limits(stock):
            continue
        setattr(module, "http_request", _heeding(stock))  # noqa: B010 - a module's attribute, of which mypy knows


def _takes_limits(stock: Any) -> bool:
    return {"timeout", "max_retries"} <= set(inspect.signature(stock).parameters)


def _heeding(stock: Any) -> Any:
    @functools.wraps(stock)
    def http_request(*arguments: Any, **keywords: Any) -> Any:
        limits = _LIMITS.get()
        if limits is not None and keywords.get("timeout") is None and keywords.get("max_retries") is None:
            keywords.update(timeout=limits, max_retries=0)
        return stock(*arguments, **keywords)

    http_request.tracklayer = True  # type: ignore[attr-defined]  # so that it is not wrapped twice
    return http_request


@contextmanager
def short_waits(connect: float, answer: float) -> Iterator[None]:
    """In the block, requests of MLflow's REST stores are tried once.

    Args:
        connect: seconds for a connection.
        answer: seconds for each part of an answer.
    """
    token = _LIMITS.set((connect, answer))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def slowest() -> float:
    """Seconds for which MLflow itself waits for the answer to one request."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT

    return float(MLFLOW_HTTP_REQUEST_TIMEOUT.get())


def shortly(action: Callable[[], T], *, connect: float, answer: float, there: Callable[[], bool]) -> T:
    """Do something that needs the server, without waiting long for one that is away.

    Args:
        action: calls a stock store, and may be repeated; after no answer only if `there`.
        connect: seconds for a connection.
        answer: seconds for an answer.
        there: whether the server answers a small request; asked if this one took longer than `answer`.

    Raises:
        MlflowException: what MLflow raises where there is no answer.
    """
    for pause in (*PAUSES, None):
        try:
            with short_waits(connect, answer):
                return action()
        except MlflowException as error:
            told = str(error)
            if SLOW in told and there():
                break  # it works on it
            if BUSY not in told or pause is None:
                raise
            time.sleep(pause)
    return action()

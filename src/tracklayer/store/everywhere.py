"""Searching the runs of all experiments, which MLflow has no request for: it wants to be told the id of each.

Asking for all of them takes a second at three thousand experiments, and every task would pay for it. MLflow's own
databases count ids up, and skip those in a search that do not exist, are deleted, or may not be seen; so the newest
id says enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IDS: Final = 30_000
"""Most ids in one search: SQLite takes 32,766 values in a statement, PostgreSQL 65,535."""

COUNTED: Final = 300_000
"""A newest id above this was not counted up (Databricks and folders have ids of many digits)."""

MARGIN: Final = 100
"""How far the highest id may be above that of the newest experiment, where several are made at once."""


def ids_up_to(newest: str) -> list[str] | None:
    """Every id that an experiment may have, the newest first; None if ids of this kind are not counted up.

    Args:
        newest: id of the experiment that was created last.

    >>> ids_up_to("1")[-3:]
    ['2', '1', '0']
    >>> ids_up_to("839254116071936021") is None
    True
    """
    if not newest.isdecimal() or int(newest) > COUNTED:
        return None
    return [str(number) for number in range(int(newest) + MARGIN, -1, -1)]


def portions(ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids in as many portions as searches take them."""
    for begin in range(0, len(ids), IDS):
        yield list(ids[begin : begin + IDS])

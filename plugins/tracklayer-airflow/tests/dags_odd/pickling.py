"""Operators that pickle themselves, in a module of their own: `dag.test()` reads that of a DAG once more, which makes its classes anew."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

from airflow.sdk import BaseOperator


class Mapping(BaseOperator):
    """Has processes do its work, of which each gets a copy of it."""

    def double(self, number: int) -> int:
        return 2 * number

    def execute(self, context: Any) -> list[int]:
        with ProcessPoolExecutor(1) as pool:
            return list(pool.map(self.double, [1, 2]))


def choose() -> list[str]:
    return ["called"]


def note(context: Any) -> None:
    """Is called at the end."""

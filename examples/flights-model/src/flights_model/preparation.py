"""From the raw tables to a training and a test set.

Only what is known an hour before the scheduled departure becomes a feature. The target is `TARGET`: did the flight
arrive more than 15 minutes late? Cancelled and diverted flights have no arrival delay and are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from flights_model.dataset import Dataset, write_dataset
from flights_model.sources import Sources, read_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET: Final = "late"
LATE_AFTER: Final = 15
"""Minutes of arrival delay from which a flight counts as late; the threshold of the field's statistics."""

CATEGORIES: Final[Sequence[str]] = ("carrier", "origin", "dest")
# Not the month, nor temperature, dew point and pressure, which stand in for it: the test set lies in months that the
# model has not seen, and does better without them.
WEATHER: Final[Sequence[str]] = ("humid", "wind_dir", "wind_speed", "wind_gust", "precip", "visib")
FEATURES: Final[Sequence[str]] = (
    *CATEGORIES, "weekday", "departure", "arrival", "scheduled_minutes", "distance", "flights_in_hour",
    "recent_delay", "plane_age", "seats", *WEATHER,
)  # fmt: skip
TEST_FROM: Final = "2013-11-01"

_HOUR = pd.Timedelta(hours=1)
_DELAY_SEEN: Final = 60
"""Minutes: what is known one hour on of a flight that should have left: how late it left, or "an hour and more"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the preparation made: plain data, ready for JSON (`dataclasses.asdict`).

    Attributes:
        train: the training set.
        test: the test set, which lies after it in time.
        rows_read: flights read.
        rows_dropped: flights without an arrival delay (cancelled or diverted), in neither set.
        late_share: share of late flights in the training set, 0 to 1.
        test_from: first day of the test set, ISO date.
        sample: the sample that was asked for, None for all flights.
    """

    train: Dataset
    test: Dataset
    rows_read: int
    rows_dropped: int
    late_share: float
    test_from: str
    sample: int | None

    def params(self) -> dict[str, object]:
        """What was chosen, for ``log_params``."""
        return {
            "late_after_minutes": LATE_AFTER,
            "test_from": self.test_from,
            "flights": "all" if self.sample is None else f"about {self.sample}",
            "features": len(FEATURES),
        }

    def metrics(self) -> dict[str, float]:
        """What was counted, for ``log_metrics``."""
        return {
            "rows_read": float(self.rows_read),
            "rows_dropped": float(self.rows_dropped),
            "rows_train": float(self.train.rows),
            "rows_test": float(self.test.rows),
            "late_share": self.late_share,
        }


def prepare(directory: str | Path, *, sample: int | None = None, test_from: str = TEST_FROM) -> Prepared:
    """Read, join, make features, split, and write ``train.parquet`` and ``test.parquet``.

    Args:
        directory: where the files go; it is made if need be.
        sample: about how many flights to use; None uses all 336,776.
        test_from: first day of the test set, ISO date; everything before it is for training.

    Raises:
        ValueError: one of the two sets would be empty.
    """
    sources = read_sources(sample)
    frame = add_features(join(sources))
    train, test = split(frame, test_from)
    folder = Path(directory)
    return Prepared(
        train=write_dataset(train, "flights-train", folder / "train.parquet"),
        test=write_dataset(test, "flights-test", folder / "test.parquet"),
        rows_read=len(sources.flights),
        rows_dropped=len(sources.flights) - len(frame),
        late_share=float(train[TARGET].mean()),
        test_from=test_from,
        sample=sample,
    )


def join(sources: Sources) -> pd.DataFrame:
    """Put the weather of the hour before and the aircraft beside each flight.

    Returns:
        The flights in the order of their scheduled departure, with the columns of the weather, ``plane_year`` and
        ``seats``, and ``time_hour`` as a time stamp in UTC.
    """
    flights = sources.flights.assign(time_hour=pd.to_datetime(sources.flights["time_hour"], utc=True))
    # The weather that is known when the prediction is made: that of the hour before the scheduled one.
    weather = sources.weather.assign(time_hour=pd.to_datetime(sources.weather["time_hour"], utc=True) + _HOUR)
    planes = sources.planes.rename(columns={"year": "plane_year"})
    joined = flights.merge(
        weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left", validate="many_to_one"
    )
    joined = joined.merge(planes[["tailnum", "plane_year", "seats"]], on="tailnum", how="left", validate="many_to_one")
    return joined.sort_values(["time_hour", "minute", "carrier", "flight", "origin"], ignore_index=True)


def add_features(joined: pd.DataFrame) -> pd.DataFrame:
    """Make the features and the target; flights without an arrival delay are dropped after they were counted.

    Returns:
        The columns of `FEATURES`, `TARGET`, and ``time_hour``.
    """
    day = pd.to_datetime(joined[["year", "month", "day"]])
    departure = _minutes(joined["sched_dep_time"])
    arrival = _minutes(joined["sched_arr_time"])
    hourly = joined.assign(seen=joined["dep_delay"].clip(upper=_DELAY_SEEN)).groupby(["origin", "time_hour"])
    by_hour = hourly.agg(flights_in_hour=("flight", "size"), recent_delay=("seen", "mean")).reset_index()
    recent = by_hour[["origin", "time_hour", "recent_delay"]].assign(time_hour=by_hour["time_hour"] + 2 * _HOUR)
    frame = joined.assign(
        weekday=day.dt.day_of_week,
        departure=departure,
        arrival=arrival,
        scheduled_minutes=(arrival - departure) % (24 * 60),
        plane_age=joined["year"] - joined["plane_year"],
        late=(joined["arr_delay"] > LATE_AFTER).astype("int64"),
    )
    frame = frame.merge(by_hour[["origin", "time_hour", "flights_in_hour"]], on=["origin", "time_hour"], how="left")
    frame = frame.merge(recent, on=["origin", "time_hour"], how="left")
    frame = frame[frame["arr_delay"].notna()].reset_index(drop=True)
    numbers = [name for name in FEATURES if name not in CATEGORIES]
    frame[numbers] = frame[numbers].astype("float64")  # one type: whole numbers with gaps become floats anyway
    return frame[["time_hour", *FEATURES, TARGET]]


def split(frame: pd.DataFrame, test_from: str = TEST_FROM) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide by time: what comes before the day `test_from` (New York's midnight) is for training.

    Raises:
        ValueError: one of the two would be empty.
    """
    first = pd.Timestamp(test_from, tz="America/New_York")
    is_test = frame["time_hour"] >= first
    train, test = frame[~is_test].reset_index(drop=True), frame[is_test].reset_index(drop=True)
    if train.empty or test.empty:
        raise ValueError(f"no flights on one side of {test_from}: {len(train)} to train with, {len(test)} to test with")
    return train, test


def _minutes(clock: pd.Series) -> pd.Series:
    """Minutes since midnight of a time that is written as a number (``1745``)."""
    return clock // 100 * 60 + clock % 100

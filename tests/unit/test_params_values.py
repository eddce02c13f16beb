"""How a param's value is written, whatever kind it is of; and that none, whatever it does, costs the others."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import re
import threading
import uuid
from collections import OrderedDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.params import Color, encoded, shown

UNHURRIED = settings(deadline=None)  # machines that run tests may be busy

# ---------------------------------------------------------------------------------------------------------------------
# Kinds of values
# ---------------------------------------------------------------------------------------------------------------------


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


class Text(str):
    """A string of a class of its own, as configuration libraries make them."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Tensor:
    """What tensors of every library have in common."""

    dtype = "tensor.float32"

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows[0])

    def tolist(self) -> list[list[float]]:
        return self.rows


def function() -> None: ...


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        ("", ""),
        ("ünï 飛行 👩‍🚀", "ünï 飛行 👩‍🚀"),
        (Text("own"), "own"),
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (0.1, "0.1"),
        (1e-05, "1e-05"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "-0.0"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (1 + 2j, "(1+2j)"),
        (10**30, "1" + "0" * 30),
        (Color.RED, "red"),
        (Color.BOTH, "BOTH"),
        (Level.HIGH, "3"),
        (Mode.FAST, "fast"),
        (b"\x00\xff", "b'\\x00\\xff'"),
        (bytearray(b"a"), "b'a'"),
        (memoryview(b"a"), "b'a'"),
        (Path("/data/x.csv"), "/data/x.csv"),
        (PureWindowsPath("C:\\x"), "C:\\x"),
        (PurePosixPath("a/b"), "a/b"),
        (datetime(2026, 11, 21, 8, 30, tzinfo=UTC), "2026-11-21T08:30:00+00:00"),
        (date(2026, 11, 21), "2026-11-21"),
        (time(8, 30), "08:30:00"),
        (timedelta(days=1, seconds=5), "1 day, 0:00:05"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (range(0, 10, 2), "range(0, 10, 2)"),
        (re.compile("a+"), "re.compile('a+')"),
        (int, "builtins.int"),
        (OrderedDict, "collections.OrderedDict"),
        (len, "builtins.len"),
        (function, f"{function.__module__}.function"),
        (Ellipsis, "Ellipsis"),
        ([], "[]"),
        ({}, "{}"),
        ((), "[]"),
        (set(), "[]"),
        ([1, "a", None, True, 0.1], '[1, "a", null, true, 0.1]'),
        ((1, 2), "[1, 2]"),
        ({3, 1, 2}, "[1, 2, 3]"),
        (frozenset({"b", "a"}), '["a", "b"]'),
        (deque([1, 2]), "[1, 2]"),
        ([[1, 2], [3, 4]], "[[1, 2], [3, 4]]"),
        ([Color.RED, Path("a"), Decimal(1)], '["red", "a", "1"]'),
        (["ü"], '["ü"]'),
        (np.float64(0.1), "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.longdouble("0.1"), "0.1"),
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        (np.str_("a"), "a"),
        (np.datetime64("2026-11-21T08:30:00.000000001"), "2026-11-21T08:30:00.000000001"),
        (np.complex64(1 + 2j), "(1+2j)"),
        (np.array([1, 2]), "[1, 2]"),
        (np.array([[0.1, 0.5]], dtype=np.float32), "[[0.1, 0.5]]"),
        (np.array(["a", "b"]), '["a", "b"]'),
        (np.array(5), "5"),
        (np.array(["2026-11-21"], dtype="datetime64[ns]"), '["2026-11-21T00:00:00.000000000"]'),
        (np.array([True, None], dtype=object), "[true, null]"),
        (np.zeros((200, 100)), "ndarray(shape=(200, 100), dtype=float64)"),
        (np.dtype("float32"), "dtype('float32')"),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), "DataFrame(shape=(2, 2))"),
        (pd.Series([1.5, 2.5], name="a"), "Series(shape=(2,), dtype=float64)"),
        (pa.table({"a": [1, 2]}), "Table(shape=(2, 1))"),
        (Tensor([[1.5], [2.5]]), "[[1.5], [2.5]]"),
        (pd.Timestamp("2026-11-21"), "2026-11-21T00:00:00"),
        (pd.NaT, "NaT"),
        (pd.NA, "<NA>"),
    ],
)
def test_how_a_value_is_written(value: object, text: str) -> None:
    assert shown(value) == text


@UNHURRIED
@given(st.floats())
def test_floats_come_back_as_they_were(value: float) -> None:
    back = float(shown(value))
    assert back == value or (math.isnan(back) and math.isnan(value))
    assert math.copysign(1, back) == math.copysign(1, value) or math.isnan(value)
    listed = json.loads(shown([value]))[0]
    assert listed == value or (math.isnan(listed) and math.isnan(value))


@UNHURRIED
@given(st.floats(width=32))
def test_narrow_floats_come_back_as_they_were(value: float) -> None:
    back = np.float32(shown(np.float32(value)))
    assert back == np.float32(value) or (np.isnan(back) and math.isnan(value))


def test_an_unknown_object_is_its_repr_without_its_address() -> None:
    class Model:
        pass

    class Trainer:
        def __repr__(self) -> str:
            return "Trainer(depth=3)"

    assert shown(Trainer()) == "Trainer(depth=3)"
    assert shown(Model()) == shown(Model())
    assert re.search("0x[0-9a-f]{4}", shown(Model())) is None
    assert "0x" not in shown(functools.partial(Model().__init__))  # type: ignore[misc]


def test_more_digits_than_python_writes_out_are_written_in_hexadecimal() -> None:
    assert int(shown(10**5000), 16) == 10**5000
    assert int(json.loads(shown([10**5000]))[0], 16) == 10**5000


# ---------------------------------------------------------------------------------------------------------------------
# Nothing raises
# ---------------------------------------------------------------------------------------------------------------------


class Hostile:
    """Raises whatever is asked."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return type(self)
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise ValueError("no equality")

    def __hash__(self) -> int:
        return 1


class HostileMapping(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        if key == "good":
            return 1
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["good", "bad"])

    def __len__(self) -> int:
        return 2


class Endless(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        raise AssertionError(key)

    def __iter__(self) -> Iterator[str]:
        raise OSError("the connection is gone")

    def __len__(self) -> int:
        raise OSError("the connection is gone")


class HostileClass:
    def _no_class(self) -> Any:
        raise RuntimeError("no class")

    __class__ = property(_no_class)


class NotText:
    def __repr__(self) -> Any:
        return 5


class HostileShape:
    shape = property(lambda self: 1 / 0)
    dtype = "float"


class HostileList(list[object]):
    def __iter__(self) -> Iterator[object]:
        raise ValueError("no iteration")


@dataclasses.dataclass
class Halfway:
    a: int
    b: int

    def __init__(self) -> None:
        self.a = 1


class StructHalfway(msgspec.Struct):
    a: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return type(self)
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "value",
    [
        Hostile(),
        HostileMapping(),
        Endless(),
        NotText(),
        HostileShape(),
        HostileList([1]),
        Halfway(),
        StructHalfway(),
        [Hostile()],
        {"in": Hostile()},
        {Hostile(): 1},
        (x for x in [1]),
        open,
        threading.Lock(),
        object(),
        type("", (), {})(),
        namedtuple("Empty", [])(),  # noqa: PYI024 - one without types
        np.array([NotText()], dtype=object),
        pd.Categorical(["a"]),
        pd.Interval(0, 1),
        pd.MultiIndex.from_tuples([("a", 1)]),
        NotImplemented,
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_value_does_it_is_logged_beside_the_others(value: object) -> None:
    result = encoded({"before": 1, "x": value, "after": 2}).params
    assert (result["before"], result["after"]) == ("1", "2")
    assert len(result) >= 3
    assert all(isinstance(text, str) for text in result.values())


def test_a_value_without_a_class_is_logged_beside_the_others() -> None:
    result = encoded({"x": HostileClass(), "y": [HostileClass()], "after": 2}).params
    assert result["after"] == "2"
    assert result["x"] == "<HostileClass that cannot be read: RuntimeError>"


def test_a_part_that_cannot_be_read_does_not_take_the_others_with_it() -> None:
    assert encoded({"m": HostileMapping()}).params == {
        "m.good": "1",
        "m.bad": "<HostileMapping that cannot be read: KeyError>",
    }
    assert encoded({"m": Halfway()}).params == {"m.a": "1", "m.b": "<Halfway that cannot be read: AttributeError>"}
    assert shown(Hostile()) == "<Hostile that cannot be read: ValueError>"


def test_a_generator_is_not_used_up() -> None:
    numbers = (x for x in [1, 2])
    encoded({"x": numbers})
    assert list(numbers) == [1, 2]


def test_interruptions_are_not_swallowed() -> None:
    class Interrupting:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded({"x": Interrupting()})

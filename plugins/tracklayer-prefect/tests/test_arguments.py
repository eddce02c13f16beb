from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from tracklayer_prefect.arguments import told


class Colour(Enum):
    RED = "r"


@dataclass
class Settings:
    lr: float
    deep: dict[str, int]


class Model(BaseModel):
    depth: int
    key: SecretStr


class Table:
    shape = (1000, 12)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (0.1, 0.1),
        ("adam", "adam"),
        (Path("/data"), Path("/data")),
        (date(2026, 11, 21), date(2026, 11, 21)),
        (Colour.RED, "RED"),
        ([1, "b"], [1, "b"]),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        (list(range(1000)), "list of 1000 items"),
        ("x" * 20_000, "str of 20000 characters"),
        (b"12345", "bytes of 5 bytes"),
        (Table(), "Table(1000, 12)"),
        (object(), "object"),
        (Settings(0.1, {"a": 1}), {"lr": 0.1, "deep": {"a": 1}}),
    ],
)
def test_plain_values_are_told_and_data_is_summarized(value: object, shown: object) -> None:
    assert told({"value": value}) == {"value": shown}


def test_a_secret_keeps_its_type_so_that_core_masks_it() -> None:
    shown = told({"model": Model(depth=3, key=SecretStr("hunter2"))})["model"]
    assert isinstance(shown, dict)
    assert shown["depth"] == 3
    assert isinstance(shown["key"], SecretStr)


def test_the_token_is_no_param() -> None:
    assert told({"tracklayer_token": "tl1.abc", "n": 1}) == {"n": 1}


def test_a_table_is_told_by_its_shape() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"a": range(5), "b": range(5)})
    assert told({"frame": frame, "column": frame["a"]}) == {"frame": "DataFrame(5, 2)", "column": "Series(5)"}


def test_what_refers_to_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "items" in str(told({"loop": loop}))


def test_much_of_little_is_not_told_whole() -> None:
    grid = {f"row{row}": {f"column{column}": [0.5] * 40 for column in range(40)} for row in range(40)}
    shown = str(told({"grid": grid}))
    assert len(shown) < 10_000
    assert "dict of 40 items" in shown

"""Params: flat, valid for MLflow, and nothing lost, whatever is logged."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
import threading
import types
import uuid
from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.configurations import configurations, leaves, read_back
from tracklayer.params import FOLDER, KEY_LIMIT, VALUE_LIMIT, EncodedParams, encode, flatten, valid_key
from tracklayer.redaction import Redaction

UNHURRIED = settings(deadline=None)  # machines that run tests may be busy


def encoded(params: Mapping[str, object], *patterns: str) -> EncodedParams:
    return encode(params, redact=Redaction(patterns))


def shown(value: object) -> str:
    """The text of one value."""
    (text,) = encoded({"x": value}).params.values()
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of values
# ---------------------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"
    BOTH = ("red", "blue")


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
# Structures
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    lr: float = 0.1
    steps: tuple[int, ...] = (1, 2)


class Point(NamedTuple):
    x: int
    y: int


@attrs.define
class Attrs:
    lr: float = 0.1
    inner: Optimizer = attrs.field(factory=Optimizer)


class Struct(msgspec.Struct):
    lr: float = 0.1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    lr: float = pydantic.Field(0.1, alias="learning_rate")
    optimizer: Optimizer = Optimizer()
    cache: str = pydantic.Field("bulky", exclude=True)
    key: pydantic.SecretStr = pydantic.SecretStr("hunter2")


class Root(pydantic.RootModel[dict[str, int]]):
    pass


NESTED = {"optimizer.name": "adam", "optimizer.lr": 0.1, "optimizer.steps": [1, 2]}


@pytest.mark.parametrize(
    ("params", "flat"),
    [
        ({"a": {"b": {"c": 1}}, "d": 2}, {"a.b.c": 1, "d": 2}),
        ({"optimizer": Optimizer()}, NESTED),
        ({"p": Point(1, 2)}, {"p.x": 1, "p.y": 2}),
        ({"a": Attrs()}, {"a.lr": 0.1} | {f"a.inner.{key[10:]}": value for key, value in NESTED.items()}),
        ({"s": Struct()}, {"s.lr": 0.1}),
        (
            {"m": Model.model_validate({"more": 5})},
            {"m.lr": 0.1} | {f"m.{key}": value for key, value in NESTED.items()} | {"m.key": "***", "m.more": 5},
        ),
        ({"r": Root({"a": 1})}, {"r.a": 1}),
        ({"n": types.SimpleNamespace(a=1, b=argparse.Namespace(c=2))}, {"n.a": 1, "n.b.c": 2}),
        ({"m": MappingProxyType({"a": 1}), "u": UserDict({"b": 2})}, {"m.a": 1, "u.b": 2}),
        (
            {"steps": [{"name": "scale"}, {"name": "fit", "lr": 1}]},
            {"steps.0.name": "scale", "steps.1.name": "fit", "steps.1.lr": 1},
        ),
        ({"l": [1, {"a": 2}, []]}, {"l.0": 1, "l.1.a": 2, "l.2": []}),
        ({"l": [Optimizer(steps=())]}, {"l.0.name": "adam", "l.0.lr": 0.1, "l.0.steps": []}),
        ({"a": {}, "b": [{}], "c": [[], {}]}, {"a": "{}", "b.0": "{}", "c.0": [], "c.1": "{}"}),
        (
            {1: {True: "x", None: "y", Color.RED: "z", 2.5: "w"}},
            {"1.True": "x", "1.None": "y", "1.red": "z", "1.2.5": "w"},
        ),
        ({}, {}),
    ],
)
def test_structures_are_opened(params: dict[str, object], flat: dict[str, object]) -> None:
    assert flatten(params) == flat


def test_objects_of_orchestrators_are_not_opened() -> None:
    class DAG(pydantic.BaseModel):
        dag_id: str = "flights"

    DAG.__module__ = "airflow.sdk.definitions.dag"
    assert flatten({"dag": DAG()}) == {"dag": "DAG(dag_id='flights')"}


def test_a_dict_that_another_thread_changes_is_read_whole() -> None:
    config = {f"p{number}": number for number in range(2_000)}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            config["x"] = 1
            del config["x"]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            assert flatten({"c": config}).items() >= {f"c.p{number}": number for number in range(2_000)}.items()
    finally:
        stop.set()
        thread.join()


def test_a_prefix_stands_before_every_name() -> None:
    assert flatten({"a": {"b": 1}}, "model") == {"model.a.b": 1}
    assert flatten({}, "model") == {}


def test_the_order_is_kept() -> None:
    assert list(flatten({"z": 1, "a": {"y": 1, "b": 2}, "m": 3})) == ["z", "a.y", "a.b", "m"]


def test_two_values_never_share_a_name() -> None:
    flat = flatten({"a": {"b": 2, "b.c": 4}, "a.b": 1, "a.b.c": 3})
    assert flat["a.b"] == 1
    assert flat["a.b.c"] == 3
    assert sorted(map(str, flat.values())) == ["1", "2", "3", "4"]
    other_order = flatten({"a.b.c": 3, "a.b": 1, "a": {"b.c": 4, "b": 2}})
    assert flat == other_order


def test_keys_that_only_look_alike_are_kept_apart() -> None:
    params: dict[Any, object] = {1: "number", "1": "text", None: "none", "None": "word", Color.RED: "a", "red": "b"}
    flat = flatten(params)
    assert (flat["1"], flat["None"], flat["red"]) == ("text", "word", "b")
    assert sorted(map(str, flat.values())) == ["a", "b", "none", "number", "text", "word"]


def test_cycles_end() -> None:
    config: dict[str, object] = {"a": {"x": 1}}
    config["a"]["self"] = config["a"]  # type: ignore[index]
    config["top"] = config
    endless: list[object] = [1]
    endless.append(endless)
    config["endless"] = endless
    flat = flatten(config)
    assert flat["a.x"] == 1
    assert flat["a.self"] == "<cycle to a>"
    assert flat["top"] == "<cycle to the top>"
    assert "<cycle to endless>" in flat.values()


def test_what_is_shared_is_no_cycle() -> None:
    shared = {"x": 1}
    assert flatten({"a": shared, "b": shared, "c": [shared, shared]}) == {"a.x": 1, "b.x": 1, "c.0.x": 1, "c.1.x": 1}


def test_depth_is_no_limit() -> None:
    deep: dict[str, object] = {"end": 1}
    for _ in range(5_000):
        deep = {"a": deep}
    (name,) = flatten(deep)
    assert name.count("a.") == 5_000
    (valid,) = encoded(deep).params
    assert len(valid) <= KEY_LIMIT
    nested: list[object] = [1]
    for _ in range(5_000):
        nested = [nested]
    assert len(flatten({"l": nested})) == 1


def test_a_graph_that_multiplies_ends() -> None:
    bomb: list[object] = [{"x": 1}] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    flat = flatten({"bomb": bomb, "after": 1})
    assert flat["after"] == 1
    assert any(str(value).startswith("<list of 10, left out: more than") for value in flat.values())
    flat_bomb: list[object] = [1] * 10
    for _ in range(12):
        flat_bomb = [flat_bomb] * 10
    assert flatten({"bomb": flat_bomb, "after": 1})["after"] == 1


def test_many_params_are_all_there() -> None:
    assert len(encoded({f"p{i}": i for i in range(20_000)}).params) == 20_000


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


# ---------------------------------------------------------------------------------------------------------------------
# Valid for MLflow, and nothing lost
# ---------------------------------------------------------------------------------------------------------------------


def test_a_long_value_goes_whole_to_an_artifact_and_the_param_says_where() -> None:
    value = "select " + "é" * 7_000
    result = encoded({"model": {"query": value}, "short": 1})
    (path,) = result.artifacts
    assert result.artifacts[path].decode() == value
    text = result.params["model.query"]
    digest = hashlib.sha256(value.encode()).hexdigest()
    assert text == f"{value[:500]}… [7007 characters, sha256 {digest}, whole in {path}]"
    assert path == f"{FOLDER}/model_query-{digest[:12]}.txt"
    assert result.params["short"] == "1"


def test_a_value_of_just_the_limit_stays() -> None:
    result = encoded({"x": "a" * VALUE_LIMIT})
    assert result.params == {"x": "a" * VALUE_LIMIT}
    assert result.artifacts == {}


def test_the_same_long_value_is_the_same_param_whatever_is_logged_beside_it() -> None:
    first = encoded({"x": "a" * 7_000})
    again = encoded({"x": "a" * 7_000, "y": "b" * 7_000})
    assert first.params["x"] == again.params["x"]
    assert set(first.artifacts) < set(again.artifacts)
    assert encoded({"x": "a" * 6_999 + "b"}).params["x"] != first.params["x"]


def test_long_lists_go_whole_to_an_artifact() -> None:
    features = [f"feature_{number}" for number in range(5_000)]
    result = encoded({"features": features})
    (content,) = result.artifacts.values()
    assert json.loads(content) == features


@pytest.mark.parametrize(("value", "text"), [("a\x00b", "a\\u0000b"), ("a\ud800b", "a\\ud800b")])
def test_what_no_database_stores_is_shown_escaped_and_kept(value: str, text: str) -> None:
    result = encoded({"x": value})
    ((path, content),) = result.artifacts.items()
    assert result.params["x"].startswith(f"{text} [3 characters, sha256 ")
    assert (json.loads(content) if path.endswith(".json") else content.decode()) == value


@pytest.mark.parametrize(
    "key", ["lr", "model.lr", "a/b", "a b", "a:b", "ünï", "a-b_c", ".a", "a..b", "飛行", "x" * 250]
)
def test_a_name_that_mlflow_takes_stays_as_it_is(key: str) -> None:
    assert valid_key(key) == key
    assert encoded({key: 1}).params == {key: "1"}


@pytest.mark.parametrize(
    "key",
    [
        *("", ".", "..", "../a", "a/../b", "/a", "a/", "a//b", "./a", "a/./b", "..a", "a%", "a\n", "a\tb", "a=b"),
        *("x" * 251, "a\x00", "\ud800", "a\\b", "👩‍🚀", "//a", "...", "a/..", "(", "a@b"),
    ],
)
def test_a_name_that_mlflow_refuses_is_mapped_and_the_original_kept(key: str) -> None:
    result = encoded({key: 1, "other": 2})
    (name,) = set(result.params) - {"other"}
    assert is_valid_for_mlflow(name)
    assert result.params[name] == "1"
    ((path, content),) = result.artifacts.items()
    assert path.startswith(f"{FOLDER}/names-")
    assert json.loads(content) == {name: {"key": key, "path": [key]}}


def test_names_that_would_be_mapped_to_the_same_one_are_kept_apart() -> None:
    keys = ["a%", "a&", "a_", "x" * 251, "x" * 252, "", ".", "..", "/"]
    result = encoded(dict.fromkeys(keys, 1))
    assert len(result.params) == len(keys)
    assert "a_" in result.params
    taken = valid_key("a%")
    assert encoded({"a%": 1, taken: 2}).params[taken] in {"1", "2"}
    assert len(encoded({"a%": 1, taken: 2}).params) == 2


def is_valid_for_mlflow(name: str) -> bool:
    """What mlflow.utils.validation asks of a name, and PostgreSQL too (a test on a real server is in integration)."""
    import posixpath

    if not re.fullmatch(r"[/\w.\- :]{1,250}", name):
        return False
    normal = posixpath.normpath(name)
    return normal == name and normal != "." and not normal.startswith(("..", "/"))


@given(configurations())
@settings(UNHURRIED, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example({"a": {"b": 1}, "a.b": 2})
@example({"": {"": 1}, ".": 2})
@example({"x": ".", "y": {"": ""}, "a": {}})
def test_every_param_is_valid_and_can_be_read_back(params: dict[str, object]) -> None:
    result = encoded(params)
    for name, text in result.params.items():
        assert is_valid_for_mlflow(name)
        assert len(text) <= VALUE_LIMIT
        assert "\x00" not in text
        text.encode("utf-8")
    assert all(re.fullmatch(r"tracklayer/params/[A-Za-z0-9_.-]{1,120}", path) for path in result.artifacts)
    assert read_back(result.params, result.artifacts, result.artifacts.__getitem__) == leaves(params, Redaction())
    assert encoded(params) == result


# ---------------------------------------------------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------------------------------------------------


def test_secrets_are_masked_before_anything_else() -> None:
    long_secret = "hunter2" * 2_000
    result = encoded(
        {
            "db": {"password": "hunter2", "url": "postgres://me:hunter2@host/db"},
            "api_key": long_secret,
            "key": pydantic.SecretStr("hunter2"),
            "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "fast"}],
            "args": ["--password", "hunter2", "--lr", "0.1"],
            "text": "x" * 7_000 + " password=hunter2",
            "postgres://me:hunter2@host": 1,
            "pin": "hunter2",
        },
        "pin",
    )
    everything = repr(result.params) + repr(result.artifacts)
    assert "hunter2" not in everything
    assert result.params["db.url"] == "postgres://me:***@host/db"
    assert result.params["api_key"] == "***"
    assert result.params["env.0.value"] == "***"
    assert result.params["env.1.value"] == "fast"
    assert json.loads(result.params["args"]) == ["--password", "***", "--lr", "0.1"]


def test_flatten_alone_never_shows_a_value_of_a_secret_type() -> None:
    assert flatten({"a": pydantic.SecretStr("hunter2"), "b": [pydantic.SecretBytes(b"x")]}) == {
        "a": "***",
        "b": ["***"],
    }

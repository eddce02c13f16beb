"""Params that are structures become flat: in order, each under a name of its own, whatever is nested in what."""

from __future__ import annotations

import argparse
import dataclasses
import threading
import types
from collections import UserDict
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest

from harness.params import Color, encoded
from tracklayer.params import KEY_LIMIT, flatten


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

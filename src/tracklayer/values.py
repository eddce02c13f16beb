"""Any Python value as plain data and as text, without ever raising and without importing what it comes from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any, Final

from tracklayer.interruption import let_through
from tracklayer.redaction import MASK, is_secret

Plain = str | int | float | bool | list[Any] | None
"""What a leaf becomes: a scalar, or a list of scalars and such lists."""

ARRAY_LIMIT: Final = 10_000
"""An array with more elements than this is data, not a parameter: its shape and type are kept, not its elements."""

SEQUENCE_LIMIT: Final = 1_000_000
"""A list or set with more elements than this is described, not written out."""

ELEMENT_LIMIT: Final = 3_000_000
"""Most elements of lists, all together, that one call writes out."""

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_FRAMES = frozenset({"cudf", "geopandas", "modin", "pandas", "polars", "pyarrow", "xarray"})
# Their str() says it all, and they are recognised without being imported.
_SPOKEN = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "uuid", "zoneinfo"})
# Their objects (a DAG, a task instance, a flow run) are no configuration, whatever they are made with.
_SYSTEMS = frozenset({"airflow", "kfp", "mlflow", "prefect"})
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Budget:
    """How many elements of lists may still be looked at; so that a graph that multiplies does not run for ever."""

    __slots__ = ("left",)

    def __init__(self, left: int = ELEMENT_LIMIT) -> None:
        self.left = left

    def spend(self, count: int) -> bool:
        """Take `count` off; False if that is more than there was."""
        self.left -= count + 1
        return self.left >= 0


def plain(value: object) -> Plain:
    """A leaf as plain data: scalars as they are, text for everything that JSON does not know. Never raises.

    Enum members become their value where that is a scalar (else their name), dates ISO 8601, paths and decimals
    their text, numpy scalars the Python number of the same shortest text, small arrays lists, data frames and big
    arrays their shape, secrets ``***``, and objects that nothing is known about their `repr` without the memory
    address. Lists of scalars stay lists; whatever else holds values is only described: `tracklayer.params.flatten`
    opens it first.
    """
    if type(value) in _SCALARS and not (type(value) is int and value.bit_length() > 2000):
        return value  # type: ignore[return-value]
    try:
        return _plain(_unwrapped(value))
    except Exception as error:  # whatever a value's own methods raise is not the user's problem now
        let_through(error)
        return unreadable(value, error)


def text(value: object) -> str:
    """A leaf as the text of a param: what MLflow's own ``log_param`` writes, but lists as JSON. Never raises.

    >>> text(0.1), text(None), text([1, "a", None]), text("as it is")
    ('0.1', 'None', '[1, "a", null]', 'as it is')
    """
    known = plain(value)
    if isinstance(known, str):
        return known
    return json.dumps(known, ensure_ascii=False) if isinstance(known, list) else repr(known)


def unreadable(value: object, error: BaseException) -> str:
    """What stands for a value that cannot be read."""
    return f"<{type(value).__name__} that cannot be read: {type(error).__name__}>"


def members(value: object) -> list[tuple[object, object]] | None:
    """The named parts of a structured value, in order; None for a value that has none. Never raises.

    Structured are mappings, dataclasses, named tuples, pydantic models (without the fields that are marked
    ``exclude=True``), attrs classes, msgspec structs and namespaces, but no objects of orchestrators or of MLflow. A
    part that cannot be read is text that says so.
    """
    if type(value) in _SCALARS or type(value) is list:
        return None
    try:
        value = _unwrapped(value)
        return None if isinstance(value, type) or is_secret(value) else _members(value)
    except Exception as error:  # then it is a leaf, and `plain` says what it can
        let_through(error)
        return None


def items(value: object) -> list[object] | None:
    """The elements of a list, tuple, set or other sequence, sets in a stable order; None for anything else."""
    if type(value) in _SCALARS:
        return None
    try:
        if type(value) is list:  # most are
            return None if len(value) > SEQUENCE_LIMIT else value[:]
        value = _unwrapped(value)
        if isinstance(value, (str, bytes, bytearray, memoryview, range)) or is_secret(value):
            return None
        # Airflow's sequences of mapped results ask its API server for each element.
        if not isinstance(value, (Sequence, AbstractSet)) or _package(value) == "airflow":
            return None
        if len(value) > SEQUENCE_LIMIT:
            return None
        elements = list(value)
        if isinstance(value, AbstractSet):
            elements.sort(key=lambda element: (type(element).__name__, text(element)))
    except Exception as error:  # then it is a leaf, and `plain` says what it can
        let_through(error)
        return None
    return elements


def flat_list(value: object, budget: Budget | None = None) -> list[Plain] | None:
    """A list (tuple, set, …) of scalars, or of lists of them down to a matrix of matrices, as plain data.

    Args:
        value: anything.
        budget: what may still be looked at, shared by several calls; None for one of its own.

    Returns:
        None if `value` is no list, holds structured values, nests deeper, or has more elements than the budget.
    """
    return _flat_list(value, 3, budget or Budget())


def _flat_list(value: object, depth: int, budget: Budget) -> list[Plain] | None:
    elements = items(value)
    if elements is None or not budget.spend(len(elements)):
        return None
    result: list[Plain] = []
    for element in elements:
        if type(element) in _SCALARS:
            result.append(plain(element))
        elif members(element) is not None:
            return None
        elif items(element) is None:
            result.append(plain(element))
        else:
            inner = _flat_list(element, depth - 1, budget) if depth else None
            if inner is None:
                return None
            result.append(inner)
    return result


def _package(value: object) -> str:
    return str(type(value).__module__).partition(".")[0]


def _unwrapped(value: object) -> object:
    """What a pydantic root model holds; any other value itself."""
    while getattr(type(value), "__pydantic_root_model__", False):
        value = value.root  # type: ignore[attr-defined]
    return value


def _plain(value: object) -> Plain:  # noqa: C901, PLR0912 - one branch for each kind of value
    if is_secret(value):
        return MASK
    if isinstance(value, Enum):
        inner = value.value
        return plain(inner) if isinstance(inner, (str, int, float, bytes)) else value.name
    if isinstance(value, int):
        number = int.__int__(value)
        try:
            str(number)
        except ValueError:  # Python refuses to write out very many digits
            return hex(number)
        return number
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return repr(bytes(value))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, MethodType)):
        return f"{value.__module__}.{value.__qualname__}"
    kind = type(value)
    if any(base.__module__.partition(".")[0] in _SPOKEN for base in kind.__mro__) or hasattr(kind, "__fspath__"):
        return str(value)
    if hasattr(kind, "shape") and (hasattr(kind, "dtype") or _package(value) in _FRAMES):
        return _array(value)
    if isinstance(value, Mapping) and not value:
        return "{}"
    if isinstance(value, (Mapping, Sequence, AbstractSet)) and not isinstance(value, range):
        known = flat_list(value)
        return f"<{kind.__name__} of {len(value)}>" if known is None else known
    return _ADDRESS.sub("", repr(value))


def _array(value: Any) -> Plain:
    """Arrays, tensors, data frames and numpy's scalars: anything with a shape."""
    kind, shape = type(value).__name__, tuple(value.shape)
    dtype = getattr(value, "dtype", None)
    if _package(value) in _FRAMES or not hasattr(value, "tolist") or math.prod(shape) > ARRAY_LIMIT:
        return f"{kind}(shape={shape}{'' if dtype is None else f', dtype={dtype}'})"
    family, size = getattr(dtype, "kind", ""), getattr(dtype, "itemsize", 8)
    if family in {"m", "M"} or (family == "f" and size > 8):  # Python has nothing as precise
        return _each(value.astype("U").tolist(), str)
    if family == "f" and size < 8:  # its own shortest text is shorter than that of the Python float it becomes
        return _each(value.astype("U").tolist(), float)
    return _each(value.tolist(), plain)


def _each(elements: Any, convert: Callable[[Any], Plain]) -> Plain:
    return [_each(element, convert) for element in elements] if isinstance(elements, list) else convert(elements)


def _members(value: Any) -> list[tuple[object, object]] | None:
    kind = type(value)
    if kind is dict:  # copied in one step, whatever other threads do to it
        return list(value.items())
    if isinstance(value, Mapping):
        return [(key, _part(value, key, Mapping)) for key in list(value)]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return list(zip(kind._fields, value, strict=False))
    if _package(value) in _SYSTEMS:
        return None
    if is_dataclass(kind):
        return [(field.name, _part(value, field.name)) for field in fields(kind)]
    if any(base.__name__ == "BaseModel" and base.__module__.partition(".")[0] == "pydantic" for base in kind.__mro__):
        return _pydantic_members(value)
    if hasattr(kind, "__attrs_attrs__"):
        return [(attribute.name, _part(value, attribute.name)) for attribute in kind.__attrs_attrs__]
    if hasattr(kind, "__struct_fields__"):
        return [(name, _part(value, name)) for name in kind.__struct_fields__]
    if isinstance(value, SimpleNamespace) or (kind.__module__, kind.__name__) == ("argparse", "Namespace"):
        return list(vars(value).items())
    return None


def _pydantic_members(value: Any) -> list[tuple[object, object]]:
    kind = type(value)
    # model_fields: pydantic 2; __fields__: pydantic 1, whose field objects hold the mark one level down.
    known = kind.model_fields if hasattr(kind, "model_fields") else kind.__fields__
    shown = [
        name
        for name, field in known.items()
        if getattr(field, "exclude", None) is not True
        and getattr(getattr(field, "field_info", None), "exclude", None) is not True
    ]
    extra = getattr(value, "__pydantic_extra__", None) or {}
    return [(name, _part(value, name)) for name in shown] + list(extra.items())


def _part(value: Any, name: Any, kind: type | None = None) -> object:
    """One member: by key of a mapping (`kind`), else by attribute; text where it cannot be read."""
    try:
        return value[name] if kind is Mapping else getattr(value, name)
    except Exception as error:  # an unset field, a configuration value that cannot be interpolated
        let_through(error)
        return unreadable(value, error)

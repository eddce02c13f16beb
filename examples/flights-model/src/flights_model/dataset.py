"""A table in a Parquet file, and what tells it apart: digest, size, schema."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table that was written to disk: plain data, ready for JSON (`dataclasses.asdict`).

    Attributes:
        name: what it is called (``flights-train``).
        path: the Parquet file.
        uri: the same as a ``file:`` URI.
        digest: 32 hexadecimal digits that depend on column names, types and values, not on how they are stored.
        rows: number of rows.
        schema: column name to type (``float64``, ``str``, …), in the order of the columns.
    """

    name: str
    path: str
    uri: str
    digest: str
    rows: int
    schema: Mapping[str, str]


def write_dataset(frame: pd.DataFrame, name: str, path: str | Path) -> Dataset:
    """Write `frame` as a Parquet file at `path` (folders are made) and describe it."""
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(target, index=False)
    return _describe(frame, name, target)


def read_dataset(path: str | Path) -> pd.DataFrame:
    """Read the table at `path`."""
    return pd.read_parquet(path)


def describe(name: str, path: str | Path) -> Dataset:
    """Describe a table that is on disk already; equal to what `write_dataset` returned."""
    return _describe(read_dataset(path), name, Path(path).resolve())


def digest(frame: pd.DataFrame) -> str:
    """32 hexadecimal digits that depend on the names, types and values of the columns, and on the order of the rows."""
    content = hashlib.sha256()
    for column, kind in schema(frame).items():
        content.update(f"{column}\0{kind}\0".encode())
    content.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return content.hexdigest()[:32]


def schema(frame: pd.DataFrame) -> dict[str, str]:
    """Column name to type, in the order of the columns."""
    return {str(column): str(kind) for column, kind in frame.dtypes.items()}


def _describe(frame: pd.DataFrame, name: str, path: Path) -> Dataset:
    return Dataset(
        name=name, path=str(path), uri=path.as_uri(), digest=digest(frame), rows=len(frame), schema=schema(frame)
    )

"""Rows that were logged to a table while it could not be read: they are appended when it can be.

MLflow's ``log_table`` reads the table, appends to it and stores the whole. Where the table cannot be read, a whole
without the rows that are there would replace them. So the rows are kept, and appended as MLflow does it on delivery.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

if TYPE_CHECKING:
    from tracklayer.journal.operations import Artifact
    from tracklayer.journal.progress import Progress
    from tracklayer.store import Run, Store

log = logging.getLogger("tracklayer")

APPENDED: Final = "rows:"
"""How the note begins that a table with these rows is about to be stored; then the copy's name and `Table.mark`."""

LONG: Final = 1e16
SHORT: Final = 1e-15
"""From where on, and below what, pandas writes floats with an exponent."""


class Table(Protocol):
    """A table as MLflow stores it. What is no such table, or cannot be read here, raises any exception."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""

    def digest(self, rows: int, columns: int) -> str:
        """A digest of its first rows and columns."""

    def without(self, rows: int) -> Self:
        """The table without its first rows."""

    def appended(self, other: Self) -> Self:
        """Its rows and those of another one, with the columns of both."""

    def content(self) -> bytes:
        """It as a file."""


class JsonTable:
    """A table in a ``.json`` file: pandas' orient "split". Read without pandas, which need not be where this is delivered."""

    def __init__(self, columns: list[Any], rows: list[list[Any]]) -> None:
        self._columns = columns
        self._rows = rows

    @classmethod
    def read(cls, content: bytes) -> JsonTable:
        """Read a file.

        Raises:
            ValueError: it is not such a table.
        """
        told = json.loads(content)
        columns: Any = told.get("columns") if isinstance(told, dict) else None
        rows: Any = told.get("data") if isinstance(told, dict) else None
        whole = isinstance(columns, list) and isinstance(rows, list)
        if not whole or not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
            raise ValueError("there are not columns, and rows of as many values")
        return cls(columns, rows)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""
        return len(self._rows), len(self._columns)

    def digest(self, rows: int, columns: int) -> str:
        """A digest of its first rows and columns."""
        return _digest(self._columns[:columns], [row[:columns] for row in self._rows[:rows]])

    def without(self, rows: int) -> JsonTable:
        """The table without its first rows."""
        return JsonTable(self._columns, self._rows[rows:])

    def appended(self, other: JsonTable) -> JsonTable:
        """Its rows and those of another one, with the columns of both.

        >>> one, two = JsonTable(["a"], [[1]]), JsonTable(["b", "a"], [[2, 3]])
        >>> one.appended(two).content()
        b'{"columns":["a","b"],"data":[[1,null],[3,2]]}'

        Raises:
            ValueError: the columns differ, and one name stands for several of them.
        """
        if self._columns == other._columns:
            return JsonTable(self._columns, self._rows + other._rows)
        here, there = _names(self._columns), _names(other._columns)
        if len(set(here)) < len(here) or len(set(there)) < len(there):
            raise ValueError("a name stands for several columns")
        new = [place for place, column in enumerate(there) if column not in here]
        columns = self._columns + [other._columns[place] for place in new]
        places = [there.index(column) if column in there else None for column in here] + new
        rows = [row + [None] * len(new) for row in self._rows]
        rows += [[None if place is None else row[place] for place in places] for row in other._rows]
        return JsonTable(columns, rows)

    def content(self) -> bytes:
        """It as a file."""
        return json.dumps({"columns": self._columns, "data": self._rows}, separators=(",", ":")).encode()


def _digest(columns: list[Any], rows: list[list[Any]]) -> str:
    """A digest that stays the same when MLflow, which is pandas, reads the table and stores it again."""
    normal = [[_normal(value) for value in row] for row in (columns, *rows)]
    return hashlib.sha256(json.dumps(normal).encode()).hexdigest()


def _normal(value: Any) -> Any:
    """A value as all that pandas makes of it: in a column with nulls numbers and booleans are floats, text with numbers is numbers.

    >>> [_normal(value) for value in (1, 1.0, True, "1", None, "x", [1])]
    [1.0, 1.0, 1.0, 1.0, None, 'x', [1]]
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    # As pandas writes floats: with ten places, or from here on with ten digits.
    return float(f"{number:.10g}") if abs(number) >= LONG or abs(number) < SHORT else round(number, 10)


def _names(columns: list[Any]) -> list[str]:
    """Columns by what can be compared: pandas' own may have several levels, which are lists here."""
    return [json.dumps(column) for column in columns]


class ParquetTable:
    """A table in a ``.parquet`` file, which needs pandas and what that needs for it."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    @classmethod
    def read(cls, content: bytes) -> ParquetTable:
        """Read a file."""
        return cls(importlib.import_module("pandas").read_parquet(io.BytesIO(content)))

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""
        rows, columns = self._frame.shape
        return rows, columns

    def digest(self, rows: int, columns: int) -> str:
        """A digest of its first rows and columns."""
        told = self._frame.iloc[:rows, :columns].to_json(orient="split", index=False, default_handler=str)
        first = json.loads(told)
        return _digest(first["columns"], first["data"])

    def without(self, rows: int) -> ParquetTable:
        """The table without its first rows."""
        return ParquetTable(self._frame.iloc[rows:])

    def appended(self, other: ParquetTable) -> ParquetTable:
        """Its rows and those of another one, with the columns of both."""
        pandas = importlib.import_module("pandas")
        return ParquetTable(pandas.concat([self._frame, other._frame], ignore_index=True))

    def content(self) -> bytes:
        """It as a file."""
        file = io.BytesIO()
        self._frame.to_parquet(file, index=False)
        return file.getvalue()


def append_rows(store: Store, owner: Run, operation: Artifact, kept: bytes, progress: Progress) -> None:
    """Append what was kept of a table to the table that is there. It may be repeated: rows are appended once.

    Where that cannot be done (something else is there by now, or pandas is missing for a ``.parquet`` file), the rows
    are stored in a file of their own beside it: they are not lost, and nothing is overwritten.

    Args:
        store: where the table is.
        owner: whose artifact it is.
        operation: what was kept, and how much of it was there before.
        kept: the copy.
        progress: takes notes for whoever repeats it.

    Raises:
        StoreError: the server is away, or does not take it.
    """
    known = operation.known or 0
    present = store.read_artifact(owner, operation.path) if store.has_artifact(owner, operation.path) else None
    try:
        content = _whole(operation, known, present, kept, progress)
    except Exception as error:  # whatever a library says to a file that somebody else has written
        name, dot, kind = operation.path.rpartition(".")
        beside = f"{name}.rows-{operation.file[:12]}{dot}{kind}"
        log.warning(
            "The rows that were kept for the table %s cannot be appended to it (%s): they are in %s",
            operation.path, f"{type(error).__name__}: {error}", beside,
        )  # fmt: skip
        store.log_artifact(owner, beside, kept)
        return
    if content is not None:
        store.log_artifact(owner, operation.path, content)


def _whole(operation: Artifact, known: int, present: bytes | None, kept: bytes, progress: Progress) -> bytes | None:
    """The table with the rows, to be stored; None if it has them by an earlier attempt."""
    read: Any = ParquetTable.read if operation.path.endswith(".parquet") else JsonTable.read
    rows: Table = read(kept)
    prefix = f"{APPENDED}{operation.file}:"
    whole = rows.without(known)
    if present is not None:
        table: Table = read(present)
        marks = progress.notes(prefix)
        if operation.tried:
            marks.append(_mark(rows))
        if any(_has(table, mark) for mark in marks):
            return None
        whole = table.appended(whole)
    progress.trying(prefix + _mark(whole))
    return whole.content()


def _mark(table: Table) -> str:
    """What a table begins with that was stored, whatever was appended to it since."""
    rows, columns = table.shape
    return f"{rows}:{columns}:{table.digest(rows, columns)}"


def _has(table: Table, mark: str) -> bool:
    rows, columns, digest = mark.split(":")
    return table.shape >= (int(rows), 0) and table.digest(int(rows), int(columns)) == digest

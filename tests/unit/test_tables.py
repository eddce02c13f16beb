"""Tables to which rows are appended on delivery: the rows are known again, whoever has stored the table since."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import pytest

from tracklayer.exceptions import StoreUnavailable
from tracklayer.journal.operations import Artifact
from tracklayer.journal.tables import JsonTable, append_rows

if TYPE_CHECKING:
    from tracklayer.store import Run


class Store:
    """One table; the answer to what is stored can be lost."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.lost = False

    def has_artifact(self, owner: Run, path: str) -> bool:
        return True

    def read_artifact(self, owner: Run, path: str) -> bytes:
        return self.content

    def log_artifact(self, owner: Run, path: str, content: bytes) -> None:
        self.content = content
        if self.lost:
            self.lost = False
            raise StoreUnavailable("no answer")


class Notes:
    """What was noted about the delivery."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def notes(self, prefix: str) -> list[str]:
        return [note.removeprefix(prefix) for note in self.taken if note.startswith(prefix)]

    def trying(self, note: str) -> None:
        self.taken.append(note)


def json_table(frame: pd.DataFrame) -> bytes:
    """As MLflow stores it."""
    told: str = frame.to_json(orient="split", index=False, date_format="iso")
    return told.encode()


def json_frame(content: bytes) -> pd.DataFrame:
    """As MLflow reads it."""
    return pd.read_json(io.StringIO(content.decode()), orient="split")


def parquet_table(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    return file.getvalue()


def parquet_frame(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content))


FORMS = {"json": (json_table, json_frame), "parquet": (parquet_table, parquet_frame)}

VALUES: dict[str, list[Any]] = {
    "numbers": [1, 2],
    "large": [12345678901234567, -3],
    "floats": [1 / 3, 123456789.123456789],
    "tiny": [1.23456789012345e-16, 0.0],
    "booleans": [True, False],
    "text": ["x", "y"],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("values", VALUES)
def test_rows_are_appended_once_though_another_has_appended_after_a_lost_answer(form: str, values: str) -> None:
    """What is joined to a column then is null in the rows that were there, and pandas makes floats of its numbers."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    write, read = FORMS[form]
    before, kept = (pd.DataFrame({values: [value]}) for value in VALUES[values])
    operation = Artifact(owner="run", path=f"t.{form}", file="copy", known=0)
    store, notes = Store(write(before)), Notes()

    def deliver() -> None:
        append_rows(cast("Any", store), cast("Any", None), operation, write(kept), cast("Any", notes))

    store.lost = True
    with pytest.raises(StoreUnavailable):
        deliver()
    for other in ({"b": [7]}, {"c": ["z"]}):  # by MLflow, in another process
        store.content = write(pd.concat([read(store.content), pd.DataFrame(other)], ignore_index=True))
    deliver()
    found = read(store.content)
    assert len(found) == 4
    assert found[values].notna().sum() == 2


def test_text_with_numbers_is_numbers_once_pandas_has_read_it() -> None:
    before = JsonTable(["a"], [["1"], ["002"]])
    after = JsonTable.read(json_table(json_frame(before.content())))
    assert json.loads(after.content())["data"] == [[1], [2]]
    assert after.digest(2, 1) == before.digest(2, 1)


def test_other_rows_have_another_digest() -> None:
    tables: list[list[list[Any]]] = [
        [[1]],
        [[2]],
        [[1.5]],
        [[None]],
        [["x"]],
        [[0.3333333333]],
        [[0.3333333334]],
        [[1], [1]],
    ]
    digests = {JsonTable(["a"], rows).digest(len(rows), 1) for rows in tables}
    assert len(digests) == len(tables)
    assert JsonTable(["b"], [[1]]).digest(1, 1) not in digests

"""What others wrote, within itself deeper than Python reads: it cannot be read, and nothing fails with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tracklayer.conversion import Found, convert
from tracklayer.ending import REAL_END_TAG, RealEnd
from tracklayer.exceptions import SettingsError
from tracklayer.identity import upstream_tag
from tracklayer.journal.lock import _lives
from tracklayer.journal.refusals import NAME, refusals
from tracklayer.lineage.nodes import dataset_node
from tracklayer.linking import _produced, read_links
from tracklayer.machine import process_of
from tracklayer.parent import BALLOT, _source
from tracklayer.reconcile.relations import _wanted_dataset
from tracklayer.settings_file import _table
from tracklayer.store import Dataset
from tracklayer.store.answer import _told
from tracklayer.store.wire import decoded

if TYPE_CHECKING:
    from pathlib import Path

DEEP = "[" * 100_000
IN_A_FIELD = '{"unknown": ' + DEEP


def test_tags_that_anybody_may_have_written() -> None:
    assert [link.kind for link in read_links({upstream_tag("a" * 32): DEEP})] == ["hand-over"]
    assert _produced(DEEP) == (0, None)
    assert _wanted_dataset(DEEP) is None
    assert process_of(IN_A_FIELD) is None
    assert RealEnd.announced({REAL_END_TAG: IN_A_FIELD}) is None


def test_datasets_of_whoever_logged_them() -> None:
    dataset = Dataset(name=BALLOT, digest="d", source_type="x", source=DEEP)
    assert dataset_node(dataset).uri is None
    assert _source(SimpleNamespace(datasets=[dataset]), "d") is None  # type: ignore[arg-type]  # the field that is read


def test_answers_of_what_is_no_mlflow() -> None:
    assert _told(SimpleNamespace(body=DEEP.encode()))[0] == ""  # type: ignore[arg-type]  # the field that is read
    with pytest.raises(ValueError, match="recursion"):
        decoded(IN_A_FIELD.encode(), RealEnd)


def test_files(tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    for text in (DEEP, '{"host": "h", "pid": Infinity, "since": "1"}'):
        claim.write_text(text)
        assert _lives(claim), "of what cannot be read nobody can say that it is over"
    (tmp_path / NAME).write_text(IN_A_FIELD)
    assert list(refusals(tmp_path)) == []


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not valid TOML"):
        _table(tmp_path / "tracklayer.toml", b"a = " + DEEP.encode())
    kind: Any = dict[str, Any]
    with pytest.raises(SettingsError, match="'airflow' in a variable must be a table"):
        convert(Found("airflow", IN_A_FIELD, "in a variable", is_text=True), kind)

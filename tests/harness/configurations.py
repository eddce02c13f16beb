"""Configurations of every kind, as hypothesis makes them, and how what MLflow holds of one is read back."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tracklayer.params import FOLDER
from tracklayer.values import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tracklayer.redaction import Redaction

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Text of any characters, lone surrogates included."""

ODD_TEXT = st.text(st.sampled_from("ab./ :%\x00\n\ud800é_-"), max_size=6)
"""Text of the characters that mean something to MLflow, databases or paths."""

KEYS = st.one_of(ODD_TEXT, ANY_TEXT, st.builds(lambda end: "k" * 248 + end, ODD_TEXT))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    ANY_TEXT,
    ODD_TEXT,
    st.builds(lambda end: "v" * 5_998 + end, ODD_TEXT),
    st.binary(),
    st.datetimes(),
    st.decimals(),
    st.uuids(),
)


def configurations(keys: st.SearchStrategy[str] = KEYS) -> st.SearchStrategy[dict[str, Any]]:
    """Nested dicts of scalars."""
    return st.dictionaries(
        keys,
        st.recursive(SCALARS, lambda inner: st.dictionaries(keys, inner, max_size=4), max_leaves=12),
        max_size=5,
    )


def leaves(configuration: object, redaction: Redaction) -> list[tuple[str, str]]:
    """Dotted names and whole texts of what is in nested dicts, sorted: what must come back."""
    return sorted(
        (redaction.mask_text(".".join(place)), text(redaction.mask(".".join(place), leaf)))
        for place, leaf in _leaves(configuration, ())
    )


def _leaves(value: object, above: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict) and (value or not above):
        for key, inner in value.items():
            yield from _leaves(inner, (*above, key))
    else:
        yield above, value


def read_back(
    params: Mapping[str, str], artifacts: Iterable[str], read: Callable[[str], bytes]
) -> list[tuple[str, str]]:
    """Original names and whole values, sorted, from nothing but what MLflow holds.

    Args:
        params: those of the run.
        artifacts: paths of the run's artifacts.
        read: gives the content of one.
    """
    paths = set(artifacts)
    names: dict[str, Any] = {}
    for path in paths:
        if path.startswith(f"{FOLDER}/names-"):
            names |= json.loads(read(path))
    found = []
    for name, shown in params.items():
        kept = re.search(r" \[\d+ characters, sha256 ([0-9a-f]{64}), whole in (\S+)\]$", shown)
        whole = shown
        if kept and kept[2] in paths:
            content = read(kept[2])
            assert hashlib.sha256(content).hexdigest() == kept[1]
            whole = json.loads(content) if kept[2].endswith(".json") else content.decode()
        found.append((names[name]["key"] if name in names else name, whole))
    return sorted(found)

"""Which run is meant? A run can be asked for by every name that people have at hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from tracklayer.exceptions import NotFound
from tracklayer.identity import TOKEN_PREFIX, key_tag, parse_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracklayer.store import Run, Store

RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand in a filter as a run id. Ids come out of tags, so anybody may have written them."""

_PREFIX: Final = re.compile(r"[0-9a-f]{6,31}")
_PAGE: Final = re.compile(r"/runs/([A-Za-z0-9_-]{1,64})")

FORMS: Final = (
    "a run id (or at least 6 of its first digits), a tracklayer key (airflow:default/flights/run/task#1), a token "
    "(tl1.…), the address of a run's page, or a model (models:/name/3, models:/name@champion, m-…)"
)
"""What `find_run` understands, for messages and help."""


def find_run(store: Store, text: str) -> str:
    """The run id that `text` means; whether the run still exists is not asked where the id is spelled out.

    Raises:
        NotFound: nothing of that name is there; the message says what was looked for.
        TokenError: it begins like a token and is none.
        StoreError: the back end could not be asked.
    """
    text = text.strip()
    if text.startswith(TOKEN_PREFIX):
        return parse_token(text).run.run_id
    if text.startswith(("models:/", "m-")):
        return store.model_run_id(text)
    if text.startswith("runs:/"):
        text = text.removeprefix("runs:/").partition("/")[0]
    page = _PAGE.search(text)
    if page and text.startswith(("http://", "https://", "#/", "/#/")):
        return page[1]
    if ":" in text and "/" in text:
        return _by_key(store, text)
    if _PREFIX.fullmatch(text):
        return _by_prefix(store, text)
    if not RUN_ID.fullmatch(text):
        raise NotFound(f"{text[:80]!r} is no name of a run: give {FORMS}")
    return text


def _by_key(store: Store, key: str) -> str:
    """The newest run with this key: a live one, else one from the trash."""
    for name in dict.fromkeys((key_tag(key), key_tag(unquote(key)))):
        for deleted in (False, True):
            runs = store.search_runs(
                [], f"tags.`{name}` != ''", order_by=["attributes.start_time DESC"], limit=1, deleted=deleted
            )
            if runs:
                return runs[0].run_id
    raise NotFound(f"no run has the key {key!r}")


def _by_prefix(store: Store, prefix: str) -> str:
    """The one run whose id begins so; where there is none, the text may still be a whole id of a foreign back end."""
    runs = store.search_runs([], f"attributes.run_id LIKE '{prefix}%'", limit=5)
    if len(runs) > 1:
        raise NotFound(f"{len(runs)} or more runs have ids that begin with {prefix!r}: {_listed(runs)}")
    return runs[0].run_id if runs else prefix


def _listed(runs: Sequence[Run]) -> str:
    return ", ".join(f"{run.run_id} ({run.name!r})" for run in runs)

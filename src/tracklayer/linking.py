"""Links between stage runs: found, resolved, written, and shown where people look.

A link is one tag on the consumer, ``mlflow.tracklayer.upstream.<run id>``, whose value is a small JSON object
(``kind``, and ``dataset`` and ``digest`` where they are known). It is written once and readable from both ends: the
consumers of a run are those that carry the tag with its id.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, cast, get_args

from tracklayer.context import LinkKind, RunRef, Upstream
from tracklayer.identity import UPSTREAM_TAG, produced_tag, upstream_tag
from tracklayer.json_text import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tracklayer.store import Run, Store


def link_tags(upstream: Iterable[Upstream]) -> dict[str, str]:
    """The tags that link a run to `upstream`."""
    tags = {}
    for item in upstream:
        value = {"kind": item.kind, "dataset": item.dataset, "digest": item.digest}
        told = {name: text for name, text in value.items() if text is not None}
        tags[upstream_tag(item.run.run_id)] = json.dumps(told, separators=(",", ":"))
    return tags


def read_links(tags: Mapping[str, str]) -> list[Upstream]:
    """The links in a run's tags. What cannot be read is taken as a hand-over without a dataset."""
    links = []
    for name, value in tags.items():
        if not name.startswith(UPSTREAM_TAG):
            continue
        try:
            told = decoded(value)
        except ValueError:
            told = {}
        told = told if isinstance(told, dict) else {}
        kind = told.get("kind")
        links.append(
            Upstream(
                run=RunRef(run_id=name.removeprefix(UPSTREAM_TAG), experiment_id=""),
                kind=cast("LinkKind", kind) if kind in get_args(LinkKind) else "hand-over",
                dataset=_text(told.get("dataset")),
                digest=_text(told.get("digest")),
            )
        )
    return links


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def produced_tags(uri: str, digest: str | None) -> dict[str, str]:
    """The tags by which the producer of a dataset is found, by its URI and by exactly this digest."""
    value = {"uri": uri[:2000], "digest": digest, "at": time.time_ns() // 1_000_000}
    text = json.dumps({name: told for name, told in value.items() if told is not None}, separators=(",", ":"))
    names = {produced_tag(uri), produced_tag(uri, digest)}
    return dict.fromkeys(sorted(names), text)


def find_producer(
    store: Store, uri: str, digest: str | None, *, beside: str | None = None, before: int | None = None
) -> Upstream | None:
    """The run that produced the dataset last, or last with exactly this digest, in whatever experiment.

    Args:
        store: the tracking back end.
        uri: the dataset's URI, compared literally.
        digest: None for the last version, whichever that is.
        beside: run id that does not count: the consumer itself.
        before: whoever produced it later than this (milliseconds since the epoch) does not count; None: all do.

    Returns:
        None if no live run produced it.
    """
    name = produced_tag(uri, digest)
    runs = store.search_runs([], f"tags.`{name}` != ''", order_by=["attributes.start_time DESC"], limit=50)
    made = [(_produced(run.tags.get(name, "")), run) for run in runs if run.run_id != beside]
    made = [item for item in made if before is None or item[0][0] <= before]
    if not made:
        return None
    (_, found), run = max(made, key=lambda item: item[0][0])
    return Upstream(run=ref_of(run), kind="data", dataset=uri, digest=digest or found)


def _produced(value: str) -> tuple[int, str | None]:
    """When (milliseconds) and with what digest, from the value of a ``produced`` tag; (0, None) if unreadable."""
    try:
        told = decoded(value)
        return int(told.get("at", 0)), _text(told.get("digest"))
    except (ValueError, TypeError, AttributeError):
        return 0, None


def ref_of(run: Run) -> RunRef:
    """The reference to a run that the back end told of."""
    return RunRef(
        run_id=run.run_id,
        experiment_id=run.experiment_id,
        key=run.tags.get("tracklayer.key"),
        name=run.name or None,
        stage=run.tags.get("tracklayer.stage"),
    )


def consumers_of(store: Store, run_id: str) -> Sequence[Run]:
    """The live runs, in whatever experiment, that are linked to `run_id`."""
    return store.search_runs([], f"tags.`{upstream_tag(run_id)}` != ''", order_by=["attributes.start_time ASC"])

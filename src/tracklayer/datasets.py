"""Datasets that stages make and read, as MLflow's own datasets."""

from __future__ import annotations

import json
from typing import Final

from tracklayer.identity import short_hash
from tracklayer.store import Dataset

NAME_LIMIT: Final = 500
DIGEST_LIMIT: Final = 36
"""MLflow's limits, in characters."""

UNVERSIONED: Final = "unversioned"
"""Stands for the digest where there is none: MLflow wants one."""


def dataset_of(
    uri: str,
    digest: str | None,
    context: str,
    *,
    name: str | None = None,
    schema: str | None = None,
    profile: str | None = None,
) -> Dataset:
    """The MLflow dataset of a URI.

    Args:
        uri: what the dataset is called everywhere.
        digest: None for one without versions; one that is too long for MLflow is hashed.
        context: ``produced`` or ``consumed``.
        name: None is the last part of the URI.
        schema: JSON text, None if unknown.
        profile: JSON text, None if unknown.

    >>> dataset_of("s3://bucket/flights/", None, "consumed").name
    'flights'
    """
    shown = digest or UNVERSIONED
    return Dataset(
        name=(name or uri.rstrip("/").rpartition("/")[2] or uri)[:NAME_LIMIT],
        digest=shown if len(shown) <= DIGEST_LIMIT else short_hash(shown),
        source_type="uri",
        source=json.dumps({"uri": uri}),
        context=context,
        schema=schema,
        profile=profile,
    )

"""How MLflow names a model: ``models:/name/version``, ``models:/name@alias``, ``models:/m-…``, ``m-…``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from tracklayer.exceptions import NotFound

_LOGGED = re.compile(r"m-[A-Za-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUri:
    """A model's URI, taken apart: either `model_id`, or `name` with one of `version` and `alias`."""

    model_id: str | None = None
    name: str = ""
    version: str = ""
    alias: str | None = None

    @classmethod
    def parse(cls, uri: str) -> ModelUri:
        """Take a model's URI apart.

        >>> ModelUri.parse("models:/delays@champion").alias
        'champion'
        >>> ModelUri.parse("m-0123abcd").model_id
        'm-0123abcd'

        Raises:
            NotFound: it names no model (a stage such as ``models:/name/Production`` is not looked up).
        """
        rest = uri.strip()
        rest = unquote(rest.partition(":")[2]).strip("/") if rest.startswith("models:") else rest
        if _LOGGED.fullmatch(rest):
            return cls(model_id=rest)
        name, at, alias = rest.partition("@")
        if at and name and alias and "/" not in rest:
            return cls(name=name, alias=alias)
        name, slash, version = rest.rpartition("/")
        if uri.startswith("models:") and slash and name and "/" not in name and version.isdecimal():
            return cls(name=name, version=version)
        raise NotFound(
            f"{uri!r} names no model: write models:/<name>/<version>, models:/<name>@<alias>, or a model id (m-…)"
        )

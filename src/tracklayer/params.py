"""Params as MLflow takes them: flat names, text of at most 6,000 characters, and nothing lost.

What MLflow would cut or refuse goes whole into an artifact, and the param says where it is. Nothing here raises,
whatever users log. See ``docs/reference/params.md``.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tracklayer.interruption import let_through
from tracklayer.values import ELEMENT_LIMIT, Budget, Plain, flat_list, items, members, plain, text, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracklayer.redaction import Redaction

KEY_LIMIT: Final = 250
VALUE_LIMIT: Final = 6_000
PREVIEW: Final = 500
"""Characters of a long value that its param shows."""

LEAF_LIMIT: Final = 200_000
"""More values than this in one call are a mistake (a graph that multiplies); what is beyond is only described."""

FOLDER: Final = "tracklayer/params"
"""Where, among the run's artifacts, whole values and keys are kept."""

_REFUSED = re.compile(r"[^/\w.\- :]")
_FILE_NAME = re.compile(r"[^A-Za-z0-9_-]")
_NAME_KEYS = frozenset({"name", "key"})
_VALUE_KEYS = frozenset({"value"})
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

Place = tuple[tuple[str, str], ...]
"""Where a leaf stands: for each level the type and the text of its key (so that 1 and "1" differ)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedParams:
    """Params that MLflow takes as they are, and what they could not hold.

    Attributes:
        params: by valid name; values are valid for MLflow on every database: at most 6,000 characters, no NUL, no
            lone surrogates.
        artifacts: content by path among the run's artifacts. A value that does not fit is a file of its own, whose
            path and SHA-256 the param tells. Names that do not fit are one file ``names-….json``: by valid name,
            ``key`` is the original name and ``path`` its levels. Paths are made from the content, so storing one
            again is harmless. Secrets are masked in both.
    """

    params: Mapping[str, str]
    artifacts: Mapping[str, bytes]


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested configuration to dotted names and plain values. Never raises.

    Mappings, dataclasses, pydantic models, attrs classes, msgspec structs, named tuples and namespaces are opened;
    a list of scalars (or of such lists) is one value, a list that holds structures is opened by position. Where two
    values would get the same name (``{"a.b": 1, "a": {"b": 2}}``) the one that stands higher keeps it, and the other
    name ends in a digest of where it stands.

    Args:
        params: may nest, may be cyclic.
        prefix: stands before every name, with a dot between.

    Returns:
        Names, in the order of `params`, with plain values (see `tracklayer.values.plain`); secrets of known types
        are ``***`` already, secrets by name are `encode`'s task.

    >>> flatten({"model": {"lr": 0.1, "layers": (64, 32)}, "steps": [{"name": "scale"}]})
    {'model.lr': 0.1, 'model.layers': [64, 32], 'steps.0.name': 'scale'}
    """
    return {key: value for key, _, value in _named(list(_leaves(params, prefix)))}


def encode(params: Mapping[str, object], *, redact: Redaction) -> EncodedParams:
    """Make params, nested or flat, valid for MLflow without losing anything but secrets. Never raises.

    Args:
        params: what the user logs.
        redact: masks secrets by name, type and shape, before anything is measured or kept.

    >>> from tracklayer.redaction import Redaction
    >>> encode({"db": {"password": "hunter2", "pool": 5}}, redact=Redaction()).params
    {'db.password': '***', 'db.pool': '5'}
    """
    encoded: dict[str, str] = {}
    artifacts: dict[str, bytes] = {}
    changed: dict[str, Mapping[str, object]] = {}
    leaves = list(_leaves(params, ""))
    # What {"name": "DB_PASSWORD", "value": …} holds is told by its neighbour.
    names = {place[:-1]: value for place, value in leaves if place[-1:] and place[-1][1] in _NAME_KEYS}
    for key, place, value in _named(leaves):
        joined = _joined(place)
        name = valid_key(redact.mask_text(key))
        if name in encoded:
            name = _unused(name, repr(place), encoded)
        neighbour = names.get(place[:-1], "") if place[-1:] and place[-1][1] in _VALUE_KEYS else ""
        whole = text(redact.mask(f"{joined}.{neighbour}" if neighbour else joined, value))
        encoded[name] = whole if _fits(whole) else _kept(name, whole, artifacts)
        if name != joined:
            changed[name] = {"key": redact.mask_text(joined), "path": [redact.mask_text(level) for _, level in place]}
    if changed:
        content = json.dumps(changed, indent=1).encode("ascii")
        artifacts[f"{FOLDER}/names-{_sha256(content)[:12]}.json"] = content
    return EncodedParams(params=encoded, artifacts=artifacts)


@lru_cache(maxsize=256)  # a training logs the same few metrics a million times
def valid_key(key: str) -> str:
    """A name that MLflow takes for params, metrics and tags: `key` itself, or one made from it and its digest.

    MLflow refuses names that are empty, longer than 250 characters, hold anything but letters, digits and
    ``_ / . - : space``, or would mean another place as a path (a leading, trailing or double slash, ``..``). A space at
    the end it takes, but MySQL takes such a name for the one without.

    >>> valid_key("model.lr"), valid_key("top 5%")
    ('model.lr', 'top 5_-e622ba1cf7e4')
    """
    if _is_valid(key):
        return key
    parts = [part for part in _REFUSED.sub("_", key).split("/") if part not in {"", ".", ".."}]
    readable = "/".join(parts) or "_"
    if readable.startswith(".."):
        readable = f"_{readable}"
    digest = _sha256(key)[:12]
    return f"{readable[: KEY_LIMIT - 13]}-{digest}"


def _is_valid(key: str) -> bool:
    if not key or len(key) > KEY_LIMIT or _REFUSED.search(key) or key.endswith(" "):
        return False
    if key == "." or key.startswith(("..", "/")):
        return False
    return "/" not in key or posixpath.normpath(key) == key


def _fits(value: str) -> bool:
    return len(value) <= VALUE_LIMIT and not _UNSTORABLE.search(value)


def _kept(name: str, whole: str, artifacts: dict[str, bytes]) -> str:
    """Add the artifact that holds a value that does not fit; what its param says instead."""
    try:
        content, kind = whole.encode("utf-8"), "txt"
    except UnicodeEncodeError:  # lone surrogates, which only the escapes of JSON can hold
        content, kind = json.dumps(whole).encode("ascii"), "json"
    digest = _sha256(content)
    path = f"{FOLDER}/{_FILE_NAME.sub('_', name)[:80]}-{digest[:12]}.{kind}"
    artifacts[path] = content
    # A NUL or half a surrogate pair is shown as an escape; what it really was stands in the artifact.
    head = _UNSTORABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", whole[:PREVIEW])
    cut = "…" if len(whole) > PREVIEW else ""
    return f"{head}{cut} [{len(whole)} characters, sha256 {digest}, whole in {path}]"


def _sha256(content: str | bytes) -> str:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def _unused(name: str, identity: str, used: Mapping[str, object]) -> str:
    """`name`, or if that is taken one that ends in a digest of `identity`, as long as it takes to be unused."""
    candidate = name
    digits, digest = 12, _sha256(identity)
    while candidate in used:
        candidate = f"{name[: KEY_LIMIT - digits - 1]}-{digest[:digits]}"
        digits += 4
        if digits > len(digest):
            digits, digest = 12, _sha256(digest)
    return candidate


def _named(leaves: list[tuple[Place, Plain]]) -> list[tuple[str, Place, Plain]]:
    """Leaves with their names, in order; the leaf that stands highest has the first claim to a name."""
    plainly = [(_joined(path), path, value) for path, value in leaves]
    if len({name for name, _, _ in plainly}) == len(leaves):
        return plainly
    claims = sorted(
        ((_joined(path), path, place) for place, (path, _) in enumerate(leaves)),
        key=lambda claim: (len(claim[1]), [kind != "str" for kind, _ in claim[1]], claim[1], claim[2]),
    )
    taken: dict[str, int] = {}
    late = []
    for joined, path, place in claims:
        if joined in taken:
            late.append((joined, path, place))
        else:
            taken[joined] = place
    for joined, path, place in late:
        taken[_unused(joined, repr(path), taken)] = place
    names = {place: name for name, place in taken.items()}
    return [(names[place], path, value) for place, (path, value) in enumerate(leaves)]


@dataclass(frozen=True, slots=True)
class _Node:
    """One level of nesting on the way to a leaf; linked upwards, so that depth costs no more than it must."""

    above: _Node | None
    level: tuple[str, str]


def _place(node: _Node | None) -> Place:
    levels = []
    while node is not None:
        levels.append(node.level)
        node = node.above
    return tuple(reversed(levels))


def _leaves(root: object, prefix: str) -> Iterator[tuple[Place, Plain]]:
    """Every leaf below `root` with its place, in order, without recursion (nesting may be as deep as it likes)."""
    if members(root) == []:
        return
    top = _Node(None, ("str", prefix)) if prefix else None
    opened: dict[int, _Node | None] = {}
    # An entry with an id closes the container of this id.
    pending: list[tuple[_Node | None, object, int | None]] = [(top, root, None)]
    found, budget = 0, Budget()
    while pending:
        node, value, closes = pending.pop()
        if closes is not None:
            del opened[closes]
            continue
        found += 1
        inside, leaf = _looked_into(value, budget)
        if inside is None:
            yield _place(node), leaf
        elif id(value) in opened:
            yield _place(node), f"<cycle to {_joined(_place(opened[id(value)])) or 'the top'}>"
        elif found > LEAF_LIMIT:
            yield _place(node), f"<{type(value).__name__} of {len(inside)}, left out: more than {LEAF_LIMIT} values>"
        else:
            opened[id(value)] = node
            pending.append((node, value, id(value)))
            pending.extend((_Node(node, _level(key)), part, None) for key, part in reversed(inside))


def _looked_into(value: object, budget: Budget) -> tuple[list[tuple[object, object]] | None, Plain]:
    """What a container that is opened holds, or None and the leaf; a list of scalars is a leaf."""
    inside = members(value)
    elements = items(value) if inside is None else None
    if elements is not None:
        known = flat_list(elements, budget)
        if known is not None:
            return None, known
        if budget.left < 0:
            return None, f"<{type(value).__name__} of {len(elements)}, left out: more than {ELEMENT_LIMIT} elements>"
        inside = list(enumerate(elements))
    return (inside, None) if inside else (None, plain(value))


def _joined(place: Place) -> str:
    return ".".join(level for _, level in place)


def _level(key: object) -> tuple[str, str]:
    kind = type(key).__name__
    try:
        return kind, key if type(key) is str else text(key)
    except Exception as error:  # a key whose own methods raise still needs a name
        let_through(error)
        return kind, unreadable(key, error)

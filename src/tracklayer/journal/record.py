"""How an operation stands in a journal: framed, checksummed, with the time at which it was written.

A frame is ``<u32 length of the payload><u32 CRC-32 of time and payload><u64 milliseconds since the epoch>``, all
little-endian, and then the payload: the operation as MessagePack. Positions count the bytes of the whole journal
from its beginning; they stay what they are when delivered segments are removed.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args
from zlib import crc32

import msgspec

from tracklayer.journal.operations import Gone, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD: Final = struct.Struct("<IIQ")
HEAD: Final = _HEAD.size
"""Bytes of a frame before its payload."""

_UNTIMED: Final = 8
"""Bytes of a frame before its time, with which the checksummed part begins."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """An operation as it was read.

    Attributes:
        position: where its frame begins.
        next: the position of whatever comes after it: where the frame ends, but for `Gone`.
        at: when it was written, in milliseconds since the epoch.
        operation: what was written.
    """

    position: int
    next: int
    at: int
    operation: Operation


class Damage(NamedTuple):
    """A part that cannot be read.

    Attributes:
        position: where it begins.
        next: where reading goes on: the next frame that is whole, or the end.
        why: what is wrong with it, for people.
        torn: True for a tail that was being written when the process or the machine died, which is no fault: nothing
            in it was acknowledged.
        errno: why the system gave nothing of it out (`errno.EACCES`, …), so that nobody knows what is there; 0 if its
            bytes were read, and are wrong.
    """

    position: int
    next: int
    why: str
    torn: bool
    errno: int = 0


class Frame(NamedTuple):
    """A frame whose checksum is right: where it begins and ends, its time, and its payload."""

    position: int
    next: int
    at: int
    payload: memoryview


def pack(operation: object, at: int) -> bytes:
    """One frame.

    Args:
        operation: an `Operation` (or what else is to be read back by `decoder`).
        at: milliseconds since the epoch.

    Raises:
        ValueError: it holds a number that no journal can (an integer of more than 64 bits).
    """
    encode = _encoder().encode
    try:
        payload = encode(operation)
    except UnicodeEncodeError:  # half of a surrogate pair somewhere: rare, and worth only the text that can be kept
        payload = encode(_clean(operation))
    except OverflowError as error:
        raise ValueError(f"a number is too big for the journal: {error}") from None
    checksum = crc32(payload, crc32(at.to_bytes(HEAD - _UNTIMED, "little")))
    return _HEAD.pack(len(payload), checksum, at) + payload


def unpack(data: bytes | memoryview, position: int) -> Iterator[Record]:
    """The records that stand whole and undamaged at the beginning of `data`, which begins at `position`.

    Stops without a word at the first frame that is cut off or damaged; `scan` says what is wrong and goes on behind it.
    """
    # As `frames`, written out: this is what delivering a million points costs.
    decode, parse = decoder(Operation).decode, _HEAD.unpack_from
    view = memoryview(data)
    offset, size = 0, len(view)
    while offset + HEAD <= size:
        length, checksum, at = parse(view, offset)
        stop = offset + HEAD + length
        if stop > size or crc32(view[offset + _UNTIMED : stop]) != checksum:
            return
        try:
            operation = decode(view[offset + HEAD : stop])
        except msgspec.MsgspecError:
            return
        if type(operation) is Gone:
            stop = max(stop, operation.next - position)
        yield Record(position + offset, position + stop, at, operation)
        offset = stop


def frames(data: bytes | memoryview, position: int, offset: int = 0) -> Iterator[Frame]:
    """The frames that stand one behind the other in `data` from `offset` on, until one is cut off or damaged.

    Args:
        data: what was read.
        position: the journal's position of its first byte.
        offset: where in `data` the first frame begins.
    """
    view = memoryview(data)
    size = len(view)
    while offset + HEAD <= size:
        length, checksum, at = _HEAD.unpack_from(view, offset)
        stop = offset + HEAD + length
        if stop > size or crc32(view[offset + _UNTIMED : stop]) != checksum:
            return
        yield Frame(position + offset, position + stop, at, view[offset + HEAD : stop])
        offset = stop


def scan(data: bytes | memoryview, position: int, *, last: bool) -> Iterator[Record | Damage]:
    """Everything in a segment: its records, and the parts that cannot be read.

    Args:
        data: the whole segment, or its rest from a frame's beginning on.
        position: the journal's position of its first byte.
        last: True if nothing comes after it: only there a torn tail is no damage.
    """
    decode = decoder(Operation).decode
    offset, size = 0, len(data)
    while offset < size:
        jumped = False
        for frame in frames(data, position, offset):
            offset = frame.next - position
            try:
                operation = decode(frame.payload)
            except msgspec.MsgspecError as error:
                yield Damage(frame.position, frame.next, f"this version cannot read it: {error}", torn=False)
                continue
            if jumped := type(operation) is Gone:
                offset = min(max(offset, operation.next - position), size)
            yield Record(frame.position, position + offset, frame.at, operation)
            if jumped:
                break
        if offset < size and not jumped:
            damage = _damage(memoryview(data), position, offset, last=last)
            yield damage
            offset = damage.next - position


def head(data: bytes | memoryview) -> int:
    """How long the frame is that begins with `data` according to its head, which may be damaged."""
    return HEAD + int(_HEAD.unpack_from(data)[0])


def find(data: bytes | memoryview, offset: int) -> int | None:
    """Where in `data`, behind `offset`, the next whole frame begins; None if there is none."""
    for match in _beginnings().finditer(data, offset + HEAD + 1):
        start = match.start() - HEAD
        if next(frames(data, 0, start), None) is not None:
            return start
    return None


@lru_cache(maxsize=8)
def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """What reads payloads of this type; made when it is first needed, because that takes milliseconds."""
    return msgspec.msgpack.Decoder(kind)


@lru_cache(maxsize=1)
def _encoder() -> msgspec.msgpack.Encoder:
    return msgspec.msgpack.Encoder(enc_hook=_plain)


def _plain(value: object) -> object:
    """A value that MessagePack does not know, as one that it does.

    A read-only mapping becomes a dict, and what is derived from a plain type (an orchestrator's own date, a number of
    numpy's) becomes that. Of others only the type is told: their text may hold secrets, and nothing that delivery needs
    is of such a type.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return f"<{type(value).__name__}>"


def _clean(value: Any) -> Any:
    """The same value, with text that can be encoded."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_clean, value))
    if isinstance(value, msgspec.Struct):
        return type(value)(**{name: _clean(getattr(value, name)) for name in value.__struct_fields__})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{item.name: _clean(getattr(value, item.name)) for item in dataclasses.fields(value)})
    return value


def _damage(view: memoryview, position: int, offset: int, *, last: bool) -> Damage:
    rest = len(view) - offset
    found = find(view, offset)
    stop = len(view) if found is None else found
    whole = rest >= HEAD and head(view[offset:]) <= rest
    if not any(view[offset : offset + HEAD]) and not any(view[offset:stop]):
        why, torn = "zeros: the machine lost what was written last", True
    elif not whole:
        why, torn = f"the last record is cut off: {rest} bytes are left of it", True
    else:
        why, torn = "the checksum is wrong", False
    if found is not None or not last:
        why = why if whole else "the length is wrong, or the record is cut off"
        torn = False
    return Damage(position + offset, position + stop, why, torn)


@lru_cache(maxsize=1)
def _beginnings() -> re.Pattern[bytes]:
    """What a payload begins with: an array of at most fifteen elements, of which the first is an operation's tag."""
    tags = [kind.__struct_config__.tag for kind in get_args(Operation)]
    encoded = (bytes([0xA0 | len(tag)]) + tag.encode() for tag in tags)
    return re.compile(rb"[\x90-\x9f](?:" + b"|".join(map(re.escape, encoded)) + b")", re.DOTALL)

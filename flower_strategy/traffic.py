"""Bytes that Flower's deployment engine moves for a message, envelope included.

`flower_strategy.payload.content_bytes` counts what a message holds. On the way it is
more: every array, chunk of an array and record is an object of its own, which names its
parts by hashes of 64 letters; the tree of all names goes ahead of the objects, and an
upload is answered with the names that are wanted. The sum is what ``flwr list`` shows
as network traffic. The app itself, which every node fetches once a run, is in neither.
"""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, cast

from flwr.app import Message

from flower_strategy.payload import content_bytes
from flower_strategy.rounds import RoundReport

NAME_BYTES = 66  # 64 letters, and protobuf's tag and length
BRANCH_BYTES = 70  # a name in the tree, and the length of its branch
ANNOUNCEMENT_BYTES = 400  # what is said about a message besides its content


class _Sent(Protocol):
    """What Flower can send as an object."""

    @property
    def children(self) -> "dict[str, _Sent] | None": ...

    def deflate(self) -> bytes: ...


def with_traffic(
    report: RoundReport, sent: Collection[Message], received: Collection[Message]
) -> RoundReport:
    """The report with the bytes of more messages."""
    return replace(
        report,
        bytes_up=report.bytes_up + sum(content_bytes(m.content) for m in received),
        bytes_down=report.bytes_down + sum(content_bytes(m.content) for m in sent),
        wire_up=report.wire_up + sum(map(message_bytes, received)),
        wire_down=report.wire_down
        + sum(map(message_bytes, sent))
        + sum(map(acknowledgement_bytes, received)),
    )


def message_bytes(message: Message) -> int:
    """Bytes of a message in the direction in which it goes."""
    sizes = _object_sizes(message)
    return sum(sizes) + BRANCH_BYTES * len(sizes) + ANNOUNCEMENT_BYTES


def acknowledgement_bytes(reply: Message) -> int:
    """Bytes that go back to the client for its reply."""
    return NAME_BYTES * len(_object_sizes(reply))


def _object_sizes(message: Message) -> list[int]:
    """Of all objects of a message; equal ones are sent once."""
    sizes: dict[bytes, int] = {}
    waiting = [cast(_Sent, message)]
    while waiting:
        part = waiting.pop()
        data = part.deflate()
        sizes[hashlib.sha256(data).digest()] = len(data)
        waiting += (part.children or {}).values()
    return list(sizes.values())

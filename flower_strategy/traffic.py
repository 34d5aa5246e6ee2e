"""Bytes that Flower's deployment engine transfers for a message, with its envelope.

`flower_strategy.payload.content_bytes` counts the content of a message. On the wire it
takes more: every array, chunk of an array and record is an object of its own, which
refers to its parts by hashes of 64 letters. The tree of all hashes is sent first, and
an upload is answered with the hashes that are wanted. The sum is what ``flwr list``
shows as network traffic. Neither includes the app, which each node fetches once per
run.
"""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, cast

from flwr.app import Message

from flower_strategy.payload import content_bytes
from flower_strategy.rounds import RoundReport

HASH_BYTES = 66  # 64 letters, and protobuf's tag and length
BRANCH_BYTES = 70  # a hash in the tree, and the length of its branch
ANNOUNCEMENT_BYTES = 400  # metadata of a message


class _Sent(Protocol):
    """What Flower can send as an object."""

    @property
    def children(self) -> "dict[str, _Sent] | None": ...

    def deflate(self) -> bytes: ...


def with_traffic(
    report: RoundReport, sent: Collection[Message], received: Collection[Message]
) -> RoundReport:
    """Add the bytes of further messages to a report."""
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
    """Bytes sent for a message, in its own direction."""
    sizes = _object_sizes(message)
    return sum(sizes) + BRANCH_BYTES * len(sizes) + ANNOUNCEMENT_BYTES


def acknowledgement_bytes(reply: Message) -> int:
    """Bytes sent back to the client for its reply."""
    return HASH_BYTES * len(_object_sizes(reply))


def _object_sizes(message: Message) -> list[int]:
    """Sizes of all objects of a message; equal ones are sent once."""
    sizes: dict[bytes, int] = {}
    waiting = [cast(_Sent, message)]
    while waiting:
        part = waiting.pop()
        data = part.deflate()
        sizes[hashlib.sha256(data).digest()] = len(data)
        waiting += (part.children or {}).values()
    return list(sizes.values())

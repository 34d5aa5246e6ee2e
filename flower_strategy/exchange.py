"""Send messages to clients and wait for their replies, always with a deadline.

`Grid.send_and_receive` does not tell which client a reply belongs to: the SuperLink
answers for a dead node, under its own id. Here a reply is attributed by the message it
answers.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from condense_core import RunError

PAUSE_SECONDS = 0.5  # between looks at the grid; doubles up to the longest
LONGEST_PAUSE_SECONDS = 3.0


@dataclass
class Replies:
    """What came back from a round of messages.

    Attributes:
        content: Replies with content, by node.
        failed: Reasons of failure, by node.
        missing: Nodes that did not answer in time.
    """

    content: dict[int, Message] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)

    def add(self, node: int, reply: Message) -> None:
        """Sort a reply into content or failures."""
        if reply.has_error():
            reason = " ".join(str(reply.error.reason).split())[:200]
            self.failed[node] = reason or f"error code {reply.error.code}"
        else:
            self.content[node] = reply


def wait_for_nodes(
    grid: Grid, least: int, seconds: float, *, wanted: int = 0, settle: float = 0.0
) -> list[int]:
    """Wait for nodes to connect; return the ids of all, ascending.

    Args:
        grid: Flower's.
        least: Fewer than this at the deadline are an error.
        seconds: Time to wait.
        wanted: Return early only if this many are connected, and at least ``least``.
        settle: Nor before their number has not grown for so many seconds.

    Raises:
        RunError: Too few nodes are connected when the time is up.
    """
    most, grown = 0, time.monotonic()
    deadline = grown + seconds
    pause = PAUSE_SECONDS
    while True:
        nodes = sorted(grid.get_node_ids())
        now = time.monotonic()
        if len(nodes) > most:
            most, grown = len(nodes), now
        late = now >= deadline
        settled = len(nodes) >= wanted and now - grown >= settle
        if len(nodes) >= least and (late or settled):
            return nodes
        if late:
            raise RunError(
                f"{len(nodes)} clients are connected after {seconds:g} s, {least} are "
                "needed: start more, or lower min-clients or raise wait-seconds"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def exchange(grid: Grid, messages: Iterable[Message], seconds: float) -> Replies:
    """Send messages and collect replies until all have arrived or the time is up."""
    sent = list(messages)
    for message in sent:
        message.metadata.ttl = seconds  # a reply after the deadline is useless
    nodes = [message.metadata.dst_node_id for message in sent]
    replies = Replies()
    waiting: dict[str, int] = {}
    for node, message_id in zip(nodes, _push(grid, sent), strict=True):
        if message_id:
            waiting[message_id] = node
        else:
            replies.failed[node] = "the message could not be sent"
    deadline = time.monotonic() + seconds
    pause = PAUSE_SECONDS
    while waiting:
        for reply in _pull(grid, waiting, replies):
            if reply.metadata.reply_to_message_id not in waiting:
                continue
            replies.add(waiting.pop(reply.metadata.reply_to_message_id), reply)
        if not waiting or time.monotonic() >= deadline:
            break
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    replies.missing = sorted(waiting.values())
    return replies


def sort_replies(sent: Iterable[Message], received: Iterable[Message]) -> Replies:
    """Sort replies that somebody else has collected.

    Args:
        sent: The messages, as they were pushed to the grid.
        received: Replies; one that answers none of the messages counts as its sender's.
    """
    waiting = {m.metadata.message_id: m.metadata.dst_node_id for m in sent}
    replies = Replies()
    for reply in received:
        about = reply.metadata
        node = waiting.pop(about.reply_to_message_id, about.src_node_id)
        replies.add(node, reply)
    replies.missing = sorted(waiting.values())
    return replies


def _push(grid: Grid, messages: Sequence[Message]) -> Sequence[str | None]:
    identifiers = list(grid.push_messages(messages))
    return identifiers or [None] * len(messages)  # empty: all were too large


def _pull(grid: Grid, waiting: dict[str, int], replies: Replies) -> list[Message]:
    """The replies that have arrived.

    They are pulled one at a time: the SuperLink forgets replies once it has handed them
    out, so one that cannot be decoded would lose all others pulled with it.
    """
    found: list[Message] = []
    for identifier, node in list(waiting.items()):
        try:
            found += grid.pull_messages([identifier])
        except Exception as error:
            log(WARNING, "the reply of node %d cannot be read: %r", node, error)
            replies.failed[node] = f"unreadable reply: {type(error).__name__}"
            waiting.pop(identifier)
    return found

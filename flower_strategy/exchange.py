"""Asking clients and waiting for their answers, with a deadline for everything.

`Grid.send_and_receive` does not say which client an answer belongs to: an error reply
that the SuperLink writes for a dead node comes from the SuperLink. Here a reply is
attributed by the message it answers.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from condense_core import RunError

PAUSE_SECONDS = 0.5  # between looks at the grid, growing to the next
LONGEST_PAUSE_SECONDS = 3.0


@dataclass
class Replies:
    """What came back from a round of messages.

    Attributes:
        content: By node: messages with content.
        failed: By node: the reason it gave, or that was given for it.
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
    grid: Grid, least: int, seconds: float, *, wanted: int = 0
) -> list[int]:
    """Ids of the connected nodes, ascending.

    Args:
        grid: Flower's.
        least: Fewer are an error.
        seconds: Time to wait.
        wanted: Come back before the time is up only with as many, if more than least.

    Raises:
        RunError: There are too few when the time is up.
    """
    deadline = time.monotonic() + seconds
    pause = PAUSE_SECONDS
    while True:
        nodes = sorted(grid.get_node_ids())
        late = time.monotonic() >= deadline
        if len(nodes) >= max(least, wanted) or (late and len(nodes) >= least):
            return nodes
        if late:
            raise RunError(
                f"{len(nodes)} clients are connected after {seconds:g} s, {least} are "
                "needed: start more, or lower min-clients or raise wait-seconds"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def exchange(grid: Grid, messages: Iterable[Message], seconds: float) -> Replies:
    """Send messages and collect the answers until all are there or the time is up."""
    sent = list(messages)
    for message in sent:
        message.metadata.ttl = seconds  # an answer after the deadline is of no use
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


def _push(grid: Grid, messages: Sequence[Message]) -> Sequence[str | None]:
    identifiers = list(grid.push_messages(messages))
    return identifiers or [None] * len(messages)  # none: all were too large


def _pull(grid: Grid, waiting: dict[str, int], replies: Replies) -> list[Message]:
    """The answers that are there.

    One by one: a SuperLink forgets what it has handed out, so that of answers read
    together one that cannot be decoded would take the others along.
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

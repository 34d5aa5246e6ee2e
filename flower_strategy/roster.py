"""Who is who: the names of clients and the nodes they answer from.

Flower knows nodes by ids that are new in every run; contributions are kept by the names
clients give themselves. A name belongs to the node that used it first.
"""

from collections.abc import Collection, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flower_strategy.exchange import exchange
from flower_strategy.npy import PayloadError
from flower_strategy.payload import Contribution, Limits, decode

IDENTIFY = "query.identify"


class Roster:
    """Names and nodes of one run."""

    def __init__(self) -> None:
        self._node_of: dict[str, int] = {}
        self._returned: dict[int, str] = {}

    def collect(
        self, replies: Mapping[int, Message], limits: Limits
    ) -> tuple[dict[str, Contribution], dict[str, str]]:
        """Decode replies by node.

        Returns:
            Contributions by the name of the client, and for each reply that was refused
            the reason by ``node ID``.
        """
        accepted: dict[str, Contribution] = {}
        refused: dict[str, str] = {}
        for node, message in sorted(replies.items()):
            try:
                contribution = decode(message.content, limits)
                if self._node_of.setdefault(contribution.client, node) != node:
                    raise PayloadError("another node has this client name")
                accepted[contribution.client] = contribution
            except PayloadError as error:
                refused[f"node {node}"] = str(error)
            except Exception as error:
                # A reply we did not think of must not stop the round either.
                refused[f"node {node}"] = f"unreadable: {type(error).__name__}"
        return accepted, refused

    def ask_names(
        self, grid: Grid, nodes: Collection[int], known: Collection[str], seconds: float
    ) -> None:
        """Find the clients of an earlier run among the nodes of this one.

        Args:
            grid: Flower's.
            nodes: To ask.
            known: Names of the earlier run; others are not taken.
            seconds: Deadline for the answers.
        """
        asked = [Message(RecordDict(), node, IDENTIFY) for node in nodes]
        for node, reply in sorted(exchange(grid, asked, seconds).content.items()):
            identity = reply.content.config_records.get("identity") or ConfigRecord()
            name = str(identity.get("client"))
            if name in known and name not in self._node_of:
                self._node_of[name] = node
                self._returned[node] = name

    def greet(self, node: int) -> str | None:
        """The earlier name of a node that has come back; once, then None."""
        return self._returned.pop(node, None)

"""Which client is which: names of clients, and the nodes they answer from.

Flower identifies nodes by ids that change with every run, so contributions are kept
under the names that clients give themselves. A name belongs to the node that used it
first, and a node has one name. Nothing else is checked: names are taken on trust.
"""

from collections.abc import Collection, Mapping
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from flower_strategy.exchange import exchange
from flower_strategy.npy import PayloadError
from flower_strategy.payload import Contribution, Limits, decode

IDENTIFY = "query.identify"


class Roster:
    """The names and nodes of one run."""

    def __init__(self) -> None:
        self._node_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self._returned: dict[int, str] = {}

    def collect(
        self, replies: Mapping[int, Message], limits: Limits
    ) -> tuple[dict[str, Contribution], dict[str, str]]:
        """Decode replies by node.

        Returns:
            Contributions by client name, and the reason for each refused reply by
            ``node ID``.
        """
        accepted: dict[str, Contribution] = {}
        refused: dict[str, str] = {}
        for node, message in sorted(replies.items()):
            try:
                contribution = decode(message.content, limits)
                self._bind(contribution.client, node)
                accepted[contribution.client] = contribution
            except PayloadError as error:
                refused[f"node {node}"] = str(error)
            except Exception as error:
                # Nor may a reply that nobody foresaw stop the round.
                refused[f"node {node}"] = f"unreadable: {type(error).__name__}"
        return accepted, refused

    def ask_names(
        self, grid: Grid, nodes: Collection[int], known: Collection[str], seconds: float
    ) -> None:
        """Find the clients of an earlier run among the nodes of this one.

        A name given by several nodes belongs to none of them until one contributes, so
        its generator is not returned to any.

        Args:
            grid: Flower's.
            nodes: Ids of the nodes to ask.
            known: Names in the earlier run; others are ignored.
            seconds: Deadline for the replies.
        """
        asked = [Message(RecordDict(), node, IDENTIFY) for node in nodes]
        claims: dict[str, list[int]] = {}
        for node, reply in sorted(exchange(grid, asked, seconds).content.items()):
            identity = reply.content.config_records.get("identity") or ConfigRecord()
            claims.setdefault(str(identity.get("client")), []).append(node)
        for name in sorted(claims.keys() & set(known)):
            if len(claims[name]) == 1:
                (node,) = claims[name]
                self._bind(name, node)
                self._returned[node] = name
            else:
                log(WARNING, "nodes %s all claim to be %s", claims[name], name)
        log(INFO, "%d of %d clients recognised", len(self._returned), len(known))

    def _bind(self, name: str, node: int) -> None:
        if self._node_of.get(name, node) != node:
            raise PayloadError("another node has this client name")
        if self._name_of.get(node, name) != name:
            raise PayloadError(
                "this node has used another client name: set client-name in its node "
                "config"
            )
        self._node_of[name], self._name_of[node] = node, name

    def greet(self, node: int) -> str | None:
        """The earlier name of a returning node; None on later calls."""
        return self._returned.pop(node, None)

"""Who is who: the names of clients and the nodes they answer from.

Flower knows nodes by ids that are new in every run; contributions are kept by the names
clients give themselves. A name belongs to the node that used it first, and a node has
one name. Who may use which name is not checked: names are taken on trust.
"""

from collections.abc import Collection, Mapping
from logging import WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from flower_strategy.exchange import exchange
from flower_strategy.npy import PayloadError
from flower_strategy.payload import Contribution, Limits, decode

IDENTIFY = "query.identify"


class Roster:
    """Names and nodes of one run."""

    def __init__(self) -> None:
        self._node_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
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
                self._bind(contribution.client, node)
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

        A name that several nodes give is nobody's until one of them contributes: its
        generator is sent to none.

        Args:
            grid: Flower's.
            nodes: To ask.
            known: Names of the earlier run; others are not taken.
            seconds: Deadline for the answers.
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
                log(WARNING, "nodes %s all say they are %s", claims[name], name)

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
        """The earlier name of a node that has come back; once, then None."""
        return self._returned.pop(node, None)

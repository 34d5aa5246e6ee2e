"""A grid that runs client apps in this process, one after another.

For tests, notebooks and benchmarks: the same apps and strategies as under Flower's
engines, without processes, ports or waiting. Clients are not isolated from each other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

CLIENT_APP_RAISED = 2  # Flower's error code of a client app that raised


class LocalGrid(Grid):
    """Answers every message by calling a client app.

    Args:
        client_app: Called for every message.
        node_configs: One mapping per node; simulated nodes have ``partition-id`` and
            ``num-partitions``.
        run_config: The run configuration that every client sees.

    Attributes:
        contexts: By node id; their ``state`` persists from message to message.
        all_connected: No further node will connect, so the strategy waits for none.
    """

    all_connected = True

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[dict[str, Any]],
        run_config: dict[str, Any],
    ) -> None:
        identify_this_process()
        self.client_app = client_app
        self.contexts = {
            100 + index: Context(
                run_id=1,
                node_id=100 + index,
                node_config=dict(config),
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index, config in enumerate(node_configs)
        }
        self._sent = 0
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the client app on every message.

        Raises:
            ValueError: A message has no time to live, which Flower's grids refuse too.
        """
        identifiers = []
        for message in messages:
            if not message.metadata.ttl > 0:
                raise ValueError(f"Invalid message: {message}")
            self._sent += 1
            identifier = f"message-{self._sent}"
            message.metadata.__dict__["_message_id"] = identifier
            reply = self.answer(message)
            if reply is not None:
                self._replies[identifier] = reply
            identifiers.append(identifier)
        return identifiers

    def answer(self, message: Message) -> Message | None:
        """One client's reply, or None if it vanished; tests override this."""
        try:
            return self.client_app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have not been pulled yet."""
        found = (self._replies.pop(identifier, None) for identifier in message_ids)
        return [reply for reply in found if reply is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies; there is nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Information about all nodes."""
        return [NodeInfo(node_id=node) for node in self.contexts]

    def set_run(self, run: Any) -> None:
        """Do nothing: there is only one run."""

    @property
    def run(self) -> Any:
        """Not available: there is no engine."""
        raise NotImplementedError("a local grid belongs to no run")

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Deprecated in Flower: build a `flwr.app.Message`."""
        raise NotImplementedError("build a flwr.app.Message instead")


def identify_this_process() -> None:
    """Messages of Flower 1.41 need the ids that an engine gives its processes."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:  # before 1.41
        return
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

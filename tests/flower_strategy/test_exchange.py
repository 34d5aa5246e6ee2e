import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from condense_core import RunError
from flower_strategy.exchange import exchange, sort_replies, wait_for_nodes
from flower_strategy.local_grid import LocalGrid

SUPERLINK = 1


def content(text):
    return RecordDict({"config": ConfigRecord({"text": text})})


class Scripted(LocalGrid):
    """Answers by a function of the message."""

    def __init__(self, answer, nodes=3):
        super().__init__(None, [{}] * nodes, {})
        self._answer = answer

    def answer(self, message):
        return self._answer(message)


def ask(grid, seconds=0.1):
    messages = [Message(content("?"), node, "query.x") for node in grid.get_node_ids()]
    return exchange(grid, messages, seconds)


def test_answers_are_kept_by_node():
    grid = Scripted(lambda m: Message(content(str(m.metadata.dst_node_id)), reply_to=m))
    replies = ask(grid)
    assert {
        node: reply.content["config"]["text"] for node, reply in replies.content.items()
    } == {100: "100", 101: "101", 102: "102"}
    assert not replies.failed
    assert not replies.missing


def test_messages_live_as_long_as_answers_are_waited_for():
    grid = Scripted(lambda m: Message(content(str(m.metadata.ttl)), reply_to=m))
    replies = ask(grid, seconds=7200.0)
    assert replies.content[100].content["config"]["text"] == "7200.0"


def test_a_message_without_time_is_refused_as_by_flower():
    with pytest.raises(ValueError, match="Invalid message"):
        ask(Scripted(lambda m: Message(content("here"), reply_to=m)), seconds=0.0)


def superlink_answers(message):
    reply = Message(Error(5, "node is\nunavailable"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = SUPERLINK
    return reply


def test_an_error_belongs_to_the_node_that_was_asked():
    replies = ask(Scripted(superlink_answers, nodes=2))
    assert replies.failed == {
        100: "node is unavailable",
        101: "node is unavailable",
    }


def test_replies_collected_elsewhere_belong_to_the_nodes_that_were_asked():
    def two_are_dead_and_one_is_late(message):
        late = message.metadata.dst_node_id == 100
        return None if late else superlink_answers(message)

    grid = Scripted(two_are_dead_and_one_is_late)
    sent = [Message(content("?"), node, "query.x") for node in grid.get_node_ids()]
    replies = sort_replies(sent, grid.send_and_receive(sent))
    assert sorted(replies.failed) == [101, 102]
    assert replies.missing == [100]


def test_a_reply_to_an_unknown_message_is_its_senders():
    grid = Scripted(lambda m: Message(content("here"), reply_to=m), nodes=1)
    sent = [Message(content("?"), 100, "query.x")]
    replies = sort_replies([], grid.send_and_receive(sent))
    assert list(replies.content) == [100]


def test_an_error_without_a_reason_has_its_code():
    replies = ask(Scripted(lambda m: Message(Error(7), reply_to=m), nodes=1))
    assert replies.failed[100] != ""


def test_who_does_not_answer_in_time_is_missing():
    def only_one(message):
        if message.metadata.dst_node_id == 101:
            return Message(content("here"), reply_to=message)
        return None

    replies = ask(Scripted(only_one))
    assert list(replies.content) == [101]
    assert replies.missing == [100, 102]


def test_a_reply_that_cannot_be_read_does_not_hide_the_others():
    class Corrupt(Scripted):
        """Forgets what it hands out, as a SuperLink does, also if it is not read."""

        def pull_messages(self, message_ids):
            found = list(super().pull_messages(message_ids))
            if "message-2" in message_ids:
                raise ValueError("cannot inflate")
            return found

    replies = ask(Corrupt(lambda m: Message(content("here"), reply_to=m)))
    assert sorted(replies.content) == [100, 102]
    assert replies.failed == {101: "unreadable reply: ValueError"}


def test_a_message_that_cannot_be_sent_is_a_failure():
    class Full(Scripted):
        def push_messages(self, messages):
            return [None, *list(super().push_messages(list(messages)[1:]))]

    replies = ask(Full(lambda m: Message(content("here"), reply_to=m)))
    assert list(replies.failed) == [100]
    assert sorted(replies.content) == [101, 102]


def test_nodes_are_waited_for_only_so_long():
    grid = Scripted(lambda m: None, nodes=2)
    assert wait_for_nodes(grid, 2, 0.0) == [100, 101]
    assert wait_for_nodes(grid, 1, 0.0, wanted=5) == [100, 101]
    with pytest.raises(RunError, match="2 clients are connected"):
        wait_for_nodes(grid, 3, 0.0)


def test_more_nodes_are_waited_for_if_wanted(monkeypatch):
    grid = Scripted(lambda m: None, nodes=3)
    connected = iter([[100], [100, 101], [100, 101, 102]])
    monkeypatch.setattr(grid, "get_node_ids", lambda: next(connected))
    monkeypatch.setattr("flower_strategy.exchange.PAUSE_SECONDS", 0.0)
    assert wait_for_nodes(grid, 1, 60.0, wanted=3) == [100, 101, 102]


def connecting(monkeypatch, grid, arrivals):
    """One more node at each of these seconds of a clock that only pauses move."""
    clock = [0.0]
    there = list(grid.contexts)
    monkeypatch.setattr("flower_strategy.exchange.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "flower_strategy.exchange.time.sleep",
        lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )
    monkeypatch.setattr(
        grid,
        "get_node_ids",
        lambda: there[: sum(clock[0] >= arrival for arrival in arrivals)],
    )
    return clock


def test_nodes_that_still_connect_are_waited_for(monkeypatch):
    grid = Scripted(lambda m: None, nodes=10)
    clock = connecting(monkeypatch, grid, [0, 0, 4, 5, 8, 17, 18, 19, 20, 21])
    assert len(wait_for_nodes(grid, 2, 120.0, settle=10.0)) == 10
    assert 31.0 <= clock[0] < 40.0


def test_nodes_that_keep_connecting_do_not_delay_the_deadline(monkeypatch):
    grid = Scripted(lambda m: None, nodes=10)
    clock = connecting(monkeypatch, grid, range(0, 100, 9))
    assert len(wait_for_nodes(grid, 2, 20.0, settle=10.0)) == 3
    assert clock[0] < 25.0

"""Names and nodes, without a round around them."""

from flwr.app import ConfigRecord, Message, RecordDict

from flower_strategy.local_grid import LocalGrid
from flower_strategy.payload import encode
from flower_strategy.roster import Roster


def reply(content):
    return Message(content, 100, "train.condense")


class Named(LocalGrid):
    """Nodes 100, 101... that answer with these names."""

    def __init__(self, *names):
        super().__init__(None, [{}] * len(names), {})
        self.names = names

    def answer(self, message):
        name = self.names[message.metadata.dst_node_id - 100]
        record = ConfigRecord({"client": name})
        return Message(RecordDict({"identity": record}), reply_to=message)


def test_contributions_are_kept_by_name(contribute, limits):
    accepted, refused = Roster().collect(
        {7: reply(encode(contribute("a"))), 9: reply(encode(contribute("b")))}, limits
    )
    assert list(accepted) == ["a", "b"]
    assert not refused


def test_a_name_belongs_to_the_node_that_used_it_first(contribute, limits):
    roster = Roster()
    roster.collect({7: reply(encode(contribute("a")))}, limits)
    again = encode(contribute("a", seed=1))
    accepted, refused = roster.collect({7: reply(again), 9: reply(again)}, limits)
    assert list(accepted) == ["a"]
    assert "another node" in refused["node 9"]


def test_a_reply_nobody_thought_of_refuses_itself_alone(contribute, limits):
    good = reply(encode(contribute("a")))
    accepted, refused = Roster().collect({7: object(), 9: good}, limits)
    assert list(accepted) == ["a"]
    assert refused == {"node 7": "unreadable: AttributeError"}


def test_clients_of_an_earlier_run_are_greeted_once(caplog):
    roster, grid = Roster(), Named("b", "stranger", "a")
    with caplog.at_level("INFO", "flwr"):
        roster.ask_names(grid, list(grid.get_node_ids()), {"a", "b", "c"}, seconds=1.0)
    assert "2 of 3 clients recognised" in caplog.text
    assert [roster.greet(node) for node in (100, 101, 102)] == ["b", None, "a"]
    assert roster.greet(100) is None


def test_a_node_has_one_name(contribute, limits):
    roster = Roster()
    roster.collect({7: reply(encode(contribute("a")))}, limits)
    accepted, refused = roster.collect({7: reply(encode(contribute("b")))}, limits)
    assert not accepted
    assert "another client name: set client-name" in refused["node 7"]
    accepted, _ = roster.collect({9: reply(encode(contribute("b")))}, limits)
    assert list(accepted) == ["b"]


def test_a_name_that_two_nodes_give_is_neither_ones(contribute, limits):
    roster, grid = Roster(), Named("a", "b", "a")
    roster.ask_names(grid, list(grid.get_node_ids()), {"a", "b"}, seconds=1.0)
    assert [roster.greet(node) for node in (100, 101, 102)] == [None, "b", None]


def test_a_client_that_comes_back_keeps_its_name(contribute, limits):
    roster, grid = Roster(), Named("a", "b")
    roster.ask_names(grid, list(grid.get_node_ids()), {"a"}, seconds=1.0)
    assert roster.greet(101) is None
    _, refused = roster.collect({101: reply(encode(contribute("a")))}, limits)
    assert "another node" in refused["node 101"]

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from flower_strategy.payload import content_bytes, encode
from flower_strategy.traffic import acknowledgement_bytes, message_bytes


def message_of(content):
    return Message(content, 100, "train.condense")


def test_an_array_costs_its_bytes_and_names():
    one = RecordDict({"a": ArrayRecord({"x": Array(np.arange(1000.0))})})
    two = RecordDict(
        {"a": ArrayRecord({"x": Array(np.arange(1000.0)), "y": Array(np.ones(1000))})}
    )
    more = message_bytes(message_of(two)) - message_bytes(message_of(one))
    assert 8128 + 400 < more < 8128 + 600


def test_equal_arrays_are_sent_once():
    same = RecordDict(
        {"a": ArrayRecord({"x": Array(np.ones(1000)), "y": Array(np.ones(1000))})}
    )
    assert message_bytes(message_of(same)) < 8128 + 2000


def test_an_envelope_is_more_than_the_content(contribute):
    content = encode(contribute())
    message = message_of(content)
    assert message_bytes(message) > content_bytes(content)
    objects = 2 * len(content["condensed"]) + 5
    assert acknowledgement_bytes(message) <= 66 * objects


def test_a_message_of_settings_is_small():
    message = message_of(RecordDict({"config": ConfigRecord({"server-round": 1})}))
    assert message_bytes(message) < 1200

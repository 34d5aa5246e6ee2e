import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import Strategy

from condense_core import CondensedDataset, ConfigError, RunError, evaluate
from flower_strategy import condensing, global_model
from flower_strategy import strategy as strategy_module
from flower_strategy.client_app import app
from flower_strategy.exchange import exchange
from flower_strategy.local_grid import LocalGrid
from flower_strategy.payload import decode, encode
from flower_strategy.rounds import RunState
from flower_strategy.server_app import leave


def last(result):
    return result.state.reports[-1]


def same_model(one, two):
    torch.testing.assert_close(
        dict(one.state.model), dict(two.state.model), rtol=0, atol=0
    )


class Tampered(LocalGrid):
    """Changes the replies of some nodes."""

    tampering = None

    def answer(self, message):
        reply = super().answer(message)
        number = message.metadata.dst_node_id - 100
        change = (self.tampering or {}).get(number)
        return change(message, reply) if change else reply


class Failing(LocalGrid):
    """Keeps the messages it is given; every client fails."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = []

    def answer(self, message):
        self.asked.append(message)
        return raises(message, None)


def tampered(grid_of, run_config, tampering, clients=3):
    grid = grid_of(run_config, clients, kind=Tampered)
    grid.tampering = tampering
    return grid


def test_one_shot_trains_a_global_model(strategy_of, grid_of, run_config):
    result = strategy_of(run_config).start(grid_of(run_config))
    report = last(result)
    assert report.accepted == ["partition-0", "partition-1", "partition-2"]
    assert not report.rejected
    assert report.missing == 0
    assert 0.0 <= report.accuracy <= 100.0
    assert set(report.client_seconds) == set(report.accepted)
    assert report.bytes_up == sum(c.nbytes for c in result.state.contributions.values())
    assert result.evaluate_metrics_serverapp[1]["accuracy"] == report.accuracy
    assert result.train_metrics_clientapp[1]["bytes-up"] == report.bytes_up
    assert result.arrays.to_torch_state_dict().keys() == result.state.model.keys()


def test_one_shot_sends_no_model_down(strategy_of, grid_of, run_config):
    result = strategy_of(run_config).start(grid_of(run_config))
    assert last(result).bytes_down < 100


def test_the_same_run_gives_the_same_model(strategy_of, grid_of, run_config):
    state = torch.get_rng_state()
    one, two = (strategy_of(run_config).start(grid_of(run_config)) for _ in range(2))
    same_model(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    other = run_config | {"seed": 1}
    third = strategy_of(other).start(grid_of(other))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(
            one.state.model.values(), third.state.model.values(), strict=True
        )
    )


def test_rounds_send_the_model_down_and_improve_generators(
    strategy_of, grid_of, run_config
):
    run_config |= {"num-server-rounds": 2}
    grid = grid_of(run_config)
    result = strategy_of(run_config).start(grid)
    second = result.state.reports[1]
    model = sum(v.numel() * 4 for v in result.state.model.values())
    assert second.bytes_down > 3 * model
    assert all("generator" in c.state for c in grid.contexts.values())
    assert len(second.accepted) == 3


def test_clients_test_the_global_model(strategy_of, grid_of, run_config):
    # An MLP, since with another normalisation it answers differently.
    run_config |= {"evaluate-clients": True, "network": "mlp"}
    result = strategy_of(run_config).start(grid_of(run_config))
    metrics = result.evaluate_metrics_clientapp[1]
    # Their held-out images are together the server's test images.
    assert metrics["num-examples"] == 360
    assert metrics["accuracy"] == pytest.approx(last(result).accuracy)
    assert last(result).client_accuracy == metrics["accuracy"]
    model = sum(v.numel() * 4 for v in result.state.model.values())
    assert last(result).bytes_down > 3 * model


def test_clients_that_do_not_test_are_in_the_report(
    strategy_of, grid_of, run_config, caplog
):
    def at_the_test(fault):
        def tamper(message, reply):
            testing = message.metadata.message_type == "evaluate"
            return fault(message, reply) if testing else reply

        return tamper

    run_config |= {"evaluate-clients": True, "round-seconds": 1.0}
    faults = {0: at_the_test(vanishes), 1: at_the_test(raises)}
    with caplog.at_level("INFO", "flwr"):
        result = strategy_of(run_config).start(tampered(grid_of, run_config, faults))
    report = last(result)
    assert report.untested == {"node 100": "did not answer", "node 101": "boom"}
    assert report.client_images == 120  # a third of the held-out images
    assert report.missing == 0
    assert "not tested by node 100: did not answer" in caplog.text
    assert f"by clients {report.client_accuracy:.2f} % on 120 images" in caplog.text


def test_a_share_of_the_clients_is_asked(strategy_of, grid_of, run_config):
    run_config |= {"fraction-train": 0.5, "num-server-rounds": 2, "min-clients": 1}
    result = strategy_of(run_config).start(grid_of(run_config, clients=4))
    assert [len(r.accepted) for r in result.state.reports] == [2, 2]
    asked = {name for r in result.state.reports for name in r.accepted}
    assert set(result.state.contributions) == asked


def test_the_clients_that_are_asked_are_drawn_anew_in_every_round(
    strategy_of, run_config
):
    strategy = strategy_of(run_config | {"fraction-train": 0.5})
    first, again, second = (
        strategy.sample_nodes(list(range(20)), server_round)
        for server_round in (1, 1, 2)
    )
    assert len(first) == len(second) == 10
    assert first == again != second


@pytest.mark.parametrize(
    ("counted", "settles"),
    [({}, [7.0, 0.0]), ({"min-available-clients": 3}, [0.0, 0.0])],
)
def test_the_first_round_starts_when_no_more_clients_connect(
    strategy_of, grid_of, run_config, monkeypatch, caplog, counted, settles
):
    waited, original = [], strategy_module.wait_for_nodes

    def recorded(*arguments, settle, **options):
        waited.append(settle)
        return original(*arguments, settle=settle, **options)

    monkeypatch.setattr(strategy_module, "wait_for_nodes", recorded)
    run_config |= {"settle-seconds": 7.0, "fraction-train": 0.7, **counted}
    grid = grid_of(run_config, kind=Failing)
    grid.all_connected = False
    with caplog.at_level("INFO", "flwr"):
        strategy_of(run_config).start(grid, num_rounds=2)
    assert waited == settles
    assert "asking 2 of 3 connected clients" in caplog.text


def test_nobody_is_waited_for_within_one_process(strategy_of, grid_of, run_config):
    run_config |= {"settle-seconds": 600.0, "wait-seconds": 600.0}
    started = time.monotonic()
    strategy_of(run_config).start(grid_of(run_config, kind=Failing))
    assert time.monotonic() - started < 60


def test_too_few_clients_end_the_run_with_a_remedy(strategy_of, grid_of, run_config):
    run_config |= {"min-clients": 4}
    with pytest.raises(RunError, match="3 clients are connected"):
        strategy_of(run_config).start(grid_of(run_config))


# ------------------------------------------------------------------ faults


def vanishes(message, reply):
    return None


def raises(message, reply):
    return Message(Error(2, "boom"), reply_to=message)


def changed_array(change):
    def tamper(message, reply):
        arrays = reply.content["condensed"]
        name = next(n for n in arrays if n.endswith("weight"))
        arrays[name] = change(arrays[name].numpy())
        return reply

    return tamper


def changed_spec(**values):
    def tamper(message, reply):
        spec = json.loads(reply.content["spec"]["json"])
        reply.content["spec"] = ConfigRecord({"json": json.dumps(spec | values)})
        return reply

    return tamper


def rubbish(message, reply):
    return Message(RecordDict({"x": MetricRecord({"y": 1})}), reply_to=message)


def zip_bytes(values):
    return Array(
        dtype="float32", shape=values.shape, stype="numpy.ndarray", data=b"PK\x03\x04"
    )


def huge_header(values):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (17179869184,), }"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    padding = bytes(values.nbytes)
    return Array(
        dtype="float32", shape=(1,), stype="numpy.ndarray", data=data + padding
    )


FAULTS = {
    "raises": (raises, "boom"),
    "sends NaN": (
        changed_spec(normalisation={"mean": [float("nan")], "std": [1.0]}),
        "normalisation",
    ),
    "wrong shape": (changed_array(lambda v: Array(v.reshape(-1))), "expected"),
    "zip bytes": (changed_array(zip_bytes), "bytes"),
    "huge header": (changed_array(huge_header), "expected"),
    "unknown architecture": (
        changed_spec(architecture={"kind": "transformer"}),
        "metadata",
    ),
    "classes out of range": (changed_spec(class_ids=list(range(1, 11))), "class_ids"),
    "count of 10^12": (changed_spec(counts=[10**12] * 10), "counts"),
    "no contribution at all": (rubbish, "records"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_client_is_left_out_with_a_reason(
    strategy_of, grid_of, run_config, name
):
    fault, reason = FAULTS[name]
    grid = tampered(grid_of, run_config, {1: fault})
    result = strategy_of(run_config).start(grid)
    assert last(result).accepted == ["partition-0", "partition-2"]
    assert reason in last(result).rejected["node 101"]
    assert last(result).accuracy is not None


def test_a_client_that_vanishes_is_counted(strategy_of, grid_of, run_config):
    run_config |= {"round-seconds": 1.0}
    grid = tampered(grid_of, run_config, {0: vanishes})
    started = time.monotonic()
    result = strategy_of(run_config).start(grid)
    assert last(result).missing == 1
    assert last(result).accepted == ["partition-1", "partition-2"]
    assert time.monotonic() - started < 60


def test_a_clients_failure_tells_no_more_than_it_must(strategy_of, grid_of, run_config):
    run_config |= {"min-class-count": 10_000}
    result = strategy_of(run_config).start(grid_of(run_config))
    assert last(result).accepted == []
    (reason, *_) = set(last(result).rejected.values())
    assert "min-class-count" in reason
    assert "Traceback" not in reason
    assert last(result).accuracy is None  # and no model was trained


def test_a_sites_failure_does_not_tell_its_paths(strategy_of, run_config, tmp_path):
    broken = tmp_path / "secret-ward" / "train" / "0"
    broken.mkdir(parents=True)
    (broken / "patient.png").write_bytes(b"no image")
    nodes = [{"data-path": str(tmp_path / "secret-ward")}]
    run_config |= {"min-clients": 1}
    result = strategy_of(run_config).start(LocalGrid(app, nodes, run_config))
    (reason,) = last(result).rejected.values()
    assert reason == "DataError: the client cannot read its images: see its log"


def test_a_private_client_without_a_class_left_is_told(
    strategy_of, grid_of, run_config
):
    # Out of reach of the noise: near the default a noised count passes now and then.
    run_config |= {"dp-epsilon": 0.05, "min-class-count": 10_000}
    result = strategy_of(run_config).start(grid_of(run_config))
    assert "no class has enough images" in last(result).rejected["node 100"]


def test_a_client_cannot_take_anothers_name(strategy_of, grid_of, run_config):
    grid = tampered(grid_of, run_config, {2: changed_spec(client="partition-0")})
    result = strategy_of(run_config).start(grid)
    assert last(result).accepted == ["partition-0", "partition-1"]
    assert "another node" in last(result).rejected["node 102"]


def test_an_earlier_contribution_stays_when_its_client_fails(
    strategy_of, grid_of, run_config
):
    run_config |= {"num-server-rounds": 2}

    def fails_later(message, reply):
        if message.content["config"]["server-round"] > 1:
            return raises(message, reply)
        return reply

    result = strategy_of(run_config).start(
        tampered(grid_of, run_config, {1: fails_later})
    )
    assert result.state.reports[1].accepted == ["partition-0", "partition-2"]
    assert sorted(result.state.contributions) == [
        "partition-0",
        "partition-1",
        "partition-2",
    ]


def test_a_round_with_too_few_answers_leaves_the_model_as_it_is(
    strategy_of, grid_of, run_config, contribute
):
    strategy = strategy_of(run_config)
    strategy.state = RunState(
        model=strategy.start(grid_of(run_config, kind=Failing)).state.model,
        contributions={name: contribute(name) for name in "abc"},
    )
    result = strategy.start(grid_of(run_config, kind=Failing))
    assert last(result).synthetic_images == 0
    assert not result.state.trained


def test_an_untrained_model_is_not_sent_down(strategy_of, grid_of, run_config):
    run_config |= {"num-server-rounds": 3}
    down, up = {}, {}

    def fails_at_first(message, reply):
        server_round = message.content["config"]["server-round"]
        down.setdefault(server_round, []).append(message.content)
        if message.metadata.dst_node_id == 100:
            up[server_round] = reply.content["condensed"]
        elif server_round == 1:
            return raises(message, reply)
        return reply

    grid = tampered(grid_of, run_config, dict.fromkeys(range(3), fails_at_first))
    result = strategy_of(run_config).start(grid)
    first, *later = result.state.reports
    assert first.accuracy is None
    assert all(report.accuracy is not None for report in later)
    assert [len(report.accepted) for report in result.state.reports] == [1, 3, 3]
    assert not any("arrays" in content for content in (*down[1], *down[2]))
    assert all("arrays" in content for content in down[3])
    # Nothing to go on with: the client repeats what it sent.
    for name, array in up[1].items():
        assert up[2][name].data == array.data
    assert any(up[3][name].data != array.data for name, array in up[1].items())


def test_a_poisoned_class_is_dropped(strategy_of, grid_of, run_config):
    run_config |= {"robust-threshold": 4.0, "upload-bytes": 30_000}
    run_config["overrides"] = (
        "pretrain.steps=150 pretrain.batch_size=64 format.code_components=1"
    )

    def poisons(message, reply):
        spec = json.loads(reply.content["spec"]["json"])
        # The images of a zero are sent under the name of a one, and the other way.
        arrays = reply.content["condensed"]
        for name in ("class_embedding", "code_mean", "code_factor"):
            for key in (name, f"{name}.scale"):
                if key in arrays:
                    values = arrays[key].numpy().copy()
                    values[[0, 1]] = values[[1, 0]]
                    arrays[key] = Array(values)
        reply.content["spec"] = ConfigRecord({"json": json.dumps(spec)})
        return reply

    grid = tampered(grid_of, run_config, {1: poisons}, clients=5)
    result = strategy_of(run_config).start(grid)
    assert {("partition-1", 0), ("partition-1", 1)} <= result.dropped
    honest = {client for client, _ in result.dropped} - {"partition-1"}
    assert not honest
    assert last(result).rejected["partition-1, class 0"] == "far from its peers"


# ------------------------------------------------------------------ privacy


@pytest.fixture
def released(monkeypatch):
    """Number of images of every release."""
    seen, original = [], condensing.release

    def counted(data, *arguments, **options):
        seen.append(len(data))
        return original(data, *arguments, **options)

    monkeypatch.setattr(condensing, "release", counted)
    return seen


def test_the_private_mode_reports_its_budget_and_releases_once(
    strategy_of, grid_of, run_config, released
):
    run_config |= {"dp-epsilon": 50.0, "dp-delta": 1e-6, "num-server-rounds": 2}
    result = strategy_of(run_config).start(grid_of(run_config))
    assert len(released) == 3
    for report in result.state.reports:
        assert report.accepted == [f"partition-{i}" for i in range(3)]
        assert not report.rejected
    for contribution in result.state.contributions.values():
        assert contribution.privacy["epsilon"] == 50.0
        assert contribution.privacy["delta"] == 1e-6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dp-epsilon": 0.05, "min-class-count": 10_000}, "lower min-class-count"),
        ({"dp-epsilon": 50.0, "upload-bytes": 100}, "BudgetError"),
    ],
)
def test_a_private_client_that_failed_draws_no_second_time(
    strategy_of, grid_of, run_config, released, settings, reason
):
    run_config |= {"num-server-rounds": 2, **settings}
    result = strategy_of(run_config).start(grid_of(run_config))
    first, second = result.state.reports
    assert reason in first.rejected["node 100"]
    assert second.rejected == first.rejected
    assert len(released) == 3


def test_a_server_that_asks_again_gets_the_same_release(grid_of, run_config):
    grid = grid_of(run_config | {"dp-epsilon": 50.0}, clients=1)
    answers = []
    for server_round in (1, 1, 2):
        config = ConfigRecord({"server-round": server_round})
        asked = Message(RecordDict({"config": config}), 100, "train.condense")
        answers.append(exchange(grid, [asked], 1.0).content[100].content)
    texts = [answer["spec"]["json"] for answer in answers]
    assert json.loads(texts[0])["privacy"]["epsilon"] == 50.0
    assert texts[1] == texts[2] == texts[0]
    for name, array in answers[0]["condensed"].items():
        assert answers[1]["condensed"][name].data == array.data


def test_a_private_client_does_not_tell_how_long_it_took(
    strategy_of, grid_of, run_config
):
    run_config |= {"dp-epsilon": 50.0, "min-clients": 1}
    result = strategy_of(run_config).start(grid_of(run_config, clients=1))
    assert last(result).client_seconds == {"partition-0": 0.0}


def test_a_private_client_does_not_test_the_model(grid_of, run_config):
    grid = grid_of(run_config | {"dp-epsilon": 50.0}, clients=1)
    replies = exchange(grid, [Message(RecordDict(), 100, "evaluate")], 1.0)
    assert "set evaluate-clients=false" in replies.failed[100]


def test_private_counts_are_noised(strategy_of, grid_of, run_config):
    run_config |= {"min-clients": 1, "partition": "iid"}
    private = run_config | {"dp-epsilon": 4.0}
    open_, noised = (
        strategy_of(c).start(grid_of(c, clients=1)).state.contributions["partition-0"]
        for c in (run_config, private)
    )
    assert open_.privacy is None
    assert noised.class_ids == open_.class_ids
    assert noised.counts != open_.counts
    # The noise on a count has a deviation of four images at this budget.
    assert np.abs(np.subtract(noised.counts, open_.counts)).max() < 40


# ------------------------------------------------------------------ on disk


SERVER = """
import json, sys, torch
from flower_strategy.client_app import app
from flower_strategy.local_data import load_global
from flower_strategy.local_grid import LocalGrid
from flower_strategy.settings import DataSettings, ModelSettings, ServerSettings
from flower_strategy.strategy import CondensationStrategy

torch.set_num_threads(int(sys.argv[2]))
run_config = json.loads(sys.argv[1])
test = load_global(DataSettings.read(run_config), "test")
nodes = [{"partition-id": i, "num-partitions": 3} for i in range(3)]
CondensationStrategy(
    ServerSettings.read(run_config),
    ModelSettings.read(run_config),
    image_shape=test.image_shape,
    classes=test.classes,
    test=test,
).start(LocalGrid(app, nodes, run_config))
"""


def test_a_killed_server_resumes_to_the_same_result(
    strategy_of, grid_of, run_config, tmp_path
):
    run_config |= {"num-server-rounds": 3}
    whole = strategy_of(run_config).start(grid_of(run_config))

    folder = tmp_path / "run"
    saved = {"save-to": str(folder)}
    # Far more rounds than will ever be run: the signal comes first.
    endless = run_config | saved | {"num-server-rounds": 1000}
    threads = str(torch.get_num_threads())
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(endless), threads]
    )
    try:
        deadline = time.monotonic() + 600
        while not (folder / "round-001").is_dir():
            assert server.poll() is None, "the server ended before it was killed"
            assert time.monotonic() < deadline, "no round was written"
            time.sleep(0.01)
    finally:
        server.kill()
        server.wait()
    written = RunState.load(folder).server_round
    # The signal may have come in a later round; the result is the same up to it.
    rounds = {"num-server-rounds": max(3, written)}
    if written > 3:
        whole = strategy_of(run_config | rounds).start(grid_of(run_config))
    after = run_config | saved | rounds | {"resume-from": str(folder)}
    resumed = strategy_of(after).start(grid_of(after))
    same_model(whole, resumed)
    assert last(resumed).accuracy == last(whole).accuracy


def test_a_stopped_server_resumes_with_new_nodes(
    strategy_of, grid_of, run_config, tmp_path
):
    run_config |= {"num-server-rounds": 3}
    whole = strategy_of(run_config).start(grid_of(run_config))

    folder = {"save-to": str(tmp_path / "run")}
    before = run_config | folder | {"num-server-rounds": 2}
    strategy_of(before).start(grid_of(before))
    after = run_config | folder | {"resume-from": folder["save-to"]}
    # A new run has new nodes, whose state is empty.
    resumed = strategy_of(after).start(grid_of(after))
    same_model(whole, resumed)
    assert [r.server_round for r in resumed.state.reports] == [1, 2, 3]
    assert resumed.state.reports[2].accuracy == whole.state.reports[2].accuracy


def test_names_are_asked_for_with_the_deadline_of_a_round(
    strategy_of, grid_of, run_config, contribute, tmp_path
):
    run_config |= {"save-to": str(tmp_path), "wait-seconds": 5.0}
    strategy = strategy_of(run_config)
    strategy.start(grid_of(run_config, kind=Failing))
    contributions = {"partition-0": contribute("partition-0")}
    replace(strategy.state, contributions=contributions).save(tmp_path)
    after = run_config | {"resume-from": str(tmp_path), "round-seconds": 77.0}
    grid = grid_of(after, kind=Failing)
    strategy_of(after).start(grid)
    assert {message.metadata.ttl for message in grid.asked} == {77.0}
    assert {m.metadata.message_type for m in grid.asked} == {"query.identify"}


def test_a_failed_training_does_not_cost_the_clients_work(
    strategy_of, grid_of, run_config, tmp_path, monkeypatch
):
    whole = strategy_of(run_config).start(grid_of(run_config))

    def fails(*_, **__):
        raise RunError("no memory")

    run_config |= {"save-to": str(tmp_path)}
    with monkeypatch.context() as patch:
        patch.setattr(global_model, "train_global", fails)
        with pytest.raises(RunError, match="no memory"):
            strategy_of(run_config).start(grid_of(run_config))
    monkeypatch.setattr(condensing, "condense", fails)
    run_config |= {"resume-from": str(tmp_path)}
    resumed = strategy_of(run_config).start(grid_of(run_config))
    same_model(whole, resumed)
    assert [report.server_round for report in resumed.state.reports] == [1]


def test_a_finished_run_is_not_run_again(strategy_of, grid_of, run_config, tmp_path):
    run_config |= {"save-to": str(tmp_path)}
    first = strategy_of(run_config).start(grid_of(run_config))
    again = run_config | {"resume-from": str(tmp_path)}
    second = strategy_of(again).start(grid_of(again))
    same_model(first, second)
    assert len(second.state.reports) == 1


@pytest.mark.parametrize("source", ["", "elsewhere"])
def test_a_folder_with_rounds_of_another_run_is_refused_before_any_work(
    strategy_of, grid_of, run_config, tmp_path, source
):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "used" / "round-001").mkdir(parents=True)
    run_config |= {"save-to": str(tmp_path / "used")}
    if source:
        run_config |= {"resume-from": str(tmp_path / source)}
    grid = grid_of(run_config, kind=Failing)
    with pytest.raises(ConfigError, match="holds rounds of another run"):
        strategy_of(run_config).start(grid)
    assert not grid.asked


def test_one_command_starts_and_restarts_a_run(
    strategy_of, grid_of, run_config, tmp_path
):
    folder = str(tmp_path / "run")
    run_config |= {"save-to": folder, "resume-from": folder}
    for rounds in (1, 2):
        strategy = strategy_of(run_config)
        result = strategy.start(grid_of(run_config, kind=Failing), num_rounds=rounds)
        assert len(result.state.reports) == rounds


def test_a_run_that_is_started_again_goes_on_in_its_own_folder(
    strategy_of, grid_of, run_config, tmp_path
):
    strategy = strategy_of(run_config | {"save-to": str(tmp_path)})
    for rounds in (1, 2):
        strategy.start(grid_of(run_config, kind=Failing), num_rounds=rounds)
    assert RunState.load(tmp_path).server_round == 2


def test_a_run_is_not_resumed_under_other_settings(
    strategy_of, grid_of, run_config, tmp_path
):
    run_config |= {"save-to": str(tmp_path)}
    strategy_of(run_config).start(grid_of(run_config, kind=Failing))
    other = run_config | {"resume-from": str(tmp_path), "network-width": 8}
    grid = grid_of(other, kind=Failing)
    with pytest.raises(ConfigError, match="network-width 4, this one 8"):
        strategy_of(other).start(grid, num_rounds=2)
    assert not grid.asked


def test_rounds_are_left_as_artefacts(strategy_of, grid_of, run_config, tmp_path):
    run_config |= {"save-to": str(tmp_path)}
    strategy = strategy_of(run_config)
    result = strategy.start(grid_of(run_config))
    leave(result, strategy, tmp_path)
    state = RunState.load(tmp_path)
    assert sorted(state.contributions) == sorted(result.state.contributions)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["rounds"][0]["accepted"] == last(result).accepted
    merged = CondensedDataset.load(tmp_path / "merged.safetensors")
    assert merged.images_per_class == 3
    evaluate(merged, strategy.test, repeats=1, width=4, max_steps=1, device="cpu")


# ------------------------------------------------------------------ as Flower calls it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rounds": 0}, "num_rounds is 0: choose at least 1"),
        ({"timeout": 0}, "timeout is 0: choose a value above 0"),
    ],
)
def test_an_argument_out_of_range_is_refused(
    strategy_of, grid_of, run_config, arguments, message
):
    with pytest.raises(ConfigError, match=message):
        strategy_of(run_config).start(grid_of(run_config), **arguments)


def test_arguments_override_settings(strategy_of, grid_of, run_config):
    run_config |= {"num-server-rounds": 2, "round-seconds": 1000.0}
    grid = tampered(grid_of, run_config, {0: vanishes})
    started = time.monotonic()
    result = strategy_of(run_config).start(grid, num_rounds=1, timeout=0.1)
    assert len(result.state.reports) == 1
    assert last(result).missing == 1
    assert time.monotonic() - started < 500


def test_the_callers_weights_are_the_first_model(strategy_of, grid_of, run_config):
    strategy = strategy_of(run_config)
    seeded = strategy.start(grid_of(run_config, kind=Failing)).state.model
    given = {name: value + 1 for name, value in seeded.items()}
    result = strategy_of(run_config).start(
        grid_of(run_config, kind=Failing), initial_arrays=ArrayRecord(given)
    )
    torch.testing.assert_close(dict(result.state.model), given, rtol=0, atol=0)


def test_the_callers_weights_are_the_first_model_in_flowers_own_loop(
    strategy_of, grid_of, run_config
):
    strategy = strategy_of(run_config)
    seeded = strategy.start(grid_of(run_config, kind=Failing)).state.model
    given = {name: value + 1 for name, value in seeded.items()}
    result = Strategy.start(
        strategy_of(run_config),
        grid_of(run_config, kind=Failing),
        ArrayRecord(given),
        num_rounds=1,
    )
    found = result.arrays.to_torch_state_dict()
    torch.testing.assert_close(dict(found), given, rtol=0, atol=0)


def test_the_callers_test_comes_before_the_first_round_of_a_new_run(
    strategy_of, grid_of, run_config, tmp_path
):
    def test(server_round, arrays):
        tested.append((server_round, len(arrays) > 0))
        return MetricRecord({"loss": float(server_round)})

    run_config |= {"save-to": str(tmp_path), "resume-from": str(tmp_path)}
    for rounds, expected in ((1, [0, 1]), (2, [2])):
        tested = []
        result = strategy_of(run_config).start(
            grid_of(run_config, kind=Failing), num_rounds=rounds, evaluate_fn=test
        )
        assert tested == [(number, True) for number in expected]
        assert list(result.evaluate_metrics_serverapp) == expected


def test_a_resumed_run_has_the_metrics_of_all_rounds(
    strategy_of, grid_of, run_config, tmp_path
):
    run_config |= {"save-to": str(tmp_path), "evaluate-clients": True}
    first = strategy_of(run_config).start(grid_of(run_config))
    again = strategy_of(run_config | {"resume-from": str(tmp_path)}).start(
        grid_of(run_config, kind=Failing)
    )
    assert again.evaluate_metrics_clientapp == first.evaluate_metrics_clientapp
    assert again.evaluate_metrics_clientapp[1]["num-examples"] == 360


def test_the_callers_values_and_deadline_go_to_the_clients(
    strategy_of, grid_of, run_config
):
    grid = grid_of(run_config, kind=Failing)
    strategy_of(run_config).start(
        grid, timeout=7.5, train_config=ConfigRecord({"note": "mine"})
    )
    assert len(grid.asked) == 3
    for message in grid.asked:
        assert dict(message.content["config"]) == {"note": "mine", "server-round": 1}
        assert message.metadata.ttl == 7.5


def test_the_callers_values_go_to_the_clients_that_test(
    strategy_of, grid_of, run_config
):
    strategy = strategy_of(run_config | {"evaluate-clients": True})
    strategy.state = RunState(
        model={"weight": torch.ones(1)}, normalisation=([0.25], [0.5])
    )
    grid = grid_of(run_config, kind=Failing)
    strategy.start(grid, timeout=7.5, evaluate_config=ConfigRecord({"note": "mine"}))
    testing = [m for m in grid.asked if m.metadata.message_type == "evaluate"]
    assert len(testing) == 3
    for message in testing:
        config = dict(message.content["config"])
        assert config == {
            "note": "mine",
            "server-round": 1,
            "mean": [0.25],
            "std": [0.5],
        }
        assert message.metadata.ttl == 7.5


@pytest.mark.parametrize(
    "values",
    [
        {"num-examples": 10**12, "accuracy": 50.0},
        {"num-examples": -30, "accuracy": 50.0},
        {"num-examples": 0, "accuracy": 50.0},
        {"num-examples": 30, "accuracy": 500.0},
        {"num-examples": 30, "accuracy": -1.0},
        {"num-examples": 30, "accuracy": float("nan")},
        {"num-examples": 30, "accuracy": [50.0]},
        {"accuracy": 50.0},
    ],
)
def test_an_implausible_accuracy_does_not_count(strategy_of, run_config, values):
    asked = Message(RecordDict(), 100, "evaluate")
    replies = [
        Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=asked)
        for metrics in (values, {"num-examples": 10, "accuracy": 40.0})
    ]
    found = strategy_of(run_config).aggregate_evaluate(1, replies)
    assert dict(found) == {"accuracy": 40.0, "num-examples": 10}


def test_an_error_reply_does_not_spoil_the_clients_accuracy(
    strategy_of, grid_of, run_config
):
    run_config |= {"evaluate-clients": True}
    strategy, grid = strategy_of(run_config), grid_of(run_config)
    arrays = strategy.start(grid).arrays
    messages = strategy.configure_evaluate(1, arrays, ConfigRecord(), grid)
    *others, spoilt = grid.send_and_receive(messages)
    failed = Message(Error(2, "boom"), reply_to=spoilt)
    found = strategy.aggregate_evaluate(1, [failed, *others])
    assert found == strategy.aggregate_evaluate(1, others)


def test_replies_can_be_aggregated_by_flowers_own_loop(
    strategy_of, grid_of, run_config
):
    strategy = strategy_of(run_config)
    grid = grid_of(run_config)
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    # Some of Flower's grids go through the messages more than once.
    assert [m.metadata.dst_node_id for m in messages] == [100, 101, 102]
    arrays, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert metrics["clients"] == 3
    expected = strategy_of(run_config).start(grid_of(run_config))
    torch.testing.assert_close(
        dict(arrays.to_torch_state_dict()), dict(expected.state.model)
    )


def test_every_dead_node_is_reported_to_flowers_own_loop(
    strategy_of, grid_of, run_config
):
    def superlink_answers(message, reply):
        answer = raises(message, reply)
        answer.metadata.__dict__["_src_node_id"] = 1
        return answer

    strategy = strategy_of(run_config)
    faults = {0: superlink_answers, 1: superlink_answers, 2: vanishes}
    grid = tampered(grid_of, run_config, faults)
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    (report,) = strategy.state.reports
    assert report.rejected == {"node 100": "boom", "node 101": "boom"}
    assert report.missing == 1
    assert report.bytes_down > 0


def test_test_images_must_fit(strategy_of, run_config):
    strategy = strategy_of(run_config)
    other = replace(strategy.test, classes=tuple("abcdefghij"))
    with pytest.raises(ConfigError, match="do not fit"):
        type(strategy)(
            strategy.settings,
            strategy.model,
            image_shape=(1, 8, 8),
            classes=strategy.test.classes,
            test=other,
        )


def test_what_a_client_sends_is_what_it_keeps(strategy_of, grid_of, run_config):
    strategy, grid = strategy_of(run_config), grid_of(run_config)
    messages = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    reply = next(iter(grid.send_and_receive(messages)))
    sent = decode(reply.content, strategy.limits)
    assert encode(sent)["condensed"].keys() == reply.content["condensed"].keys()
    assert np.isfinite(sent.condensed.images()[0].numpy()).all()

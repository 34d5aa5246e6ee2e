"""What a site demands of a run."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from condense_core import ConfigError
from flower_strategy import local_data
from flower_strategy.client_app import app
from flower_strategy.exchange import exchange
from flower_strategy.local_grid import LocalGrid
from flower_strategy.settings import ClientSettings
from flower_strategy.site import SiteSettings

PRIVATE = {"max-dp-epsilon": 2.0}


@pytest.mark.parametrize(
    ("site", "run"),
    [
        ({}, {}),
        (PRIVATE, {"dp-epsilon": 2.0}),
        (PRIVATE, {"dp-epsilon": 0.5, "dp-delta": 1e-6}),
        ({**PRIVATE, "max-dp-delta": 1e-3}, {"dp-epsilon": 1.0, "dp-delta": 1e-3}),
        ({"min-class-count": 10}, {"min-class-count": 10}),
        ({"max-dp-epsilon": 2, "client-name": "north"}, {"dp-epsilon": 1.0}),
    ],
)
def test_a_run_within_the_limits_is_accepted(site, run):
    SiteSettings.read(site).check(ClientSettings.read(run))


@pytest.mark.parametrize(
    ("site", "run", "reason"),
    [
        (PRIVATE, {}, "dp-epsilon above 0 and at most 2 .* the run has 0 and"),
        (PRIVATE, {"dp-epsilon": 2.5}, "the run has 2.5"),
        (PRIVATE, {"dp-epsilon": 1.0, "dp-delta": 0.9}, "dp-delta at most 1e-05"),
        ({"max-dp-epsilon": float("nan")}, {"dp-epsilon": 1.0}, "above 0"),
        ({"min-class-count": 20}, {}, "min-class-count at least 20, the run has 10"),
        ({"max-dp-epsilon": 0.0}, {}, "node config max-dp-epsilon is 0.0"),
        ({"max-dp-epsilon": "2"}, {}, "node config max-dp-epsilon is '2'"),
        ({"min-class-count": 0}, {}, "node config min-class-count is 0"),
    ],
)
def test_a_weaker_run_is_refused(site, run, reason):
    with pytest.raises(ConfigError, match=reason):
        SiteSettings.read(site).check(ClientSettings.read(run))


@pytest.mark.parametrize("kind", ["train.condense", "evaluate"])
def test_a_site_refuses_before_it_reads_an_image(run_config, monkeypatch, kind):
    def fails(*_, **__):
        raise AssertionError("images were read")

    monkeypatch.setattr(local_data, "load_source", fails)
    node = {"partition-id": 0, "num-partitions": 1} | PRIVATE
    grid = LocalGrid(app, [node], run_config)
    config = RecordDict({"config": ConfigRecord({"server-round": 1})})
    replies = exchange(grid, [Message(config, 100, kind)], 1.0)
    assert "this site takes part only with dp-epsilon" in replies.failed[100]

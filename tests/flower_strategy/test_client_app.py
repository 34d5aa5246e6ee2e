"""A client app over images that the caller's own code reads."""

import torch

from condense_core import DataError
from condense_core.data.sources import load_source
from flower_strategy.client_app import build_client_app
from flower_strategy.local_grid import LocalGrid

NODES = [{"client-name": "north"}, {"client-name": "south"}]


def halves(split):
    data = load_source("digits", split=split, data_root=None)
    return {
        name: data.subset(torch.arange(start, 300, 2))
        for start, name in enumerate(("north", "south"))
    }


def load(context):
    name = context.node_config["client-name"]
    return halves("train")[name], halves("test")[name]


def test_own_images_take_part_in_all_that_a_federation_does(strategy_of, run_config):
    run_config |= {"evaluate-clients": True, "num-server-rounds": 2}
    grid = LocalGrid(build_client_app(load), NODES, run_config)
    result = strategy_of(run_config).start(grid)
    for report in result.state.reports:
        assert report.accepted == ["north", "south"]
        assert report.client_images == 300
    assert all("generator" in c.state for c in grid.contexts.values())


def test_own_images_are_private_if_the_run_is(strategy_of, run_config):
    run_config |= {"dp-epsilon": 50.0}
    demanding = [*NODES[:1], NODES[1] | {"max-dp-epsilon": 4.0}]
    grid = LocalGrid(build_client_app(load), demanding, run_config | {"min-clients": 1})
    result = strategy_of(run_config | {"min-clients": 1}).start(grid)
    assert result.state.contributions["north"].privacy["epsilon"] == 50.0
    assert "takes part only" in result.state.reports[0].rejected["node 101"]


def test_a_node_needs_a_name(strategy_of, run_config):
    grid = LocalGrid(build_client_app(load), [{}, {}], run_config)
    result = strategy_of(run_config).start(grid)
    assert "(client-name if the app loads its" in str(result.state.reports[0].rejected)


def test_why_own_images_cannot_be_read_stays_at_the_site(strategy_of, run_config):
    def fails(context):
        raise DataError("no file /secret/ward")

    grid = LocalGrid(build_client_app(fails), NODES, run_config)
    result = strategy_of(run_config).start(grid)
    assert "secret" not in str(result.state.reports[0].rejected)


def test_mods_are_around_every_message(strategy_of, run_config):
    seen = []

    def mod(message, context, call_next):
        seen.append(message.metadata.message_type)
        return call_next(message, context)

    def fails(context):
        raise DataError("nothing to read")

    grid = LocalGrid(build_client_app(fails, mods=[mod]), NODES, run_config)
    strategy_of(run_config).start(grid)
    assert seen == ["train.condense"] * 2

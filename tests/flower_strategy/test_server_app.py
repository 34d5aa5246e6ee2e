import json

import pytest
from flwr.app import Context, RecordDict

from condense_core import CondensedDataset, PixelStatistics, RunError
from flower_strategy.aggregation import merge
from flower_strategy.result import CondensationResult
from flower_strategy.rounds import RunState
from flower_strategy.server_app import leave, main
from flower_strategy.settings import ModelSettings, ServerSettings
from flower_strategy.strategy import CondensationStrategy


@pytest.fixture
def result(contribute):
    """Two clients with a common class, of which one has far more images."""
    contributions = {
        "a": contribute("a", (0, 2), (30, 10), seed=1),
        "b": contribute("b", (2, 3), (500, 10), seed=2),
    }
    result = CondensationResult()
    state = RunState(contributions=contributions, normalisation=([0.4], [0.2]))
    result.finish(state, frozenset({("b", 3)}))
    return result


def strategy_of(limits, **settings):
    return CondensationStrategy(
        ServerSettings(**settings),
        ModelSettings(seed=7),
        image_shape=limits.image_shape,
        classes=limits.classes,
    )


def test_the_merged_artefact_is_made_by_the_settings(result, limits, tmp_path):
    strategy = strategy_of(limits, merged_images_per_class=4, max_share=0.5)
    leave(result, strategy, tmp_path)
    expected = merge(
        list(result.state.contributions.values()),
        4,
        classes=limits.classes,
        statistics=PixelStatistics((0.4,), (0.2,)),
        seed=7,
        max_share=0.5,
        dropped=frozenset({("b", 3)}),
    )
    found = CondensedDataset.load(tmp_path / "merged.safetensors")
    assert found.classes == ("ant", "cat")
    assert found.digest == expected.digest


def test_a_run_that_trained_nothing_fails_and_leaves_its_reasons(
    grid_of, run_config, tmp_path
):
    run_config |= {"save-to": str(tmp_path), "min-class-count": 10_000}
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config
    )
    with pytest.raises(RunError, match="no round had 2 contributions"):
        main(grid_of(run_config), context)
    content = json.loads((tmp_path / "result.json").read_text())
    (report,) = content["rounds"]
    assert len(report["rejected"]) == 3
    assert content["settings"].items() >= run_config.items()
    assert content["settings"]["partition-seed"] == 42  # a default


def test_an_untrained_run_leaves_a_report_alone(contribute, limits, tmp_path):
    result = CondensationResult()
    result.finish(RunState(contributions={"a": contribute("a")}), frozenset())
    leave(result, strategy_of(limits), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

import json

import pytest
from flwr.app import Context, RecordDict

from condense_core import CondensedDataset, PixelStatistics, RunError
from condense_core.training import accuracy
from flower_strategy.aggregation import merge
from flower_strategy.global_model import load_global_model
from flower_strategy.local_data import load_global
from flower_strategy.result import CondensationResult
from flower_strategy.rounds import RunState
from flower_strategy.server_app import leave, main
from flower_strategy.settings import DataSettings, ModelSettings, ServerSettings
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


def test_the_trained_model_can_be_loaded(grid_of, run_config, tmp_path, caplog):
    run_config |= {"save-to": str(tmp_path), "network": "mlp", "seed": 3}
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config
    )
    with caplog.at_level("INFO", "flwr"):
        main(grid_of(run_config), context)
    kept = tmp_path / "round-001"
    assert f"the trained model is in {kept}" in caplog.text
    assert "save-to is empty" not in caplog.text
    test = load_global(DataSettings.read(run_config), "test")
    expected = RunState.load(tmp_path).reports[0].accuracy
    for folder in (tmp_path, kept, str(kept)):
        network, statistics = load_global_model(folder)
        assert not network.training
        found = accuracy(network, test.images, test.labels, statistics)
        assert found == pytest.approx(expected)


def test_a_folder_without_a_trained_model_is_refused(tmp_path):
    RunState().save(tmp_path)
    with pytest.raises(RunError, match="has no trained model"):
        load_global_model(tmp_path)


def test_a_run_that_keeps_nothing_says_so_before_it_begins(grid_of, run_config, caplog):
    run_config |= {"min-clients": 4}
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config
    )
    with pytest.raises(RunError, match="3 clients are connected"):
        main(grid_of(run_config), context)
    assert "save-to is empty: the trained model is not kept" in caplog.text


def test_an_untrained_run_leaves_a_report_alone(contribute, limits, tmp_path):
    result = CondensationResult()
    result.finish(RunState(contributions={"a": contribute("a")}), frozenset())
    leave(result, strategy_of(limits), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

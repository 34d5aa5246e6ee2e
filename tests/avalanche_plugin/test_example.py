"""The example script, with less training."""

import functools
import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "continual_digits.py"


@pytest.fixture
def example(monkeypatch, instant):
    spec = importlib.util.spec_from_file_location("continual_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    naive, plugin = module.Naive, module.CondensedReplayPlugin
    one_epoch = {"train_epochs": 1, "train_mb_size": 256}
    monkeypatch.setattr(module, "Naive", lambda **given: naive(**given | one_epoch))
    monkeypatch.setattr(
        module, "CondensedReplayPlugin", functools.partial(plugin, preset=instant)
    )
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    yield module
    logging.captureWarnings(False)


def test_the_table_is_shown_without_warnings(example, capfd):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        example.main()
    said = capfd.readouterr()
    starts = [line.split()[0] for line in said.out.splitlines()]
    assert starts == ["memory:", "no", "ReplayPlugin", "CondensedReplayPlugin"]
    assert said.err == ""
    assert not shown

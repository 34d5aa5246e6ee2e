"""Public names, which are loaded on first use."""

import subprocess
import sys

import pytest

import flower_strategy


@pytest.mark.parametrize("name", flower_strategy.__all__)
def test_every_public_name_is_there(name):
    assert getattr(flower_strategy, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Strategy'"):
        _ = flower_strategy.Strategy


def test_partitions_and_privacy_do_not_need_flower():
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "import flower_strategy.partition, flower_strategy.privacy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

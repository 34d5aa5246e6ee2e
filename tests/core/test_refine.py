from dataclasses import replace

import pytest
import torch

from condense_core import ConfigError, DataError, condense
from condense_core.networks import build_network
from condense_core.refine import refine


@pytest.fixture
def start(tiny_data, tiny_config):
    return condense(tiny_data, tiny_config, device="cpu", progress=False)


def network_of(data, width=4):
    return build_network(
        "convnet",
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        width=width,
        seed=9,
    ).state_dict()


def refined(start, data, config, **options):
    return refine(start, data, config, device="cpu", progress=False, **options)


def test_it_goes_on_from_the_condensed_set(start, tiny_data, tiny_config):
    before = start.images()[0]
    later = refined(start, tiny_data, tiny_config)
    assert later.spec == start.spec
    assert later.precision == start.precision
    assert later.metadata["data"] == start.metadata["data"]
    assert not torch.equal(later.images()[0], before)
    torch.testing.assert_close(start.images()[0], before)  # left unchanged


def test_without_updates_nothing_but_the_rounding_happens(
    start, tiny_data, tiny_config
):
    config = replace(tiny_config, loop=replace(tiny_config.loop, restarts=0))
    later = refined(start, tiny_data, config)
    torch.testing.assert_close(
        later.tensors["codebook"], start.tensors["codebook"], rtol=0, atol=0
    )


def test_same_seed_same_result(start, tiny_data, tiny_config):
    one, two = (refined(start, tiny_data, tiny_config) for _ in range(2))
    torch.testing.assert_close(one.tensors, two.tensors, rtol=0, atol=0)


def test_phi_starts_from_the_given_network(start, tiny_data, tiny_config):
    given = network_of(tiny_data)
    with_it = refined(start, tiny_data, tiny_config, network=given)
    without = refined(start, tiny_data, tiny_config)
    assert not torch.equal(with_it.images()[0], without.images()[0])
    again = network_of(tiny_data)
    torch.testing.assert_close(given, again)  # and is not trained in place


def test_a_network_of_another_size_is_refused(start, tiny_data, tiny_config):
    with pytest.raises(ConfigError, match="does not fit network"):
        refined(start, tiny_data, tiny_config, network=network_of(tiny_data, width=5))


def test_other_data_are_refused(start, tiny_data, tiny_config):
    renamed = replace(tiny_data, classes=tuple(f"other {c}" for c in tiny_data.classes))
    with pytest.raises(DataError, match="do not fit"):
        refined(start, renamed, tiny_config)


def test_soft_labels_are_refused(start, tiny_data, tiny_config):
    config = replace(tiny_config, loss=replace(tiny_config.loss, soft_labels=True))
    with pytest.raises(ConfigError, match="soft_labels"):
        refined(start, tiny_data, config)


def with_fresh_codes(config):
    return replace(
        config,
        loop=replace(config.loop, fresh_codes=True),
        optimiser=replace(config.optimiser, name="adam"),
    )


def test_fresh_codes_keep_the_statistics_they_are_drawn_with(tiny_data, tiny_config):
    many = replace(
        tiny_data,
        images=tiny_data.images.repeat(10, 1, 1, 1),
        labels=tiny_data.labels.repeat(10),
    )
    config = with_fresh_codes(
        tiny_config.with_overrides(
            [
                "format.code_map=per_class",
                "format.code_components=2",
                "format.dispersion=true",
                "pretrain.method=variational",
            ]
        )
    )
    start = condense(many, config, device="cpu", progress=False)
    assert start.spec.code_components == (2, 2, 2)
    later = refined(start, many, config)
    moved = {name for name in start.tensors if differ(start, later, name)}
    assert any(name.endswith("weight") for name in moved)
    assert not any(
        part in name for name in moved for part in ("running", "component", "codebook")
    )


def differ(one, other, name):
    return not torch.equal(one.tensors[name], other.tensors[name])


def test_fresh_codes_need_an_optimiser_without_targets(tiny_config):
    loop = replace(tiny_config.loop, fresh_codes=True)
    with pytest.raises(ConfigError, match="image_space"):
        replace(
            tiny_config,
            loop=loop,
            optimiser=replace(tiny_config.optimiser, name="image_space"),
        )

from dataclasses import replace

import pytest
import torch

from condense_core import ConfigError, DataError, RunError, condense
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


def test_without_updates_several_components_leave_every_tensor(tiny_data, tiny_config):
    config = tiny_config.with_overrides(["loop.restarts=0"])
    several = config.with_overrides(
        [
            "format.code_map=per_class",
            "format.code_components=2",
            "pretrain.method=variational",
        ]
    )
    data = tiny_data.subset(torch.arange(60) % 30)  # enough images for two components
    start = condense(data, several, device="cpu", progress=False)
    assert start.spec.code_components
    later = refined(start, data, config.with_overrides(["pretrain.method=none"]))
    torch.testing.assert_close(later.tensors, start.tensors, rtol=0, atol=0)


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


def test_running_out_of_memory_is_advised(start, tiny_data, tiny_config, monkeypatch):
    def exhaust(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("condense_core.refine.LoopState", exhaust)
    with pytest.raises(RunError, match=r"set loop\.codes_per_step"):
        refined(start, tiny_data, tiny_config)


def test_other_data_are_refused(start, tiny_data, tiny_config):
    renamed = replace(tiny_data, classes=tuple(f"other {c}" for c in tiny_data.classes))
    with pytest.raises(DataError, match="do not fit"):
        refined(start, renamed, tiny_config)


def test_soft_labels_are_refused(start, tiny_data, tiny_config):
    config = replace(tiny_config, loss=replace(tiny_config.loss, soft_labels=True))
    with pytest.raises(ConfigError, match="soft_labels"):
        refined(start, tiny_data, config)


def decoding(config):
    return replace(
        config,
        loop=replace(config.loop, restarts=0),
        pretrain=replace(
            config.pretrain, method="variational", steps=40, feature_weight=1.0
        ),
    )


def test_a_decoder_goes_on_as_one(tiny_data, tiny_config):
    config = decoding(tiny_config)
    start = condense(tiny_data, config, device="cpu", progress=False)
    one = refined(start, tiny_data, config, network=network_of(tiny_data))
    other = refined(start, tiny_data, config)
    torch.testing.assert_close(one.tensors["codebook"], start.tensors["codebook"])
    assert not torch.equal(one.images()[0], start.images()[0])
    assert not torch.equal(one.images()[0], other.images()[0])  # phi is looked through


def test_a_decoder_goes_on_in_full_precision(tiny_data, tiny_config):
    # As it began; under autocast CUDA has no cross entropy of grey values at all.
    config = decoding(tiny_config)
    start = condense(tiny_data, config, device="cpu", progress=False)
    lowered = config.with_overrides(["compute.precision=bf16"])
    one, two = (refined(start, tiny_data, c) for c in (config, lowered))
    torch.testing.assert_close(one.tensors, two.tensors, rtol=0, atol=0)


def test_pixels_have_no_decoder(tiny_data, tiny_config):
    config = replace(tiny_config, format=replace(tiny_config.format, kind="pixels"))
    start = condense(tiny_data, config, device="cpu", progress=False)
    later = refined(start, tiny_data, decoding(tiny_config))
    torch.testing.assert_close(later.images()[0], start.images()[0], rtol=0, atol=0.01)

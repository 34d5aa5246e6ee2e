import math
from dataclasses import replace

import pytest
import torch

from condense_core import CondenseConfig, DataError, ImageData
from condense_core.networks import build_network
from flower_strategy import condensing, private_condense
from flower_strategy.condensing import (
    condense_locally,
    condense_with_privacy,
    keep_classes,
    select_classes,
)
from flower_strategy.payload import content_bytes, encode, payload_size
from flower_strategy.settings import ClientSettings, ModelSettings

CLASSES = ("ant", "bee", "cat", "dog")
MODEL = ModelSettings(network_width=4, device="cpu")
QUICK = (
    "pretrain.steps=2 loop.restarts=1 loop.network_updates=1 loop.generator_updates=2"
)


@pytest.fixture
def data():
    """Twelve bees, one cat, eleven dogs."""
    labels = torch.tensor([1] * 12 + [2] + [3] * 11)
    images = torch.randint(
        256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator()
    )
    return ImageData(images=images, labels=labels, classes=CLASSES)


def quick(**changes):
    return ClientSettings(overrides=QUICK, upload_bytes=9_000, **changes)


@pytest.fixture
def calls(monkeypatch, contribute):
    """Arguments of condensing and refining, which are not carried out."""
    seen = []

    def record(*arguments, **options):
        seen.append((arguments, options))
        return contribute(class_ids=(1, 3)).condensed

    monkeypatch.setattr(condensing, "condense", record)
    monkeypatch.setattr(condensing, "refine", record)
    return seen


@pytest.fixture
def untrained(monkeypatch):
    """Private generators stay as they begin."""
    monkeypatch.setattr(private_condense, "_fit", lambda *_, **__: None)


def test_small_and_absent_classes_are_dropped(data):
    kept, class_ids, counts = keep_classes(data, 10)
    assert class_ids == (1, 3)
    assert counts == (12, 11)
    assert kept.classes == ("bee", "dog")
    assert kept.labels.unique().tolist() == [0, 1]
    torch.testing.assert_close(kept.images, data.images[data.labels != 2])


def test_a_client_without_a_large_enough_class_is_told(data):
    with pytest.raises(DataError, match=r"at least 13 images, the largest has 12"):
        keep_classes(data, 13)


def test_the_image_of_a_dropped_class_leaves_no_trace(data):
    """Whatever the single cat looks like, the contribution is the same."""
    other = ImageData(
        images=torch.where((data.labels == 2).view(-1, 1, 1, 1), 255, data.images).to(
            torch.uint8
        ),
        labels=data.labels,
        classes=CLASSES,
    )
    one, two = (condense_locally("a", d, quick(), MODEL) for d in (data, other))
    torch.testing.assert_close(one.condensed.tensors, two.condensed.tensors)


def test_upload_stays_below_its_bound(data):
    for bound in (6_500, 9_000, 20_000):
        sent = condense_locally(
            "a", data, ClientSettings(overrides=QUICK, upload_bytes=bound), MODEL
        )
        assert content_bytes(encode(sent)) <= bound


def test_no_bytes_go_to_gaussians_that_would_stay_empty(data):
    """Twelve images are one cluster; of ten times as many there may be twelve."""

    def components(images):
        sent = condense_locally("a", images, quick(), MODEL)
        return sent.condensed.spec.code_components

    repeated = ImageData(
        images=data.images.repeat(10, 1, 1, 1),
        labels=data.labels.repeat(10),
        classes=CLASSES,
    )
    assert components(data) == ()
    assert components(repeated) == (12, 1, 11)


def test_private_statistics_have_no_clusters_and_reserve_no_bytes_for_them(
    data, untrained
):
    def spec(preset):
        settings = quick(preset=preset, dp_epsilon=100.0, min_class_count=5)
        return condense_with_privacy("a", data, settings, MODEL).condensed.spec

    assert spec("federated") == spec("replay")


def test_the_budget_is_that_of_the_settings(data, untrained):
    settings = quick(dp_epsilon=100.0, dp_delta=1e-7, dp_clip=0.4, min_class_count=5)
    report = condense_with_privacy("a", data, settings, MODEL).privacy
    assert (report["epsilon"], report["delta"], report["clip"]) == (100.0, 1e-7, 0.4)


def test_small_classes_of_a_private_client_are_dropped_by_the_settings(data, untrained):
    data = data.subset(torch.arange(len(data)) < 20)  # twelve bees, a cat, seven dogs
    settings = quick(dp_epsilon=math.inf, min_class_count=5)
    assert condense_with_privacy("a", data, settings, MODEL).class_ids == (1, 3)


def test_a_private_upload_has_room_for_its_report(data, untrained):
    def condensed(bound):
        settings = ClientSettings(
            overrides=QUICK, upload_bytes=bound, dp_epsilon=math.inf, min_class_count=5
        )
        return condense_with_privacy("a", data, settings, MODEL).condensed

    first = condensed(9_000)
    bound = payload_size(first.spec, first.precision)  # it fits without a report
    second = condensed(bound)
    assert payload_size(second.spec, second.precision, private=True) <= bound


def test_the_seed_of_the_run_counts(data, calls):
    for seed in (0, 0, 1):
        condense_locally("a", data, quick(), replace(MODEL, seed=seed))
    first, again, other = (arguments[1].seed for arguments, _ in calls)
    assert first == again != other


def test_seed_is_the_name_and_the_round(data):
    def tensors(client, server_round=1):
        sent = condense_locally(client, data, quick(), MODEL, server_round=server_round)
        return sent.condensed.tensors["codebook"]

    torch.testing.assert_close(tensors("a"), tensors("a"))
    assert not torch.equal(tensors("a"), tensors("b"))
    assert not torch.equal(tensors("a"), tensors("a", 2))


def test_later_rounds_go_on_from_the_last_generator(data):
    first = condense_locally("a", data, quick(), MODEL)
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=4, width=4, seed=0
    )
    later = condense_locally(
        "a",
        data,
        quick(),
        MODEL,
        server_round=2,
        previous=first.condensed,
        global_model=network.state_dict(),
    )
    assert later.condensed.spec == first.condensed.spec
    moved = later.condensed.images()[0] - first.condensed.images()[0]
    assert 0 < float(moved.abs().mean()) < 0.2


def test_later_rounds_are_refined_by_the_settings_with_the_global_model(
    data, calls, contribute
):
    model = ModelSettings(
        network="mlp", network_width=6, low_pass=0.1, seed=7, device="cpu"
    )
    network = build_network(
        "mlp", image_shape=(1, 8, 8), num_classes=4, width=6, seed=0
    )
    previous = contribute(class_ids=(1, 3)).condensed
    condense_locally(
        "a",
        data,
        quick(refine_preset="federated-round"),
        model,
        server_round=2,
        previous=previous,
        global_model=network.state_dict(),
    )
    (((given, _, config), options),) = calls
    assert given is previous
    preset = CondenseConfig.preset("federated-round").with_overrides(QUICK.split())
    assert config.pretrain == preset.pretrain
    phi = config.network
    assert (phi.name, phi.width, phi.depth, phi.low_pass) == ("mlp", 6, None, 0.1)
    assert options["network"].keys() == network.state_dict().keys()
    assert options["device"] == "cpu"


@pytest.mark.parametrize("now", [("bee",), ("bee", "cat")])
def test_a_client_whose_classes_changed_begins_anew(data, contribute, now):
    """It had bees and dogs; the dogs are gone, or are cats now."""
    previous = contribute(class_ids=(1, 3)).condensed
    if "cat" in now:
        data = replace(data, labels=torch.where(data.labels == 3, 2, data.labels))
    else:
        data = data.subset(data.labels != 3)
    later = condense_locally("a", data, quick(), MODEL, previous=previous)
    assert later.condensed.classes == now


@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet18", "vgg11", "alexnet"])
def test_the_rows_of_kept_classes_are_selected_in_every_network(name):
    def build(classes):
        return build_network(
            name, image_shape=(1, 32, 32), num_classes=classes, width=4, seed=0
        )

    whole, part = build(4).eval(), build(2).eval()
    part.load_state_dict(select_classes(whole.state_dict(), (1, 3)))
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator())
    torch.testing.assert_close(part(images), whole(images)[:, [1, 3]])

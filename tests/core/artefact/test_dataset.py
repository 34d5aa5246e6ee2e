import json
import math
import resource
import time

import pytest
import torch
from safetensors.torch import load, save
from torch.utils.data import DataLoader

from condense_core.artefact import CondensedDataset, dataset
from condense_core.artefact.checks import METADATA_KEY
from condense_core.data import PixelStatistics
from condense_core.errors import ArtefactError, RunError
from condense_core.runlog import atomic_write_bytes
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

PRECISIONS = ("fp32", "fp16", "int8")
FORMATS = [("generator", p) for p in PRECISIONS] + [("pixels", p) for p in PRECISIONS]


def header_of(data: bytes) -> dict:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def metadata_of(data: bytes) -> dict:
    return json.loads(header_of(data)["__metadata__"][METADATA_KEY])


def file_of(header: dict, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def signed(tensors: dict, metadata: dict) -> bytes:
    """A file whose digest is right, as an attacker would write it."""
    content = {k: v for k, v in metadata.items() if k != "digest"}
    content["digest"] = dataset.content_digest(tensors, content)
    return save(tensors, {METADATA_KEY: json.dumps(content)})


def refuse(data: bytes) -> str:
    """Check that data are refused in one line, fast and in little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ArtefactError) as caught:
        CondensedDataset.from_bytes(data)
    assert time.process_time() - start < 2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # kilobytes
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.fixture
def small(make_condensed) -> CondensedDataset:
    return make_condensed(channels=2, latent_dim=2, projected_dim=2, embedding_dim=2)


# Round trip


@pytest.mark.parametrize(("kind", "precision"), FORMATS)
def test_a_file_gives_back_the_same_images(make_condensed, tmp_path, kind, precision):
    condensed = make_condensed(kind=kind, precision=precision)
    path = tmp_path / "a.safetensors"
    condensed.save(path)
    loaded = CondensedDataset.load(path)
    images, labels = loaded.images()
    assert images.unique().numel() > 20
    assert torch.equal(images, condensed.images()[0])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert loaded.metadata == condensed.metadata
    assert loaded.to_bytes() == condensed.to_bytes() == path.read_bytes()
    assert loaded.precision == precision


@pytest.mark.parametrize(("kind", "precision"), FORMATS)
def test_bytes_are_those_of_the_file(make_condensed, tmp_path, kind, precision):
    condensed = make_condensed(kind=kind, precision=precision)
    path = tmp_path / "a.safetensors"
    condensed.save(path)
    size = path.stat().st_size
    parts = condensed.bytes_by_part()
    assert condensed.nbytes == CondensedDataset.load(path).nbytes == size
    assert sum(parts.values()) == size
    assert min(parts.values()) > 0
    assert condensed.bits_per_class == pytest.approx(8 * size / 3)
    assert condensed.pixel_bytes == 3 * 2 * 64
    if kind == "generator":
        expected = ["class_embedding", "codebook", "generator", "metadata"]
    else:
        expected = ["pixels", "metadata"]
    assert list(parts) == expected
    assert list(CondensedDataset.load(path).bytes_by_part()) == expected


def test_bytes_of_a_part_are_counted_by_hand(make_condensed):
    width = {"fp32": 4, "fp16": 2}
    for precision, each in width.items():
        parts = make_condensed(precision=precision).bytes_by_part()
        assert parts["codebook"] == 2 * 4 * each
        assert parts["class_embedding"] == 3 * 3 * each
    # One byte a value and a scale of four bytes a row.
    assert make_condensed(precision="int8").bytes_by_part()["codebook"] == 2 * (4 + 4)


def test_what_could_not_be_read_is_not_written(small, tmp_path, monkeypatch):
    monkeypatch.setattr("condense_core.artefact.dataset.MAX_FILE_BYTES", 100)
    with pytest.raises(ArtefactError, match="more than the 100"):
        small.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_told(small, tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        small.save(tmp_path / "missing" / "a.safetensors")


def test_names_that_are_no_unicode_are_replaced(make_condensed):
    condensed = make_condensed(classes=("caf\udce9", "été", "日本"))
    loaded = CondensedDataset.from_bytes(condensed.to_bytes())
    assert loaded.classes == ("caf?", "été", "日本")


# Images


@pytest.mark.parametrize(("kind", "precision"), FORMATS)
def test_images_are_on_the_8_bit_grid(make_condensed, kind, precision):
    images, _ = make_condensed(kind=kind, precision=precision).images()
    assert images.shape == (6, 1, 8, 8)
    assert images.dtype == torch.float32
    levels = images * 255
    assert torch.equal(levels.round() / 255, images)
    assert images.min() >= 0
    assert images.max() <= 1


def test_images_are_in_order_of_classes_whatever_the_chunks(
    make_condensed, monkeypatch
):
    condensed = make_condensed(images_per_class=3, channels=8)
    whole, labels = condensed.images()
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for batch in (1, 4, 7):
        monkeypatch.setattr(dataset, "SYNTHESIS_BATCH", batch)
        parts, same_labels = condensed.images()
        # Other batch sizes may sum a convolution in another order: one level at most.
        assert (parts - whole).abs().max() <= 1.001 / 255
        assert torch.equal(labels, same_labels)


def test_an_image_depends_on_its_code_and_class_alone(make_condensed):
    condensed = make_condensed(precision="fp32")
    images, labels = condensed.images()
    synthesiser = condensed._synthesiser
    with torch.no_grad():
        for row, label in enumerate(labels.tolist()):
            alone = synthesiser(torch.tensor([label]), torch.tensor([row % 2]))
            assert torch.allclose(alone[0, 0], images[row], atol=0.51 / 255)
        half = synthesiser(torch.tensor([2, 0]), torch.tensor([1]))
    assert torch.allclose(half[0, 0], images[5], atol=0.51 / 255)
    assert torch.allclose(half[1, 0], images[1], atol=0.51 / 255)
    assert not torch.allclose(half[0, 0], half[1, 0], atol=2 / 255)


def test_statistics_of_batch_norm_are_those_of_codebook_and_classes(make_condensed):
    condensed = make_condensed(precision="fp32", channels=8)
    synthesiser = condensed._synthesiser
    with torch.no_grad():
        fixed = synthesiser(torch.arange(3), torch.arange(2))
        synthesiser.train()
        batch = synthesiser(torch.arange(3), torch.arange(2))
    # The variance kept is the unbiased one, that of a batch is not.
    values = 6 * 4  # images x pixels of the smallest map
    assert torch.allclose(fixed, batch, atol=2 / values)
    assert (fixed - 0.5).abs().max() > 0.05


def test_freezing_leaves_the_synthesiser_as_it_was(make_condensed):
    synthesiser = make_condensed(precision="fp32")._synthesiser.train()
    before = {k: v.clone() for k, v in synthesiser.state_dict().items()}
    CondensedDataset.from_synthesiser(
        synthesiser,
        classes=("a", "b", "c"),
        statistics=dataset.PixelStatistics((0.5,), (0.5,)),
        precision="int8",
    )
    assert synthesiser.training
    for key, value in synthesiser.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_precision_costs_little(make_condensed):
    exact = make_condensed(precision="fp32").images()[0]
    half = make_condensed(precision="fp16").images()[0]
    byte = make_condensed(precision="int8").images()[0]
    assert (half - exact).abs().max() < 0.02
    assert 0 < (byte - exact).abs().max() < 0.2


# Samples


@pytest.mark.parametrize("kind", ["generator", "pixels"])
def test_samples_are_images_of_the_set(make_condensed, kind):
    condensed = make_condensed(kind=kind)
    images, labels = condensed.images()
    drawn, drawn_labels = condensed.sample(12)
    assert drawn.shape == (12, 1, 8, 8)
    for image, label in zip(drawn, drawn_labels, strict=True):
        of_class = images[labels == label]
        assert any(torch.equal(image, one) for one in of_class)


@pytest.mark.parametrize("fresh", [False, True])
def test_samples_are_balanced(make_condensed, fresh):
    condensed = make_condensed()
    _, labels = condensed.sample(31, fresh=fresh)
    counts = labels.bincount(minlength=3)
    assert counts.sum() == 31
    assert counts.max() - counts.min() <= 1
    assert labels.tolist() != sorted(labels.tolist())


@pytest.mark.parametrize("classes", [None, [0, 2]])
def test_any_class_can_have_one_sample_more(make_condensed, generator, classes):
    condensed = make_condensed()
    draws = [
        condensed.sample(1, classes=classes, generator=generator)[1].item()
        for _ in range(40)
    ]
    assert sorted(set(draws)) == (classes or [0, 1, 2])


def test_samples_can_be_of_some_classes(make_condensed):
    _, labels = make_condensed().sample(9, classes=[2, 0])
    assert set(labels.tolist()) == {0, 2}
    _, labels = make_condensed().sample(4, classes=["right", "left"])
    assert set(labels.tolist()) == {0, 2}


@pytest.mark.parametrize("fresh", [False, True])
def test_samples_follow_their_generator(make_condensed, fresh):
    condensed = make_condensed()

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return condensed.sample(16, fresh=fresh, generator=generator)[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("fresh", [False, True])
def test_samples_without_a_generator_are_others_at_every_call(make_condensed, fresh):
    condensed, again = make_condensed(), make_condensed()
    draws = [condensed.sample(5, fresh=fresh)[0] for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    for draw in draws:
        assert torch.equal(again.sample(5, fresh=fresh)[0], draw)


def test_fresh_samples_are_new_and_on_the_grid(make_condensed):
    condensed = make_condensed(channels=16)
    images, _ = condensed.images()
    fresh, _ = condensed.sample(8, fresh=True)
    assert torch.equal((fresh * 255).round() / 255, fresh)
    for image in fresh:
        assert not any(torch.equal(image, one) for one in images)


def test_sampling_leaves_global_randomness_alone(make_condensed, untouched_global_rng):
    condensed = make_condensed()
    condensed.sample(4)
    condensed.sample(4, fresh=True)


@pytest.mark.parametrize(
    ("count", "options", "match"),
    [
        (4, {"classes": [3]}, "class 3 does not exist: choose 0 to 2"),
        (4, {"classes": [-1]}, "class -1"),
        (4, {"classes": ["up"]}, "class 'up' does not exist"),
        (4, {"classes": []}, "of 0 classes"),
        (0, {}, "cannot draw 0 images"),
    ],
)
def test_impossible_samples_are_refused(make_condensed, count, options, match):
    with pytest.raises(ArtefactError, match=match):
        make_condensed().sample(count, **options)


def test_pixels_have_no_fresh_codes(make_condensed):
    with pytest.raises(ArtefactError, match="fresh=False"):
        make_condensed(kind="pixels").sample(2, fresh=True)


def test_an_artefact_is_a_data_set_of_its_images(make_condensed):
    condensed = make_condensed()
    images, labels = condensed.images()
    assert len(condensed) == len(images)
    loader = DataLoader(condensed, batch_size=4)
    together = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    assert torch.equal(together[0], images)
    assert torch.equal(together[1], labels)
    assert torch.equal(condensed[-1][0], images[-1])
    with pytest.raises(IndexError, match=f"image {len(images)} of {len(images)}"):
        condensed[len(images)]


def test_an_artefact_says_what_it_is(make_condensed):
    condensed = make_condensed(precision="int8")
    assert repr(condensed) == (
        f"CondensedDataset(generator, 3 classes x {condensed.images_per_class} images "
        f"of 1x8x8, {condensed.nbytes:,} bytes in int8)"
    )


# Integrity


def test_any_changed_bit_is_found(make_condensed):
    condensed = make_condensed(channels=1, latent_dim=1, projected_dim=1)
    data = bytearray(condensed.to_bytes())
    bits = range(0, 8 * len(data), 37)  # 37 is odd: every bit of a byte has its turn
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtefactError):
            CondensedDataset.from_bytes(bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    assert CondensedDataset.from_bytes(bytes(data)).digest == condensed.digest


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_tensor_is_covered_by_the_digest(make_condensed, precision):
    data = make_condensed(precision=precision, channels=2).to_bytes()
    metadata = {METADATA_KEY: header_of(data)["__metadata__"][METADATA_KEY]}
    tensors = load(data)
    assert save(tensors, metadata) == data
    for name, tensor in tensors.items():
        changed = tensor.clone()
        flat = changed.view(-1)
        flat[-1] = 1 if flat[-1] != 1 else 2
        with pytest.raises(ArtefactError, match="digest"):
            CondensedDataset.from_bytes(save({**tensors, name: changed}, metadata))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["right", "middle", "left"]},
        {"normalisation": {"mean": [0.25], "std": [0.25]}},
        {"label_type": "soft"},
        {"note": "added"},
        {"digest": "0" * 64},
        {"digest": None},
    ],
)
def test_every_entry_is_covered_by_the_digest(small, change):
    data = small.to_bytes()
    text = json.dumps(metadata_of(data) | change)
    message = refuse(save(load(data), {METADATA_KEY: text}))
    assert "digest" in message


def test_the_digest_depends_on_the_content(make_condensed):
    first = make_condensed()
    assert first.digest == make_condensed().digest
    assert first.digest != make_condensed(seed=1).digest
    assert first.digest != make_condensed(metadata={"note": "x"}).digest


# Hostile files


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.3, 0.6, 0.99, -1])
def test_truncated_files_are_refused(small, kept):
    data = small.to_bytes()
    length = int(kept * len(data)) if isinstance(kept, float) else kept
    refuse(data[:length])


def test_appended_bytes_are_refused(small):
    refuse(small.to_bytes() + b"\0" * 16)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
        b"PK\x03\x04" + b"\0" * 100,
        b"\0" * 4096,
        b"\xff" * 4096,
        (2**63).to_bytes(8, "little") + b"{}",
        (2**64 - 1).to_bytes(8, "little") + b'{"__metadata__": {}}',
        (100 * 2**20).to_bytes(8, "little") + b'{"__metadata__": {}}',
        file_of({}),
        file_of({"__metadata__": {}}),
        file_of({"__metadata__": None}),
        file_of({"__metadata__": {METADATA_KEY: 3}}),
        file_of({"__metadata__": {METADATA_KEY: "not json"}}),
        file_of({"__metadata__": {METADATA_KEY: "[1]"}}),
        file_of({"__metadata__": {METADATA_KEY: "null"}}),
        file_of({"__metadata__": {METADATA_KEY: "{}"}}),
        file_of([1, 2]),
        file_of("text"),
        file_of({"__metadata__": {METADATA_KEY: "[" * 100_000}}),
        file_of({"__metadata__": {METADATA_KEY: '{"a":' * 100_000}}),
        file_of({"__metadata__": {METADATA_KEY: "9" * 100_000}}),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
    ids=range(21),
)
def test_garbage_is_refused(data):
    refuse(data)


@pytest.mark.parametrize("name", ["missing.safetensors", ".", "empty"])
def test_what_is_no_file_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").touch()
    with pytest.raises(ArtefactError, match=str(tmp_path)):
        CondensedDataset.load(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path, small):
    path = tmp_path / "huge.safetensors"
    atomic_write_bytes(path, small.to_bytes())
    with open(path, "ab") as file:
        file.truncate(2**40)  # sparse
    start = time.process_time()
    with pytest.raises(ArtefactError, match=str(2**40)):
        CondensedDataset.load(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("version", [0, 2, 99, "1", 1.5, None, [1], 10**30, "1" * 9999])
def test_other_versions_are_refused(small, version):
    data = small.to_bytes()
    metadata = metadata_of(data) | {"format_version": version}
    message = refuse(signed(load(data), metadata))
    assert f"format version {version!r:.40}" in message


@pytest.mark.parametrize(
    "key", ["architecture", "classes", "normalisation", "precision", "digest"]
)
def test_missing_metadata_are_refused(small, key):
    data = small.to_bytes()
    metadata = {k: v for k, v in metadata_of(data).items() if k != key}
    refuse(save(load(data), {METADATA_KEY: json.dumps(metadata)}))


WRONG = [None, "8", 1.5, -1, 0, [], {}, [[]], True, 2**40, 10**400, math.nan]
NUMBERS = (
    "num_classes",
    "images_per_class",
    "latent_dim",
    "embedding_dim",
    "projected_dim",
    "channels",
    "blocks",
)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        pytest.param(key, wrong, id=f"{key}-{wrong!r:.12}")
        for key in NUMBERS
        for wrong in WRONG
        if (key, wrong) != ("blocks", None)  # the one size that may be left open
    ],
)
def test_sizes_that_are_no_sizes_are_refused(small, key, wrong):
    data = small.to_bytes()
    metadata = metadata_of(data)
    metadata["architecture"][key] = wrong
    assert key in refuse(signed(load(data), metadata))


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("size", [1, 7, 8, 4096])
def test_sizes_that_do_not_fit_the_tensors_are_refused(small, key, size):
    data = small.to_bytes()
    metadata = metadata_of(data)
    metadata["architecture"][key] = size
    if key == "blocks" and size == 1:  # the default at 8 px: the very same sizes
        assert CondensedDataset.from_bytes(signed(load(data), metadata))
        return
    refuse(signed(load(data), metadata))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("kind", "code"),
        ("kind", "k" * 100_000),
        ("codes", "k" * 100_000),
        ("truncation", "k" * 100_000),
        ("image_shape", "k" * 100_000),
        ("k" * 100_000, 1),
        ("kind", None),
        ("kind", ["generator"]),
        ("codes", "exec"),
        ("codes", None),
        ("codes", {}),
        ("truncation", "0.5"),
        ("truncation", None),
        ("truncation", 0.0),
        ("truncation", -1.0),
        ("truncation", math.nan),
        ("image_shape", None),
        ("image_shape", 8),
        ("image_shape", "188"),
        ("image_shape", []),
        ("image_shape", [1, 8]),
        ("image_shape", [1, 8, 8, 8]),
        ("image_shape", [1, 8.0, 8]),
        ("image_shape", [2, 8, 8]),
        ("image_shape", [1, 0, 8]),
        ("image_shape", [1, -8, 8]),
        ("image_shape", [1, 2**40, 8]),
        ("image_shape", [1, True, 8]),
        ("image_shape", [1, [8], {}]),
        ("image_shape", {"a": 1}),
        ("unknown", 1),
    ],
)
def test_wrong_types_in_the_architecture_are_refused(small, key, wrong):
    data = small.to_bytes()
    metadata = metadata_of(data)
    metadata["architecture"][key] = wrong
    refuse(signed(load(data), metadata))


@pytest.mark.parametrize("wrong", [*WRONG, [0], [1.5], [True], ["8"], [[2]], [2**40]])
def test_components_that_are_no_counts_are_refused(make_condensed, wrong):
    condensed = make_condensed(code_map="per_class", code_components=(2, 1, 3))
    data = condensed.to_bytes()
    metadata = metadata_of(data)
    assert CondensedDataset.from_bytes(data).spec.code_components == (2, 1, 3)
    if type(wrong) is list and wrong:
        wrong = [2, 1, *wrong]
    metadata["architecture"]["code_components"] = wrong
    refuse(signed(load(data), metadata))


def test_components_of_other_classes_or_of_a_shared_region_are_refused(make_condensed):
    condensed = make_condensed(code_map="per_class", code_components=(2, 1, 3))
    data = condensed.to_bytes()
    for change, words in (
        ({"code_components": [2, 4]}, "2 entries, not 3"),
        ({"code_components": [1, 2, 2]}, "component_"),
        ({"code_components": [600_000, 600_000, 1]}, "at most"),
        ({"code_map": "shared"}, "per_class"),
    ):
        metadata = metadata_of(data)
        metadata["architecture"] |= change
        assert words in refuse(signed(load(data), metadata))


@pytest.mark.parametrize("key", ["kind", "image_shape", "num_classes"])
def test_an_incomplete_architecture_is_refused(small, key):
    data = small.to_bytes()
    metadata = metadata_of(data)
    del metadata["architecture"][key]
    refuse(signed(load(data), metadata))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("architecture", None),
        ("architecture", "generator"),
        ("architecture", [["kind", "generator"]]),
        ("classes", None),
        ("classes", 3),
        ("classes", "abc"),
        ("classes", {"a": 0, "b": 1, "c": 2}),
        ("classes", ["a", "b"]),
        ("classes", ["a", "b", "c", "d"]),
        ("classes", ["a", "b", 3]),
        ("classes", ["a", "b", None]),
        ("classes", ["a", "b", ["c"]]),
        ("classes", ["a", "b", "\ud800"]),
        ("precision", None),
        ("precision", "k" * 100_000),
        ("precision", "fp64"),
        ("precision", ["fp16"]),
        ("precision", "fp32"),
        ("precision", "int8"),
        ("normalisation", None),
        ("normalisation", []),
        ("normalisation", {"mean": [0.5]}),
        ("normalisation", {"mean": 0.5, "std": 0.5}),
        ("normalisation", {"mean": [0.5, 0.5], "std": []}),
        ("normalisation", {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}),
        ("normalisation", {"mean": ["0.5"], "std": [0.5]}),
        ("normalisation", {"mean": [0.5], "std": [0.0]}),
        ("normalisation", {"mean": [0.5], "std": [-1.0]}),
        ("normalisation", {"mean": [math.nan], "std": [0.5]}),
        ("normalisation", {"mean": [0.5], "std": [math.inf]}),
    ],
)
def test_wrong_types_in_the_metadata_are_refused(small, key, wrong):
    data = small.to_bytes()
    message = refuse(signed(load(data), metadata_of(data) | {key: wrong}))
    assert "digest" not in message


@pytest.mark.parametrize(
    "sizes",
    [
        {"latent_dim": 65_536, "channels": 4_096},
        {"num_classes": 100_000, "embedding_dim": 100_000},
        {"channels": 4_096, "blocks": 8},
        {"num_classes": 100_000, "images_per_class": 100_000},
    ],
)
@pytest.mark.parametrize("kind", ["generator", "pixels"])
def test_claims_of_2_to_the_40_values_cost_nothing(small, kind, sizes):
    data = small.to_bytes()
    metadata = metadata_of(data)
    metadata["architecture"] |= {"kind": kind, "image_shape": [3, 128, 128], **sizes}
    classes = metadata["architecture"]["num_classes"]
    metadata["classes"] = ["c"] * classes
    metadata["normalisation"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    refuse(signed(load(data), metadata))


def test_few_bytes_that_claim_to_decode_to_terabytes_are_refused(make_condensed):
    # All tensors fit; it is the images that would fill the memory of who asks for them.
    data = make_condensed(
        images_per_class=2_000, latent_dim=1, image_shape=(3, 8, 8)
    ).to_bytes()
    tensors, metadata = load(data), metadata_of(data)
    assert CondensedDataset.from_bytes(signed(tensors, metadata))
    classes = 50_000
    metadata["architecture"]["num_classes"] = classes
    metadata["classes"] = ["c"] * classes
    tensors["class_embedding"] = torch.zeros(classes, 3).half()
    assert "decode" in refuse(signed(tensors, metadata))


@pytest.mark.parametrize("size", [2**40, 2**62, 2**64, -4])
@pytest.mark.parametrize("kind", ["shape", "offsets", "both"])
def test_a_header_that_claims_2_to_the_40_values_costs_nothing(small, kind, size):
    data = small.to_bytes()
    header = header_of(data)
    if kind in ("shape", "both"):
        header["codebook"]["shape"] = [size, 2]
    if kind in ("offsets", "both"):
        start = header["codebook"]["data_offsets"][0]
        header["codebook"]["data_offsets"] = [start, start + 4 * size]
    payload = data[8 + int.from_bytes(data[:8], "little") :]
    refuse(file_of(header, payload))


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "U64", "BOOL", "X", 3, None])
def test_types_of_tensors_that_do_not_belong_are_refused(small, dtype):
    data = small.to_bytes()
    header = header_of(data)
    size = {"F4": 0.5, "U64": 8}.get(dtype, 1)
    payload = b"\1" * 8
    header = {
        "__metadata__": header["__metadata__"],
        "codebook": {
            "dtype": dtype,
            "shape": [int(8 / size)],
            "data_offsets": [0, 8],
        },
    }
    refuse(file_of(header, payload))


def test_tensors_that_do_not_belong_are_refused(small):
    data = small.to_bytes()
    tensors, metadata = load(data), metadata_of(data)
    extra = tensors | {"generator.__class__": torch.zeros(1)}
    assert "__class__" in refuse(signed(extra, metadata))
    missing = {k: v for k, v in tensors.items() if k != "codebook"}
    assert "codebook" in refuse(signed(missing, metadata))
    wrong_shape = tensors | {"codebook": tensors["codebook"].T.contiguous()[:1]}
    assert "codebook" in refuse(signed(wrong_shape, metadata))
    flat = tensors | {"codebook": tensors["codebook"].flatten()}
    assert "codebook" in refuse(signed(flat, metadata))
    wide = tensors | {"codebook": tensors["codebook"].float()}
    assert "float32" in refuse(signed(wide, metadata))
    long_name = tensors | {"x" * 10_000: torch.zeros(1)}
    refuse(signed(long_name, metadata))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_that_are_not_finite_are_refused(make_condensed, precision, value):
    data = make_condensed(precision=precision).to_bytes()
    tensors = load(data)
    floats = [n for n, t in tensors.items() if t.is_floating_point()]
    name = "codebook.scale" if precision == "int8" else "codebook"
    assert name in floats
    for one in (name, floats[-1]):
        broken = tensors[one].clone()
        broken.view(-1)[0] = value
        message = refuse(signed({**tensors, one: broken}, metadata_of(data)))
        assert one in message


def test_a_class_more_or_less_is_refused(small):
    data = small.to_bytes()
    metadata = metadata_of(data)
    metadata["architecture"]["num_classes"] = 4
    assert "not 4 classes" in refuse(signed(load(data), metadata))
    metadata["classes"] += ["fourth"]
    assert "class_embedding" in refuse(signed(load(data), metadata))


def test_an_artefact_of_truncated_codes_loads(make_condensed):
    condensed = make_condensed(codes="truncated", truncation=0.5)
    loaded = CondensedDataset.from_bytes(condensed.to_bytes())
    assert torch.equal(loaded.images()[0], condensed.images()[0])


def test_fresh_images_have_the_stored_dispersion_and_fixed_ones_do_not(make_condensed):
    plain = make_condensed(code_map="per_class")
    rough = make_condensed(code_map="per_class", dispersion=True)
    tensors = rough.tensors | {
        "dispersion": torch.full((rough.spec.num_classes,), 0.1).half()
    }
    metadata = rough.metadata
    rough = CondensedDataset(tensors, metadata)
    torch.testing.assert_close(plain.images()[0], rough.images()[0])
    one, two = (
        c.sample(30, fresh=True, generator=torch.Generator().manual_seed(1))
        for c in (plain, rough)
    )
    assert torch.equal(one[1], two[1])
    assert 0.01 < float((one[0] - two[0]).abs().mean()) < 0.2


@pytest.mark.parametrize(("components", "kept"), [((), False), ((2, 1, 3), True)])
def test_statistics_of_training_are_kept_where_the_codebook_cannot_stand_for_it(
    components, kept
):
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(
            SynthesiserSpec(
                kind="generator",
                image_shape=(1, 8, 8),
                num_classes=3,
                images_per_class=4,
                latent_dim=4,
                embedding_dim=3,
                projected_dim=2,
                channels=2,
                code_map="per_class",
                code_components=components,
            )
        )
    norms = [m for m in synthesiser.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(0.25)
    condensed = CondensedDataset.from_synthesiser(
        synthesiser,
        classes=["a", "b", "c"],
        statistics=PixelStatistics((0.5,), (0.5,)),
        precision="fp32",
    )
    stored = [v for k, v in condensed.tensors.items() if "running_mean" in k]
    assert len(stored) == len(norms) > 0
    assert all(bool((v == 0.25).all()) == kept for v in stored)


def test_fresh_images_come_from_every_component(make_condensed):
    """One component of a class makes other images than the other; both are drawn."""
    condensed = make_condensed(code_map="per_class", code_components=(2, 2, 2))
    classes, latent = condensed.spec.num_classes, condensed.spec.latent_dim
    means = torch.zeros(latent, 2 * classes)
    means[:, 1::2] = 30.0
    tensors = condensed.tensors | {
        "component_mean": means.to(condensed.tensors["component_mean"].dtype),
        "code_factor": torch.zeros_like(condensed.tensors["code_factor"]),
    }
    condensed = CondensedDataset(tensors, condensed.metadata)
    images, labels = condensed.sample(200, fresh=True)
    for label in range(classes):
        distinct, counts = images[labels == label].unique(dim=0, return_counts=True)
        assert len(distinct) == 2
        assert counts.min() > counts.sum() / 4

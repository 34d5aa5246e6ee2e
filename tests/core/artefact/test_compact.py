import json
import zlib

import pytest
import torch

from condense_core.artefact import CondensedDataset
from condense_core.artefact.checks import REQUIRED_METADATA
from condense_core.artefact.compact import pack, packed_size, unpack
from condense_core.data import PixelStatistics
from condense_core.errors import ArtefactError
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser


def spec_of(**sizes):
    return SynthesiserSpec(
        **{
            "kind": "generator",
            "image_shape": (3, 8, 8),
            "num_classes": 3,
            "images_per_class": 5,
            "latent_dim": 4,
            "embedding_dim": 3,
            "projected_dim": 4,
            "channels": 8,
            **sizes,
        }
    )


def artefact(precision="int8", **sizes):
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(spec_of(**sizes))
    return CondensedDataset.from_synthesiser(
        synthesiser,
        classes=("a", "b", "c"),
        statistics=PixelStatistics((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
        precision=precision,
        config={"a long": "configuration" * 50},
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    "sizes", [{}, {"code_map": "per_class"}, {"kind": "pixels"}], ids=str
)
def test_a_round_trip_is_bit_exact(precision, sizes):
    condensed = artefact(precision, **sizes)
    again = unpack(pack(condensed))
    assert again.tensors.keys() == condensed.tensors.keys()
    for name, tensor in condensed.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    assert torch.equal(again.images()[0], condensed.images()[0])
    assert again.classes == condensed.classes
    assert again.statistics == condensed.statistics
    assert "config" not in again.metadata


def test_what_was_packed_can_be_saved_as_a_file(tmp_path):
    condensed = unpack(pack(artefact()))
    condensed.save(tmp_path / "again.safetensors")
    loaded = CondensedDataset.load(tmp_path / "again.safetensors")
    assert torch.equal(loaded.images()[0], condensed.images()[0])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_predicted_size_is_an_upper_bound_and_close(precision):
    for sizes in ({}, {"channels": 40, "code_map": "per_class"}):
        packed = len(pack(artefact(precision, **sizes)))
        bound = packed_size(spec_of(**sizes), precision, ("a", "b", "c"))
        assert packed <= bound < 1.25 * packed + 200


def test_incompressible_weights_keep_to_the_bound():
    condensed = artefact("int8", channels=64)
    noise = torch.Generator().manual_seed(0)
    random = {
        name: torch.randint(-128, 128, t.shape, generator=noise, dtype=torch.int8)
        if t.dtype == torch.int8
        else torch.randn(t.shape, generator=noise).to(t.dtype)
        for name, t in condensed.tensors.items()
    }
    worst = CondensedDataset(random, condensed.metadata)
    bound = packed_size(spec_of(channels=64), "int8", ("a", "b", "c"))
    assert len(pack(worst)) <= bound


def test_it_is_smaller_than_the_file():
    condensed = artefact()
    assert len(pack(condensed)) < 0.6 * condensed.nbytes


def rewritten(change):
    """A packed artefact whose header went through ``change``."""
    content = zlib.decompress(pack(artefact()))
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    change(header)
    text = json.dumps(header).encode()
    return zlib.compress(len(text).to_bytes(4, "little") + text + content[4 + length :])


def test_damaged_bytes_are_refused():
    data = pack(artefact())
    for bad in (b"", b"rubbish", data[:-10], data[: len(data) // 2]):
        with pytest.raises(ArtefactError):
            unpack(bad)
    for place in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        try:
            unpack(bytes(flipped))
        except ArtefactError:
            continue
        pytest.fail(f"a flipped bit at byte {place} went unseen")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["architecture"].update(channels=2**20),
        lambda h: h["architecture"].update(channels=9),
        lambda h: h["architecture"].update(images_per_class=2**40),
        lambda h: h["architecture"].update(code_map="other"),
        lambda h: h.update(precision="fp64"),
        lambda h: h.update(classes=["a"]),
        lambda h: h.pop("normalisation"),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_built(change):
    with pytest.raises(ArtefactError):
        unpack(rewritten(change))


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_other_versions_are_refused(version):
    with pytest.raises(ArtefactError, match=f"format version {version!r}"):
        unpack(rewritten(lambda h: h.update(format_version=version)))


@pytest.mark.parametrize("key", sorted(set(REQUIRED_METADATA) - {"format_version"}))
def test_a_header_without_a_key_is_refused_by_its_name(key):
    with pytest.raises(ArtefactError, match=f"lacks '{key}'"):
        unpack(rewritten(lambda h: h.pop(key)))


def test_a_bomb_is_not_inflated(monkeypatch):
    from condense_core.artefact import compact

    monkeypatch.setattr(compact, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(ArtefactError, match="larger than"):
        unpack(zlib.compress(bytes(10_000_000)))


def test_the_bound_depends_on_the_lengths_of_class_names_alone():
    spec = spec_of()
    alike = packed_size(spec, "int8", ("0/0", "1/0", "2/0"))
    assert packed_size(spec, "int8", ("7/3", "9/8", "6/1")) == alike
    assert packed_size(spec, "int8", ("aaaa", "b", "c")) == alike - 3

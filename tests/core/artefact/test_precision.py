import pytest
import torch

from condense_core.artefact.precision import PRECISIONS, decode, encode, encoded_layout
from condense_core.errors import ArtefactError
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

SIZES = {
    "image_shape": (1, 8, 8),
    "num_classes": 2,
    "images_per_class": 3,
    "latent_dim": 4,
    "embedding_dim": 5,
    "projected_dim": 6,
    "channels": 7,
}


def matrix(*shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator) * scale


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["generator", "pixels"])
@pytest.mark.parametrize("codes", ["learned", "uniform", "truncated"])
def test_the_layout_is_that_of_an_encoded_state(kind, precision, codes):
    spec = SynthesiserSpec(kind=kind, codes=codes, **SIZES)
    with seeded_initialisation(0, "test"):
        state = build_synthesiser(spec).state_dict()
    stored = encode(state, precision)
    found = {name: (tuple(t.shape), t.dtype) for name, t in stored.items()}
    assert found == encoded_layout(spec, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encoding_what_was_decoded_changes_nothing(precision):
    state = {"a": matrix(5, 7), "codebook.codes": matrix(3, 4), "b": matrix(6)}
    stored = encode(state, precision)
    again = encode(decode(stored), precision)
    assert again.keys() == stored.keys()
    decoded, same = decode(stored), decode(again)
    assert decoded.keys() == state.keys()
    for name, value in decoded.items():
        # A scale may differ in its last bit: 127 * (largest / 127).
        assert torch.allclose(value, same[name], rtol=1e-6, atol=0), name


def test_fp32_is_exact_and_no_view_of_the_state():
    state = {"a": matrix(5, 7), "b": matrix(6)}
    stored = encode(state, "fp32")
    state["a"].zero_()
    assert torch.equal(stored["a"], matrix(5, 7))


def test_fp16_is_the_nearest_half():
    stored = encode({"a": matrix(5, 7)}, "fp16")
    assert torch.equal(decode(stored)["a"], matrix(5, 7).half().float())


def test_int8_is_within_half_a_step_of_its_row():
    value = matrix(5, 7) * torch.tensor([1e-6, 1e-2, 1.0, 1e2, 1e6])[:, None]
    stored = encode({"a": value}, "int8")
    assert stored["a"].dtype == torch.int8
    assert stored["a.scale"].shape == (5,)
    step = value.abs().amax(dim=1, keepdim=True) / 127
    error = (decode(stored)["a"] - value).abs()
    assert (error <= 0.5001 * step).all()
    assert (stored["a"].abs().amax(dim=1) == 127).all()


def test_int8_scales_kernels_by_output_channel():
    stored = encode({"a": matrix(4, 3, 2, 2)}, "int8")
    assert stored["a"].shape == (4, 3, 2, 2)
    assert stored["a.scale"].shape == (4,)
    assert torch.allclose(decode(stored)["a"], matrix(4, 3, 2, 2), atol=0.02)


def test_int8_of_a_row_of_zeros_is_zeros():
    decoded = decode(encode({"a": torch.zeros(2, 3)}, "int8"))["a"]
    assert torch.equal(decoded, torch.zeros(2, 3))


def test_counters_are_left_out():
    state = {"a": matrix(2), "bn.num_batches_tracked": torch.tensor(3)}
    assert set(encode(state, "fp32")) == {"a"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_a_half_cannot_hold_is_refused(precision):
    with pytest.raises(ArtefactError, match=r"a exceeds .* format.precision=fp32"):
        encode({"a": torch.tensor([1e6])}, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_no_matter_of_precision(precision, value):
    state = {"a": torch.tensor([[1.0, value]])}
    with pytest.raises(ArtefactError, match=r"a holds NaN or infinite .* diverged"):
        encode(state, precision)


def test_the_layout_of_absurd_sizes_allocates_nothing():
    spec = SynthesiserSpec(
        kind="generator", **SIZES | {"channels": 4096, "latent_dim": 65_536}
    )
    shape, _ = encoded_layout(spec, "fp32")["generator.stem.weight"]
    assert shape[1] == 65_536 + 6


def test_the_layout_leaves_global_randomness_alone(untouched_global_rng):
    encoded_layout(SynthesiserSpec(kind="generator", **SIZES), "fp32")

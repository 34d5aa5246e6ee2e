import pytest
import torch

from avalanche_plugin.pixels import ValueRange
from avalanche_plugin.slot import Slot
from condense_core import CondensedDataset, PixelStatistics
from condense_core.errors import ArtefactError
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser


def artefact(classes=2):
    spec = SynthesiserSpec(
        kind="generator",
        image_shape=(1, 8, 8),
        num_classes=classes,
        images_per_class=3,
        latent_dim=4,
        embedding_dim=classes,
        projected_dim=4,
        channels=4,
        code_map="per_class",
    )
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(spec)
    return CondensedDataset.from_synthesiser(
        synthesiser,
        classes=[str(i) for i in range(classes)],
        statistics=PixelStatistics((0.5,), (0.5,)),
        precision="int8",
    )


def test_state_round_trip():
    slot = Slot.pack(artefact(), ((3, 0), (5, 1)), ValueRange((-1.0,), (2.5,)))
    again = Slot.from_state(slot.state_dict())
    assert again == slot
    assert torch.equal(again.unpack("cpu").images()[0], artefact().images()[0])


def test_a_damaged_state_is_refused():
    slot = Slot.pack(artefact(), ((3, 0), (5, 1)), ValueRange((0.0,), (1.0,)))
    state = slot.state_dict()
    with pytest.raises(ArtefactError, match="damaged"):
        Slot.from_state({"keys": state["keys"]})
    flipped = {**state, "artefact": state["artefact"].clone()}
    flipped["artefact"][len(state["artefact"]) // 2] ^= 0xFF
    with pytest.raises(ArtefactError):
        Slot.from_state(flipped).unpack("cpu")
    with pytest.raises(ArtefactError, match="classes"):
        Slot.from_state({**state, "keys": state["keys"][:1]}).unpack("cpu")

from dataclasses import fields, replace

import pytest

from condense_core.artefact.checks import check_sizes
from condense_core.errors import ArtefactError
from condense_core.synthesiser import SynthesiserSpec

SPEC = SynthesiserSpec(
    kind="generator", image_shape=(1, 8, 8), num_classes=2, images_per_class=3
)
SIZES = [f.name for f in fields(SynthesiserSpec) if f.type in (int, int | None)]


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_an_upper_bound(name):
    check_sizes(SPEC)
    with pytest.raises(ArtefactError, match=f"{name} is 1000000000: it must be"):
        check_sizes(replace(SPEC, **{name: 10**9}))

"""Labelled images: what they are, where they come from, how a loop draws them.

`images` is what everything else takes; `sources` and `readers` load a set by name,
`cache` and `mapped` hold sets larger than memory, `class_sampler` serves a training
loop.
"""

from condense_core.data.convert import to_bytes, to_unit
from condense_core.data.images import (
    ImageData,
    KnownFacts,
    PixelStatistics,
    as_image_data,
    histograms,
    require_images,
    statistics_of_histograms,
    valid_text,
)

__all__ = [
    "ImageData",
    "KnownFacts",
    "PixelStatistics",
    "as_image_data",
    "histograms",
    "require_images",
    "statistics_of_histograms",
    "to_bytes",
    "to_unit",
    "valid_text",
]

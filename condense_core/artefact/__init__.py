"""The condensed data set as a thing to keep, send and count the bytes of.

`dataset` is what users hold; `checks` says what a file must be like, `precision`,
`compact` and `budget` decide how small it gets, and `export` writes ordinary images.
"""

from condense_core.artefact.dataset import CondensedDataset

__all__ = ["CondensedDataset"]

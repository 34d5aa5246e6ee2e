"""Dataset condensation into a codebook and a class-conditional generator.

The method of Zhang et al. 2023, "Dataset Condensation via Generative Model".
"""

from condense_core.artefact import CondensedDataset
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, PixelStatistics
from condense_core.errors import (
    ArtefactError,
    CondenseError,
    ConfigError,
    DataError,
    RunError,
)
from condense_core.evaluate import EvaluationReport, evaluate
from condense_core.runs.run import condense

__version__ = "0.1.0"

__all__ = [
    "ArtefactError",
    "CondenseConfig",
    "CondenseError",
    "CondensedDataset",
    "ConfigError",
    "DataError",
    "EvaluationReport",
    "ImageData",
    "PixelStatistics",
    "RunError",
    "condense",
    "evaluate",
]

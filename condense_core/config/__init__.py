"""Configuration: frozen dataclasses, strict YAML, ``--set key.path=value``.

Every option of a run is a field here with its unit and its source; the classes check
ranges themselves. What depends on the data is checked before the work. Presets are in
`condense_core.config.presets`.
"""

from condense_core.config.loop import (
    LOSS_TERMS,
    ComputeConfig,
    LoopConfig,
    LossConfig,
    OptimiserConfig,
    TrajectoryConfig,
    UnrolledConfig,
)
from condense_core.config.start import (
    DataConfig,
    FormatConfig,
    NetworkConfig,
    PretrainConfig,
    TeacherConfig,
)
from condense_core.config.whole import CondenseConfig, EvaluateConfig

__all__ = [
    "LOSS_TERMS",
    "ComputeConfig",
    "CondenseConfig",
    "DataConfig",
    "EvaluateConfig",
    "FormatConfig",
    "LoopConfig",
    "LossConfig",
    "NetworkConfig",
    "OptimiserConfig",
    "PretrainConfig",
    "TeacherConfig",
    "TrajectoryConfig",
    "UnrolledConfig",
]

"""Generative replay for Avalanche: it stores generators instead of images.

Names are loaded on first use, so that `avalanche_plugin.memory`, which does not need
Avalanche, can be used with other frameworks without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avalanche_plugin.memory import GeneratorMemory
from avalanche_plugin.protocol import ReplayMemory
from condense_core.artefact.budget import BudgetError

if TYPE_CHECKING:
    from avalanche_plugin.buffer import CondensedBuffer
    from avalanche_plugin.metrics import ReplayBytes, replay_memory_metrics
    from avalanche_plugin.replay import CondensedReplayPlugin, GenerativeReplayPlugin

__all__ = [
    "BudgetError",
    "CondensedBuffer",
    "CondensedReplayPlugin",
    "GenerativeReplayPlugin",
    "GeneratorMemory",
    "ReplayBytes",
    "ReplayMemory",
    "replay_memory_metrics",
]

_MODULES = {
    "CondensedBuffer": "buffer",
    "CondensedReplayPlugin": "replay",
    "GenerativeReplayPlugin": "replay",
    "ReplayBytes": "metrics",
    "replay_memory_metrics": "metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

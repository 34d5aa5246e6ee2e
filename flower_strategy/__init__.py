"""One-shot federated condensation with Flower: clients send generators, not gradients.

Names are loaded on first use, so that `flower_strategy.partition` and
`flower_strategy.privacy` can be used without Flower.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower_strategy.client_app import build_client_app
    from flower_strategy.global_model import load_global_model
    from flower_strategy.local_grid import LocalGrid
    from flower_strategy.result import CondensationResult
    from flower_strategy.settings import (
        ClientSettings,
        DataSettings,
        ModelSettings,
        ServerSettings,
    )
    from flower_strategy.strategy import CondensationStrategy

__all__ = [
    "ClientSettings",
    "CondensationResult",
    "CondensationStrategy",
    "DataSettings",
    "LocalGrid",
    "ModelSettings",
    "ServerSettings",
    "build_client_app",
    "load_global_model",
]

_MODULES = {
    "ClientSettings": "settings",
    "CondensationResult": "result",
    "CondensationStrategy": "strategy",
    "DataSettings": "settings",
    "LocalGrid": "local_grid",
    "ModelSettings": "settings",
    "ServerSettings": "settings",
    "build_client_app": "client_app",
    "load_global_model": "global_model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

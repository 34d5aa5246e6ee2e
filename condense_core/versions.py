"""Versions that numbers may depend on."""

import platform
from importlib import metadata

import torch


def library_versions() -> dict[str, str]:
    """Versions that numbers may depend on, for reports."""
    try:
        own = metadata.version("gencondense")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gencondense": own,
        "platform": platform.platform(),
    }

"""Choice of the device a run uses."""

import torch

from condense_core.errors import ConfigError, RunError


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a device that exists.

    Args:
        name: ``"auto"`` (CUDA where there is one, else the CPU), or any torch device
            such as ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns:
        The device.

    Raises:
        ConfigError: The name is not that of a device.
        RunError: If this machine has no such device.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"unknown device '{name}': use auto, cpu, cuda or cuda:INDEX"
        ) from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        # torch raises any of the three for an absent device, depending on the build.
        raise RunError(
            f"device '{name}' is not available here: use --device auto or cpu"
        ) from None
    return device

"""Exceptions a caller can act on.

Each message is one line with what, the value and the remedy.

Leaves also inherit the builtin a caller would expect, so ``except ValueError`` works as
well as ``except CondenseError``. The command line turns every `CondenseError` into exit
code 2.
"""


class CondenseError(Exception):
    """Root of every error this package raises for bad usage or bad input."""


class ConfigError(CondenseError, ValueError):
    """A configuration key or value is unknown or out of range."""


class DataError(CondenseError, ValueError):
    """A data source is missing, unreadable, empty or inconsistent."""


class MissingSplitError(DataError):
    """A data source has training images but no test images."""


class ArtefactError(CondenseError, ValueError):
    """An artefact file is truncated, tampered with, unsupported or inconsistent."""


class RunError(CondenseError, RuntimeError):
    """A run directory, device or disk cannot be used for this run."""

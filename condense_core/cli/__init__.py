"""The ``condense`` command: `parser` reads arguments, the rest does what they say."""

from condense_core.cli.parser import main

__all__ = ["main"]

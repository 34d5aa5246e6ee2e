"""The ``condense`` command: `parser` reads arguments, `commands` does what they say."""

from condense_core.cli.parser import main

__all__ = ["main"]

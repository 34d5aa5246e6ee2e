"""``python -m condense_core`` is the ``condense`` command."""

import sys

from condense_core.cli import main

if __name__ == "__main__":
    sys.exit(main())

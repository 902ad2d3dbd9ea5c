"""`python -m captioner`: the same as the command `captioner`."""

from __future__ import annotations

import sys

from captioner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

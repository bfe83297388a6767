"""`python -m chainft` is `chainft`."""

from __future__ import annotations

import sys

from chainft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

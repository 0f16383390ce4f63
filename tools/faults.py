"""`python -m tools.faults`: breaks shards of every format, reads them with and without us, writes docs/faults.md."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Write the page; it takes minutes, for what hangs is waited for."""
    sys.path[:0] = [str(TESTS), str(TESTS / "sources")]
    import datasets  # noqa: F401  # once for all cases, which are forks
    import fault_table
    import streaming  # noqa: F401
    import webdataset  # noqa: F401

    fault_table.main()


if __name__ == "__main__":
    main()

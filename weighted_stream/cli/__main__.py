"""``python -m weighted_stream.cli``."""

import sys

from weighted_stream.cli import main

if __name__ == "__main__":
    sys.exit(main())

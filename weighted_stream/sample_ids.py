"""How the 63 bits of a sample id are shared out; the rooms that make ids and those that keep them agree here.

- **dense** ids, ``0 <= id < DENSE_LIMIT``: the index of a map-style dataset, or an integer column;
- **hashed** ids, ``HASHED <= id <= MAX_ID``: a sample of a shard, or a string key.
"""

from __future__ import annotations

DENSE_LIMIT = 1 << 38
HASHED = 1 << 62
MAX_ID = (1 << 63) - 1

"""Parts: a dataset in the pieces that are read together, for whoever reads it ahead of the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Part(ABC):
    """Samples that are read together: a shard, or a run of a map-style dataset.

    Attributes:
        name: what messages call it, e.g. ``"c4/train/shard.00017.mds"`` or ``"rows 0 to 4095"``. The name of a shard
            stays the same; it carries no credentials.
    """

    name: str

    def ids(self) -> NDArray[np.int64] | None:
        """The ids of its samples in reading order, (n,); None if only reading can tell."""
        return None

    @abstractmethod
    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, sample)`` of its samples, as they are stored: before any transform of a loader, where there is one.

        Args:
            wanted: (n,), which of `ids` to read; None: all. Only for a part that knows its ids.

        Raises:
            SourceError: if it cannot be read; what was read before stands.
        """

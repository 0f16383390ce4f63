"""The vectors that the forwards of a batch showed, sample by sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.probes.hidden_states import HiddenStateProbe
from weighted_stream.signals import Signals


class Seen:
    """The vectors of one batch, as its parts become known.

    Attributes:
        middle: (H,), what scores of this batch are centred by; the same for all its parts.

    Example:
        >>> seen = Seen()
        >>> seen.add(np.array([2, 0]), torch.tensor([[2.0], [0.0]]))
        >>> seen.at(np.array([0, 2])), seen.at(np.array([0, 1]))
        (tensor([[0.],
                [2.]]), None)
    """

    def __init__(self, middle: Tensor | None = None) -> None:
        self.middle = middle
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        self._vectors: Tensor | None = None

    def of(self, signals: Signals, probe: HiddenStateProbe) -> Tensor:
        """The vectors (B, H) of these samples: those of the latest forwards, or those already known.

        Raises:
            StrategyError: if one of them was not seen.
        """
        places = places_of(signals)
        asked = places if signals.asked is None else signals.asked
        latest = probe.take(len(asked))
        if latest is not None:
            self.add(asked, latest)
        vectors = self.at(places)
        if vectors is None:
            raise probe.no_forward()
        return vectors

    def add(self, places: NDArray[np.int64], vectors: Tensor) -> None:
        """The vectors (n, H) of these places of the batch; later ones replace earlier ones."""
        self._places = np.concatenate([self._places, places])
        self._vectors = vectors if self._vectors is None else torch.cat([self._vectors, vectors])

    def at(self, places: NDArray[np.int64]) -> Tensor | None:
        """The vectors (n, H) of these places, or None if one of them is not known."""
        if self._vectors is None or np.array_equal(places, self._places):
            return self._vectors
        row_of = np.full(int(max(self._places.max(initial=0), places.max(initial=0))) + 1, -1)
        row_of[self._places] = np.arange(len(self._places))  # of several, numpy keeps the last
        rows = row_of[places]
        return None if (rows < 0).any() else self._vectors[torch.from_numpy(rows).to(self._vectors.device)]


def places_of(signals: Signals) -> NDArray[np.int64]:
    """Where in their batch these samples stand, (B,)."""
    return np.arange(len(signals)) if signals.places is None else signals.places

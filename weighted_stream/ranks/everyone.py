"""Everyone: the global batch, made of what each rank weighed at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weighted_stream.ranks.packet import Floats, Ids, Packet


class Everyone:
    """The samples of all ranks, rank by rank.

    Args:
        packets: what each rank said, by rank.
        rank: which one this is.

    Attributes:
        ids: (N,) int64.
        losses: (N,) float32.
        weights: (N,) float32; None if a rank told none.
        step: the step they were weighed at.
        similarity: (N,) float32, as the rank whose sample it is knows it; NaN where it knows none.
        mine: where this rank's samples stand.

    Example:
        >>> from weighted_stream.ranks.packet import Kind
        >>> said = [Packet(Kind.FEEDBACK, ids=np.array([n]), losses=np.array([n], np.float32)) for n in (5, 7)]
        >>> everyone = Everyone(said, rank=1)
        >>> everyone.ids.tolist(), everyone.mine
        ([5, 7], slice(1, 2, None))
    """

    def __init__(self, packets: Sequence[Packet], rank: int) -> None:
        self.ids: Ids = np.concatenate([packet.ids for packet in packets])
        self.losses: Floats = np.concatenate([packet.losses for packet in packets])
        weights = [packet.weights for packet in packets if len(packet.ids)]
        given = [part for part in weights if part is not None]
        self.weights: Floats | None = np.concatenate(given) if given and len(given) == len(weights) else None
        self.step = max(packet.step for packet in packets)
        start = sum(len(packet.ids) for packet in packets[:rank])
        self.mine = slice(start, start + len(packets[rank].ids))
        self.similarity: Floats = np.concatenate([_scores_of(packet) for packet in packets])

    def __len__(self) -> int:
        return len(self.ids)

    def again(self, losses: Floats) -> Floats:
        """All losses (N,), with these for this rank's samples: its batch is run again."""
        mended = self.losses.copy()
        mended[self.mine] = losses
        return mended

    def finite(self) -> NDArray[np.bool_]:
        """Which losses count, (N,)."""
        return np.isfinite(self.losses)


def _scores_of(packet: Packet) -> Floats:
    """The scores of the samples in a packet, (n,)."""
    if not len(packet.scored):
        return np.full(len(packet.ids), np.nan, np.float32)
    known = dict(zip(packet.scored.tolist(), packet.similarity.tolist(), strict=True))
    return np.array([known.get(number, np.nan) for number in packet.ids.tolist()], np.float32)

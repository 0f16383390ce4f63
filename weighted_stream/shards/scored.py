"""Scores with their ids, wherever they come from, on their way into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import ScoringError, StoreMismatchError
from weighted_stream.scoring.base import Scores
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.sources.base import Fingerprint

if TYPE_CHECKING:
    from weighted_stream.store import WeightStore
    from weighted_stream.stream import WeightedStream

_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Scored:
    """Scores of samples. Iterate for ``(ids (n,) int64, scores (n,) float32)``, as often as wanted.

    Attributes:
        identity: whose scores they are.
        dataset: what the ids belong to; None if nobody knows.
        batches: reads them.
    """

    identity: ScoreIdentity
    dataset: Fingerprint | None
    batches: Callable[[], Iterator[tuple[NDArray[np.int64], Scores]]]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], Scores]]:
        return self.batches()


def load_scores(store: WeightStore | WeightedStream, scores: str | PathLike[str] | Scored) -> int:
    """Put scores into a store, where `Similarity` without a target uses them.

    Args:
        store: an open `WeightStore`, or a stream, whose store it is then.
        scores: a folder of side files (or one of them) that ``weighted-stream score`` wrote, or what `prior_scores`
            or `read_scores` returned.

    Returns:
        How many scores were put in.

    Raises:
        ScoringError: if there are none, or they cannot be read.
        StoreMismatchError: if they are scores of samples of another dataset, or the store holds other scores.
        StoreError: if the store cannot be written.

    Example:
        >>> from weighted_stream import WeightStore
        >>> scores = Scored(
        ...     ScoreIdentity("mini", "c0ffee", "mean"), None,
        ...     lambda: iter([(np.array([3, 5]), np.array([0.25, 0.5], np.float32))]),
        ... )
        >>> with WeightStore() as store:
        ...     load_scores(store, scores), store.get([5])["similarity"].tolist()
        (2, [0.5])
    """
    from weighted_stream.shards.side_files import read_scores

    opened: Any = getattr(store, "store", store)
    found = scores if isinstance(scores, Scored) else read_scores(scores)
    if found.dataset is not None:
        try:
            opened.bind(found.dataset)
        except StoreMismatchError as error:
            raise StoreMismatchError(
                error.problem,
                found=error.found,
                expected=error.expected,
                do="make the stream with the ids that were scored (score --id FIELD goes with id_fn=FIELD, none with "
                "none), or score the dataset of this store",
            ) from error
    opened.bind_scores(found.identity)
    loaded = 0
    for ids, values in found:
        for start in range(0, len(ids), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            opened.update(ids[some], similarity=values[some])
        loaded += len(ids)
    if not loaded:
        raise ScoringError(
            "There is no score to load.", found="0 scores", expected="at least one", do="check what was scored"
        )
    return loaded

"""What the room offers: encoders make vectors of samples, scorers make scores of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.scoring.identity import ScoreIdentity

Scores: TypeAlias = NDArray[np.float32]


@runtime_checkable
class Encoder(Protocol):
    """Makes a vector of each sample. Anything with this one method will do; so will a plain function.

    It has to pickle, as it works in a process of its own.
    """

    def encode(self, samples: Sequence[Any], /) -> Tensor:
        """Unit vectors: (n, d) float32, on any device, in the order of the samples."""
        ...


class Scorer(ABC):
    """Samples in, scores out. It lives where the scoring is done, and holds the model if there is one.

    Attributes:
        first_pass: whether it must see the whole corpus (`learn`) before it can score.
    """

    first_pass: bool = False

    @property
    @abstractmethod
    def identity(self) -> ScoreIdentity:
        """What tells these scores from those of another target, encoder or method."""

    @abstractmethod
    def score(self, samples: Sequence[Any]) -> Scores:
        """One finite score per sample: (n,) float32, higher for more like the target.

        Raises:
            ScoringError: if a sample lacks its text, or the encoder gives no unit vectors.
        """

    def learn(self, sweep: Callable[[], Iterable[Sequence[Any]]]) -> None:
        """See the whole corpus before the first `score`; called once, and only if `first_pass` says so.

        What it learns must not depend on the order of the samples, so that a scorer started again gives the same
        scores.

        Args:
            sweep: begins a pass over the corpus, in batches of samples. It may be called more than once (a mean over
                the corpus of what needs document frequencies takes two passes), and each pass has to be finished
                before the next begins.
        """


@dataclass(frozen=True)
class ScoringPlan:
    """What a strategy wants scored ahead of the trainer; it travels to the process that does it.

    Attributes:
        make: gives the scorer; called in that process, so it has to pickle.
        ahead: how many samples may be scored that the trainer has not reached yet.
        wait: let the trainer wait for a score in place of giving the neutral weight.
        on_bad_shard: what to do about a shard that cannot be read: stop the trainer, or go on without it (it is
            named in a warning and counted).
        progress: print a line about shards, samples/s and how far ahead.
        whose: the scorer's identity as far as it is known before it has encoded anything; None: not at all. A store
            with other scores is refused by it at once.
    """

    make: Callable[[], Scorer]
    ahead: int = 65_536
    wait: bool = False
    on_bad_shard: Literal["raise", "skip"] = "raise"
    progress: bool = False
    whose: ScoreIdentity | None = None

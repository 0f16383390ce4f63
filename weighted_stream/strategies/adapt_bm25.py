"""AdaptBM25: a sample counts by the rare words it shares with the target set, fixed before training."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from weighted_stream.scoring.bm25 import BM25Scorer
from weighted_stream.scoring.fields import TextField
from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.gate import Normalize, normalized, sigmoid_gate
from weighted_stream.strategies.options import check_choice, check_number
from weighted_stream.strategies.stored_scores import OnBadShard, filled, scoring_plan, stored_scores


class AdaptBM25(Strategy):
    """ADAPT-BM25 (arXiv 2605.05227, ICLR 2026): ``w = sigmoid(z / tau)``, z the standardised BM25 score of a sample.

    The score is the mean BM25 over the target samples (`BM25Scorer`), computed once; standardising it over the corpus
    is ours. Weights lie in (0, 1), 0.5 for a sample of the mean score, as published: ``(losses * weight).mean()`` is
    about half the plain loss, which under Adam changes next to nothing and under SGD halves the learning rate;
    ``normalize="mean"`` keeps the scale. A sample without a score gets the weight of the mean score: 0.5, or 1 with
    ``normalize="mean"``. No losses are needed: ``weight.tensor()`` gives the weights as soon as there is a batch.

    Scoring begins when the corpus has been read twice, for the document frequencies and for mean and deviation. Under
    several ranks each reads all of it, not only its share.

    Args:
        target: a `TargetSet`, or what one is made of: a list of samples, a dataset, the path of a file. None: take the
            scores the store holds.
        tau: temperature, in standard deviations of the score, > 0. The paper does not give it.
        normalize: ``"none"`` (published), or ``"mean"``: the scored samples of a batch average 1 [ours]; the batch is
            then weighed as a whole.
        text: the field of a sample that is scored, or a function of the sample. (Of the target's samples too, if they
            are no `TargetSet`.)
        k1: of BM25.
        b: of BM25.
        ahead: how many samples may be scored that the trainer has not reached yet.
        wait: let the trainer wait for a score in place of the neutral weight.
        on_bad_shard: ``"raise"`` or ``"skip"`` a shard that cannot be read.
        progress: print how far the scoring is.

    Raises:
        StrategyError: for an option outside its range, or options that need a target without one.
        ScoringError: if the target is none, or a constant of BM25 is outside its range.

    Example:
        >>> from weighted_stream import WeightedStream
        >>> stream = WeightedStream(["a", "b", "c"], AdaptBM25(["a target"], wait=False))
        >>> stream.strategy
        AdaptBM25(tau=1.0, normalize='none')
    """

    def __init__(
        self,
        target: Any = None,
        *,
        tau: float = 1.0,
        normalize: Normalize = "none",
        text: TextField = "text",
        k1: float = 1.5,
        b: float = 0.75,
        ahead: int = 65_536,
        wait: bool = False,
        on_bad_shard: OnBadShard = "raise",
        progress: bool = False,
    ) -> None:
        self.tau = check_number("AdaptBM25", "tau", tau, above=0)
        self.normalize = check_choice("AdaptBM25", "normalize", normalize, ("none", "mean"))
        self.joint = normalize == "mean"
        whose = None
        if target is not None:
            scorer = BM25Scorer(target, text=text, k1=k1, b=b)  # whatever is wrong with it is found here
            target, whose = scorer.target, scorer.identity
        self.scoring = scoring_plan(
            "AdaptBM25",
            None if target is None else partial(BM25Scorer, target, text=text, k1=k1, b=b),
            ahead=ahead,
            wait=wait,
            on_bad_shard=on_bad_shard,
            progress=progress,
            whose=whose,
            text=None if text == "text" else text,
            k1=None if k1 == 1.5 else k1,
            b=None if b == 0.75 else b,
        )

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32 in (0, 1), or averaging 1 over the scored samples."""
        scores, known = stored_scores(signals)
        weights = normalized(sigmoid_gate(scores if known is None else scores[known], self.tau), self.normalize)
        return filled(weights, known, 1.0 if self.normalize == "mean" else 0.5).to(signals.device)

"""OnlineDataMixing: domains of high loss weigh more, by a bandit that keeps exploring."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.signals import Signals
from weighted_stream.strategies.domains import DomainStrategy, Floats, on_host

SCALE = 10.0
"""Losses are divided by it, as in the authors' code."""


def exp3(
    rewards: NDArray[np.float64], p: NDArray[np.float64], losses: NDArray[np.float64], t: int, eps: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """One update of Exp3 as arXiv 2312.02406 and its code have it.

    ``R_d += (l_d / 10) / p_d``; ``eps_t = min(1/K, sqrt(ln K / (K t)))``;
    ``p_d = (1 - K eps_t) softmax(eps_{t-1} R)_d + eps_t``.

    Args:
        rewards: R, (K,).
        p: (K,) probabilities, above 0.
        losses: l, (K,) mean losses of the domains of this batch; NaN for a domain that has none: its R stays.
        t: the number of this update, from 1.
        eps: eps_{t-1}; 1/K before the first.

    Returns:
        R, p (each at least eps_t) and eps_t.

    Example:
        >>> R, p, eps = exp3(np.zeros(2), np.array([0.5, 0.5]), np.array([4.0, 2.0]), t=4, eps=0.5)
        >>> R, p.round(4), round(eps, 4)
        (array([0.8, 0.4]), array([0.5205, 0.4795]), 0.2944)
    """
    count = len(p)
    rewards = rewards + np.where(np.isnan(losses), 0.0, losses) / SCALE / p
    now = min(1.0 / count, sqrt(log(count) / (count * t)))
    powers = eps * rewards
    powers = np.exp(powers - powers.max())
    p = (1.0 - count * now) * powers / powers.sum() + now
    return rewards, p / p.sum(), now


class OnlineDataMixing(DomainStrategy):
    """The proportion of a domain follows its loss: much loss, much to learn. Nothing else is needed, no reference.

    Source: arXiv 2312.02406. A multi-armed bandit whose arms are domains and whose rewards are losses; see `exp3`. Its
    exploration eps_t falls as the square root of t, so that at first all domains have the same proportion.

    Published: each micro-batch is drawn from one domain, by these probabilities, and the reward is divided by the
    probability of being drawn. Ours: samples weigh by proportion over share (`DomainStrategy` says more); every domain
    of which a batch has samples gets its reward, divided by its proportion all the same. That division holds the
    others up: a domain whose proportion is small gains the most from its own loss. There is no warm-up (published:
    a share of the steps with the data's own proportions).

    Args:
        shares: the share of the data of each domain, by its name (or numbers of samples). None: domains and shares are
            learned as samples come.

    Raises:
        StrategyError: for shares that cannot be; while weighing, for a sample without a group, or of a domain that is
            not among ``shares``.

    Example:
        >>> from weighted_stream import OnlineDataMixing, WeightedStream
        >>> data = [{"domain": "code", "loss": 4.0}, {"domain": "text", "loss": 1.0}] * 64
        >>> strategy = OnlineDataMixing()
        >>> for batch, weight in WeightedStream(data, strategy, group_fn="domain").loader(batch_size=4):
        ...     weights = weight.resolve(batch["loss"])
        >>> weights[0] > 1.2, weights[1] < 0.8, strategy.domain_weights["code"] > 0.6
        (tensor(True), tensor(True), True)
    """

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._rewards = self._p = np.zeros(0)
        self._t, self._eps = 0, 1.0
        super().__init__(shares)

    def _proportions(self) -> Floats:
        return self._p

    def _values(self, signals: Signals) -> Floats:
        return on_host(self.losses(signals))

    def _learn(self, means: Floats) -> None:
        self._t += 1
        self._rewards, self._p, self._eps = exp3(self._rewards, self._p, means, self._t, self._eps)

    def _add(self, new: int) -> None:
        known = len(self._p)
        count = known + new
        # A new domain begins where the others are on average, not behind all they have gained.
        self._rewards = np.append(self._rewards, np.full(new, self._rewards.mean() if known else 0.0))
        self._p = np.append(self._p * (known / count), np.full(new, 1.0 / count))
        self._eps = min(self._eps, 1.0 / count)

    def _learned(self) -> dict[str, Any]:
        return {"rewards": self._rewards, "p": self._p, "t": self._t, "eps": self._eps}

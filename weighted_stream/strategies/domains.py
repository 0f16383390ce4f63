"""Weights of domains: each group of the data gets a proportion, learned once per batch from its samples' losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import StateError, StrategyError
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.options import check_number

Floats: TypeAlias = NDArray[np.float64]


class DomainStrategy(Strategy):
    """Every domain d has a proportion p_d and a share s_d of the data; its samples weigh ``p_d / s_d`` [ours].

    The published methods draw samples by these proportions. A stream hands samples over in its own order, so it weighs
    instead: the expected gradient is the same, and the weights average ``sum_d s_d p_d / s_d = 1`` over the stream. A
    sample of a rare domain with a large proportion weighs much, where drawing would repeat it: put `Clip` around.

    Domains are the groups of the stream: ``WeightedStream(..., group_fn="domain")``. The losses of a batch, in one or
    several parts, are one update, which the next batch is weighed by; weights are known at hand-over. Each rank learns
    from the samples of all ranks, unless it asks a reference model about its own.

    Args:
        shares: the share of the data of each domain, by its name, e.g. numbers of samples; scaled to sum 1. None: as
            they come, the domains and their shares are those of the samples weighed so far; a domain that was not seen
            yet weighs 1, and a new one takes its part of the proportions from the others.

    Raises:
        StrategyError: for shares that cannot be; while weighing, for a sample without a group, or of a domain that is
            not among ``shares``.
    """

    remedy = "Are there several groups, and does the stream know them (group_fn)?"

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self.shares = None if shares is None else _normalised(type(self).__name__, shares)
        self._names: list[str] = []
        self._seen: Floats = np.zeros(0)
        self._pending: dict[str, tuple[float, int, int]] = {}  # sum of finite values, their number, samples
        self._step: int | None = None
        self._grow(list(self.shares or ()))

    @property
    def domain_weights(self) -> dict[str, float]:
        """The proportion of each domain, by name; they sum to 1."""
        now = self._settled()
        return dict(zip(now._names, now._proportions().tolist(), strict=True))

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32."""
        if self not in signals.scratch:  # frozen for this batch, so that its parts agree
            now = self if signals.step == self._step else self._settled()  # of the batch before, parts may yet come
            signals.scratch[self] = now._table()
        table: dict[str, float] = signals.scratch[self]
        names, places = self._domains(signals)
        values = np.array([table.get(name, 1.0) for name in names], np.float32)
        return torch.from_numpy(values[places]).to(signals.device)

    def observe(self, signals: Signals) -> None:
        """The losses of a batch, or of a part of one; what they teach is settled when another batch comes."""
        if signals.step != self._step:
            self._settle()
            self._step = signals.step
        names, places = self._domains(signals)
        values = self._values(signals)
        usable = np.isfinite(values)
        sums = np.bincount(places, np.where(usable, values, 0.0), len(names))
        counts = np.bincount(places, usable, len(names))
        samples = np.bincount(places, minlength=len(names))
        for name, total, count, size in zip(names, sums.tolist(), counts.tolist(), samples.tolist(), strict=True):
            before = self._pending.get(name, (0.0, 0, 0))
            self._pending[name] = (before[0] + total, before[1] + int(count), before[2] + size)

    def state_dict(self) -> dict[str, Any]:
        """Domains, what was learned of them, and the batch that is not settled."""
        return {
            "names": list(self._names),
            "seen": self._seen.tolist(),
            "pending": {name: list(values) for name, values in self._pending.items()},
            "step": self._step,
            "learned": {name: np.asarray(values).tolist() for name, values in self._learned().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            StateError: for a state of another kind of strategy, or of other domains than ``shares`` names.
        """
        method = type(self).__name__
        check_keys(f"{method}'s state", state, ("names", "seen", "pending", "step", "learned"))
        check_keys(f"what {method} learned", state["learned"], self._learned())
        names = list(state["names"])
        if self.shares is not None and set(names) != set(self.shares):
            raise StateError(
                f"{method}'s state is of other domains.",
                found=", ".join(names),
                expected=", ".join(self.shares),
                do="pass the same shares as when the state was saved",
            )
        self._names, self._seen = names, np.array(state["seen"], np.float64)
        self._pending = {name: (float(a), int(b), int(c)) for name, (a, b, c) in state["pending"].items()}
        self._step = state["step"]
        for name, values in state["learned"].items():
            setattr(self, f"_{name}", values if np.ndim(values) == 0 else np.array(values, np.float64))

    @abstractmethod
    def _proportions(self) -> Floats:
        """(K,) proportions that sum to 1."""

    @abstractmethod
    def _values(self, signals: Signals) -> Floats:
        """(B,) what is averaged over a domain's samples of a batch; those that are not finite are left out."""

    @abstractmethod
    def _learn(self, means: Floats) -> None:
        """One batch: (K,) means, NaN for a domain of which it had none. New arrays, no change in place."""

    @abstractmethod
    def _add(self, new: int) -> None:
        """So many domains more than there were."""

    @abstractmethod
    def _learned(self) -> dict[str, Any]:
        """Numbers and (K,) arrays that make up what was learned, by the names of their attributes without ``_``."""

    def _settle(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        self._grow([name for name in pending if name not in self._names])
        means, seen = np.full(len(self._names), np.nan), self._seen.copy()
        for name, (total, count, size) in pending.items():
            at = self._names.index(name)
            seen[at] += size
            if count:
                means[at] = total / count
        self._seen = seen
        self._learn(means)

    def _settled(self) -> Self:
        """As it will be when the next batch comes."""
        now = copy(self)
        now._settle()
        return now

    def _grow(self, new: Sequence[str]) -> None:
        if new:
            self._names = [*self._names, *new]
            self._seen = np.append(self._seen, np.zeros(len(new)))
            self._add(len(new))

    def _table(self) -> dict[str, float]:
        """The weight of each domain that has a share."""
        seen = self._seen if self.shares is None else np.array([self.shares[name] for name in self._names])
        total = seen.sum()
        known = zip(self._names, self._proportions().tolist(), seen.tolist(), strict=True)
        return {name: proportion * total / size for name, proportion, size in known if size}

    def _domains(self, signals: Signals) -> tuple[list[str], NDArray[np.intp]]:
        """The names of the domains there are, and which of them is whose, (B,)."""
        numbers, places = np.unique(signals.known("group"), return_inverse=True)
        if len(numbers) and numbers[0] < 0:
            raise StrategyError(
                f"{type(self).__name__} weighs domains, and does not know which these samples are of.",
                found=f"no group of {int((places == 0).sum())} of {len(signals)} samples",
                expected="a group for each sample",
                do='WeightedStream(..., group_fn="column"), or store.set_groups(ids, names)',
            )
        known = signals.group_names()
        names = [known[n] if n < len(known) else str(n) for n in numbers.tolist()]
        strange = [] if self.shares is None else [name for name in names if name not in self.shares]
        if strange:
            raise StrategyError(
                f"{type(self).__name__} has no share of a domain.",
                found=", ".join(map(repr, strange)),
                expected="one of " + ", ".join(map(repr, self.shares or ())),
                do="give the shares of all domains, or none",
            )
        return names, places


def on_host(losses: Tensor) -> Floats:
    """Losses in double precision; some devices have none.

    Example:
        >>> on_host(torch.tensor([0.5, 2.0]))
        array([0.5, 2. ])
    """
    return losses.float().cpu().numpy().astype(np.float64)


def _normalised(method: str, shares: Any) -> dict[str, float]:
    if not isinstance(shares, Mapping) or not shares or not all(isinstance(name, str) for name in shares):
        raise StrategyError(
            f"{method} cannot work with these shares.",
            found=repr(shares),
            expected="a dict: name of a domain -> its share of the data",
            do=f'{method}(..., shares={{"code": 0.3, "text": 0.7}})',
        )
    checked = {name: check_number(method, f"shares[{name!r}]", share, above=0) for name, share in shares.items()}
    total = sum(checked.values())
    return {name: share / total for name, share in checked.items()}

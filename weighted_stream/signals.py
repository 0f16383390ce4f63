"""What a strategy may ask about one batch. A signal is one value per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import StrategyError

Records = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class Signals:
    """The signals of one batch, or of a part of one.

    Attributes:
        ids: (B,) int64, on the host.
        step: how many batches this stream has weighed before this one.
        loss: (B,) float32, detached, finite, on the trainer's device; not to be written to (it may be the trainer's
            own tensor). None at hand-over time, when only the store can speak.
        records: looks ids up in the store; prefer `history`.
        scratch: lives as long as the batch and is shared by its parts: whatever must be the same for all of them.
        places: where in their batch these samples stand, (B,) int64; None: all of it, in order.
        asked: where the samples stand whose weights the trainer asked for, in its order; more than ``places`` if some
            losses were not finite. None: the same as ``places``.
        samples: the whole batch as the loader handed it over (on the host; rows at ``places`` are these samples), for
            strategies with ``keeps_samples``. None if it is not known: a loader of the user's own.
        add_up: the sum over all ranks of a few numbers (k,), for a joint strategy that sees one rank's samples; None:
            they are all there is.
        group_names: tells the names of the groups: that of number n, as ``known("group")`` gives it, stands at n.
    """

    ids: NDArray[np.int64]
    step: int
    loss: Tensor | None
    records: Callable[[NDArray[np.int64]], Records]
    scratch: dict[Any, Any] = field(default_factory=dict)
    places: NDArray[np.int64] | None = None
    asked: NDArray[np.int64] | None = None
    samples: Any = None
    group_names: Callable[[], Sequence[str]] = tuple
    add_up: Callable[[Tensor], Tensor] | None = None
    _known: Records | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where the weights are wanted."""
        return torch.device("cpu") if self.loss is None else self.loss.device

    def history(self, name: str, device: torch.device | str | None = None) -> Tensor:
        """What the store remembers of these samples: (B,), float32.

        Args:
            name: ``"loss"`` (running average), ``"last_loss"``, ``"weight"``, ``"similarity"``, ``"visits"``,
                ``"last_step"`` or ``"group"``. A float field never set is NaN; see `WeightStore.get`.
            device: where to put it; None: on `device`. ``"cpu"`` is where it comes from, so nothing is copied.

        Raises:
            StrategyError: if the store remembers no such thing.
        """
        values = torch.from_numpy(np.ascontiguousarray(self.known(name), dtype=np.float32))
        return values.to(self.device if device is None else device)

    def known(self, name: str) -> NDArray[Any]:
        """The same as the store gives it: an array (B,); looked up once for all names."""
        if self._known is None:
            self._known = self.records(self.ids)
        if name not in self._known:
            raise StrategyError(
                "The store remembers no such signal.",
                found=repr(name),
                expected="one of " + ", ".join(self._known),
                do="mend the strategy's weights()",
            )
        return self._known[name]

    def first_known(self, name: str) -> NDArray[Any]:
        """`known`, as it was when the batch first asked: run again, or in parts, it is not told of its own feedback."""
        values, key = self.known(name), (Signals, name)
        seen = self.scratch.get(key)
        if seen is None and self.places is None:
            self.scratch[key] = self.ids, values
            return values
        if not isinstance(seen, dict):
            seen = {} if seen is None else dict(zip(seen[0].tolist(), seen[1].tolist(), strict=True))
            self.scratch[key] = seen
        first = [seen.setdefault(*pair) for pair in zip(self.ids.tolist(), values.tolist(), strict=True)]
        return np.array(first, values.dtype)

    def forget(self) -> None:
        """Look it up anew: the store knows more by now."""
        self._known = None

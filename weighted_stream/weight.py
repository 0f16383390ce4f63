"""Weight: what a trainer multiplies its losses by. The product is the feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from weighted_stream.batch import Batch, Positions
from weighted_stream.errors import UnboundError
from weighted_stream.feedback import Feedback, live_feedback
from weighted_stream.uncompiled import uncompiled


class Weight:
    """The weights of the samples of one batch, decided at the moment of use.

    A loader yields ``(batch, weight)``. ``losses * weight`` (or ``weight * losses``, ``torch.mul``) asks the strategy
    for weights given these losses, writes losses and weights to the store under the samples' ids, and returns the
    product, (B,). All of that happens once per batch: a batch that is run again gets weights again, but is not
    counted again. The weights are detached, float32, and live on the losses' device; the losses keep their graph.

    Multiply the losses as they are, one per sample: a factor (``losses / accumulation``, a mask, a gradient scaler)
    goes on the product, or it is taken for a part of the loss. For a second loss on the same batch, keep the weights
    of the first: ``w = weight.resolve(losses)``.

    Losses that are NaN or inf get weight 0 and add 0 to the product; the others are weighed as if these were not there.
    They are counted, and never enter an average. (If the *forward* pass of such a sample is NaN, its gradient is too:
    no weight can undo that.)

    Slices are parts of the same batch: ``weight[:16]``, ``weight[mask]``, ``weight.split(16)``. A part can be resolved
    if the strategy weighs samples one by one, or after the whole batch was resolved.

    Works under autocast, gradient checkpointing and `torch.compile`, which goes on before and after the product: give
    the losses a name on a line of their own (``losses = …``), or nothing is compiled. Not under ``fullgraph=True`` or
    `torch.func` transforms.

    Not made by hand: it comes from `WeightedStream.loader`, from `WeightedStream.weight`, or out of a stream's items.

    Example:
        >>> import torch
        >>> from weighted_stream import LinUpper, WeightedStream
        >>> stream = WeightedStream([1.0, 2.0, 3.0, 5.0], LinUpper())
        >>> for batch, weight in stream.loader(batch_size=4):
        ...     losses = batch.requires_grad_()          # stands for: per-sample losses of the model
        ...     (losses * weight).mean().backward()
        >>> weight.ids, weight.tensor()
        (tensor([0, 1, 2, 3]), tensor([0.4947, 0.8157, 1.3448, 1.3448]))
    """

    __slots__ = ("_batch", "_feedback", "_positions")
    __array_ufunc__ = None  # numpy must ask us, and is told that losses are tensors

    def __init__(self, batch: Batch, feedback: Feedback | str, positions: Positions = None) -> None:
        self._batch = batch
        self._feedback = feedback  # its token, while it lives in another process
        self._positions = positions

    @property
    def ids(self) -> Tensor:
        """The samples' ids, (B,) int64 on the host."""
        return torch.from_numpy(self._ids().copy())

    def resolve(self, losses: Tensor, *, ids: Tensor | Sequence[int] | None = None) -> Tensor:
        """The weights for these losses; the same feedback as the product.

        Args:
            losses: (B,) float, one per sample, unreduced.
            ids: the ids the losses belong to, if the trainer knows them: checked against the batch's.

        Returns:
            (B,) float32, detached, on the losses' device.

        Raises:
            LossError: if losses are not (B,) floats, or belong to another batch.
            WindowError: for a part of a batch, if the strategy needs the losses of all of it.
            UnboundError: in a process where the stream does not live.
        """
        return _resolve(self, losses, ids)[0].clone()

    def tensor(self) -> Tensor:
        """The weights without new losses: those last resolved, else what the strategy can say from the store alone.

        On several ranks, what it says before the losses are there is relative to this rank's batch; those of the
        product are relative to the batch of all ranks.

        Returns:
            (B,) float32; on the host if not resolved yet.

        Raises:
            LossError: if not resolved yet and the strategy needs this step's losses.
        """
        return self._live().tensor(self._batch, self._positions).clone()

    def __mul__(self, losses: Tensor) -> Tensor:
        return _times(self, losses)

    __rmul__ = __mul__

    _PRODUCTS: ClassVar[frozenset[Any]] = frozenset(
        {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__}
    )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Tensor:
        if func in cls._PRODUCTS and len(args) == 2 and not kwargs:
            left, right = args
            if not isinstance(right, Weight):
                return _times(left, right)
            if not isinstance(left, Weight):
                return _times(right, left)
        name = getattr(func, "__name__", str(func))
        raise TypeError(
            f"A Weight takes part in one operation, the product with its batch's losses.\n  found:    torch.{name}\n"
            "  expected: losses * weight, with losses (B,)\n  to do:    use weight.resolve(losses) for the weights as "
            "a tensor"
        )

    def __len__(self) -> int:
        return len(self._batch.ids) if self._positions is None else len(self._positions)

    def __getitem__(self, which: Any) -> Weight:
        """A part of the batch: an int, a slice, a boolean mask or indices (list, array or tensor)."""
        if isinstance(which, Tensor):
            which = which.cpu().numpy()
        everything = np.arange(len(self._batch.ids)) if self._positions is None else self._positions
        positions = np.asarray(everything[which])
        if positions.ndim > 1:
            raise IndexError(f"A Weight has one dimension, of samples; found the index {which!r}")
        return Weight(self._batch, self._feedback, np.atleast_1d(positions))

    def split(self, size: int | Sequence[int]) -> tuple[Weight, ...]:
        """Parts of ``size`` samples, the last one smaller, or of these sizes; like `torch.Tensor.split`."""
        places: Any = torch.arange(len(self))
        return tuple(self[part] for part in places.split(size))

    def to(self, *args: Any, **kwargs: Any) -> Weight:
        """Itself: weights are made on the device of the losses. So helpers that move a batch may move a Weight."""
        return self

    def pin_memory(self, device: Any = None) -> Weight:
        """Itself; nothing of it goes to the device."""
        return self

    @staticmethod
    def collate(weights: Sequence[Weight], *, collate_fn_map: Any = None) -> Weight:
        """One Weight of several, for collate functions of your own; `torch.utils.data.default_collate` knows it.

        Raises:
            UnboundError: for Weights of different streams.
        """
        tokens = {weight._token() for weight in weights}
        if len(tokens) != 1:
            raise UnboundError(
                "A batch mixes samples of several streams.",
                found=f"{len(tokens)} streams",
                expected="one: strategy and store belong to a stream",
                do="concatenate the datasets first, then wrap them once",
            )
        batch = Batch(np.concatenate([weight._ids() for weight in weights]))
        groups = [weight._groups() for weight in weights]
        if all(names is not None for names in groups):
            batch.groups = [name for names in groups for name in names or ()]
        return Weight(batch, weights[0]._feedback)

    def __copy__(self) -> Weight:
        return self  # a copy would be a batch of its own, and count again

    def __deepcopy__(self, memo: dict[int, Any]) -> Weight:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._token(), self._ids().tobytes(), self._groups())

    def __repr__(self) -> str:
        return f"Weight({len(self)} samples, ids={self._ids()[:4].tolist()}{'…' if len(self) > 4 else ''})"

    def _ids(self) -> NDArray[np.int64]:
        return self._batch.ids if self._positions is None else self._batch.ids[self._positions]

    def _groups(self) -> list[str] | None:
        names = self._batch.groups
        return names if names is None or self._positions is None else [names[at] for at in self._positions]

    def _token(self) -> str:
        return self._feedback if isinstance(self._feedback, str) else self._feedback.token

    def _live(self) -> Feedback:
        if isinstance(self._feedback, str):
            self._feedback = live_feedback(self._feedback)
        return self._feedback


def _ask(weight: Weight, losses: Tensor, ids: Any = None) -> tuple[Tensor, Tensor | None]:
    return weight._live().resolve(weight._batch, weight._positions, losses, ids)


def _product(weight: Weight, losses: Tensor) -> Tensor:
    weights, finite = _ask(weight, losses)
    return losses * weights if finite is None else torch.where(finite, losses, 0.0) * weights


_resolve: Callable[..., tuple[Tensor, Tensor | None]] = uncompiled(_ask)
_times: Callable[[Weight, Tensor], Tensor] = uncompiled(_product)


def _arrive(token: str, ids: bytes, groups: list[str] | None) -> Weight:
    """A Weight as it comes out of a worker's queue: bound to its stream again at first use."""
    batch = Batch(np.frombuffer(ids, np.int64).copy())
    batch.groups = groups
    return Weight(batch, token)


default_collate_fn_map[Weight] = Weight.collate

"""Parts: the weight of one optimizer step's batch, handed out to its micro-batches in the order that they come."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.errors import LossError
from weighted_stream.weight import Weight


class Parts:
    """Hands out the parts of one `Weight`, one after another, so that they are parts of one batch.

    Args:
        weight: of the whole batch.

    Example:
        >>> import torch
        >>> from weighted_stream import Uniform, WeightedStream
        >>> stream = WeightedStream([5.0, 6.0, 7.0], Uniform())
        >>> parts = Parts(stream.weight([0, 1, 2]))
        >>> parts.next(2).ids, parts.next(1).ids
        (tensor([0, 1]), tensor([2]))
        >>> parts.again()
        >>> parts.next(3).resolve(torch.tensor([0.5, 0.6, 0.7]))
        tensor([1., 1., 1.])
    """

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self._at = 0

    def again(self) -> None:
        """The batch is run again, from its first sample."""
        self._at = 0

    def next(self, count: int) -> Weight:
        """The weight of the next ``count`` samples.

        Raises:
            LossError: if there are not so many left.
        """
        left = len(self.weight) - self._at
        if count > left:
            raise _not_the_batch(f"{count} more samples", f"at most {left}, of {len(self.weight)}")
        start, self._at = self._at, self._at + count
        return self.weight if count == len(self.weight) else self.weight[start : self._at]

    def end(self) -> None:
        """All micro-batches were run.

        Raises:
            LossError: if there are samples left.
        """
        if self._at != len(self.weight):
            raise _not_the_batch(f"{self._at} samples in all micro-batches", f"{len(self.weight)}")


def each(losses: object, count: int) -> bool:
    """Whether these can be the losses of ``count`` samples, one each."""
    return isinstance(losses, Tensor) and losses.is_floating_point() and losses.shape == (count,)


def _not_the_batch(found: str, expected: str) -> LossError:
    return LossError(
        "The micro-batches do not hold the samples of their batch.",
        found=found,
        expected=f"{expected}: all of them, once, in their order",
        do="leave out what drops, adds or reorders samples between loader and loss (algorithms, transforms, a split of "
        "your own)",
    )

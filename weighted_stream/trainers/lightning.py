"""LightningWeights: what a weighted stream needs in a Lightning Trainer beside its loader."""

from __future__ import annotations

import random
from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch

from weighted_stream.errors import SourceError, missing_extra
from weighted_stream.figures.batch_figures import BatchFigures
from weighted_stream.lengths import length_of
from weighted_stream.loader import WeightedLoader
from weighted_stream.state import check_keys
from weighted_stream.stream import WeightedStream

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing_extra("lightning", "lightning") from error


_SHOWN = ("ess", "loss_mean")
"""The figures in the progress bar."""


class LightningWeights(Callback):  # type: ignore[misc, unused-ignore]
    """Logs the figures of a stream, and makes a run from ``ckpt_path`` go on as if it had not stopped.

    Three lines change::

        stream = WeightedStream(dataset, LinUpper(), store="run/weights")

        def training_step(self, batch, batch_idx):
            batch, weight = batch
            return (per_sample_loss(self(batch), batch) * weight).mean()

        Trainer(callbacks=LightningWeights(stream)).fit(model, stream.loader(batch_size=32, shuffle=True))

    A batch of the loader is one batch of the stream, whatever ``accumulate_grad_batches``. Lightning saves and restores
    the state of the loader, which is that of the stream, in its own checkpoints; the callback adds the random state
    (torch, NumPy, Python), for dropout, if there is one process.

    Args:
        stream: the one whose loader is trained on.
        prefix: of the logged names.

    Raises:
        SourceError: when training begins, if the Trainer does not read the stream, or not the whole of its loader.

    Example:
        >>> from weighted_stream import LinUpper
        >>> stream = WeightedStream([1.0, 2.0, 3.0, 5.0], LinUpper())
        >>> LightningWeights(stream).prefix
        'weights'
    """

    def __init__(self, stream: WeightedStream, *, prefix: str = "weights") -> None:
        super().__init__()
        self.stream, self.prefix = stream, prefix
        self._figures = BatchFigures(stream)
        self._random: Mapping[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Without a length, Lightning reads a batch ahead to know which is the last; it is not trained on yet."""
        if stage == "fit":
            limited = isinstance(trainer.limit_train_batches, int)  # a number of batches, not a share: it is a length
            by_itself = "dataloader_iter" in signature(pl_module.training_step).parameters
            self.stream._live().reads_ahead = not limited and not by_itself

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Whoever reads the stream now does not."""
        if stage == "fit":
            self.stream._live().reads_ahead = False

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A training step that took the weights, and did not multiply, is said."""
        self.stream._say_if_unused(whole=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same; Lightning tears nothing down then."""
        self.stream._live().reads_ahead = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See to it that it is the stream that is read, all of it."""
        loader = trainer.train_dataloader
        if not isinstance(loader, WeightedLoader) or loader._saved is not self.stream:
            raise SourceError(
                "The Trainer does not read the stream.",
                found=f"train_dataloaders={type(loader).__name__}",
                expected="a loader of this stream",
                do="trainer.fit(model, stream.loader(batch_size=...)), with the stream of LightningWeights",
            )
        if length_of(loader) not in (None, trainer.num_training_batches):
            raise SourceError(
                "An epoch of a stream is the whole of its loader.",
                found=f"limit_train_batches: {trainer.num_training_batches} batches",
                expected=f"{len(loader)} batches",
                do="wrap a torch.utils.data.Subset of the dataset, or limit max_steps",
            )
        position = self.stream._unfinished
        if position is not None and not position.over and position.batches == length_of(loader):
            # Saved after the last batch of an epoch, before its end: Lightning begins the next one, and so do we.
            for _ in loader:
                pass

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Put the random state of a checkpoint back, before anything is computed."""
        if self._random is not None and trainer.world_size == 1:  # a checkpoint has that of rank 0
            restore(self._random)
        self._random = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log."""
        figures = self._figures.take()
        for shown in (True, False):
            # As tensors on the host: of a number Lightning makes one on the GPU, and waits for it.
            part = {
                f"{self.prefix}/{name}": torch.tensor(float(value), dtype=torch.float32)
                for name, value in figures.items()
                if (name in _SHOWN) is shown
            }
            pl_module.log_dict(part, prog_bar=shown, on_step=True, on_epoch=False, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The random state, for Lightning's checkpoint."""
        return {"random": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put it back when training goes on.

        Raises:
            StateError: for a state of something else.
        """
        check_keys("LightningWeights' state", state_dict, ("random",))
        self._random = state_dict["random"]


def random_state() -> dict[str, Any]:
    """Of torch (on all devices), NumPy and Python, as plain values.

    Example:
        >>> state = random_state()
        >>> drawn = torch.rand(1)
        >>> restore(state)
        >>> bool(torch.rand(1) == drawn)
        True
    """
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    version, words, nextgauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(words), nextgauss],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put a random state back."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), place, has_gauss, gauss))
    version, words, nextgauss = state["python"]
    random.setstate((version, tuple(words), nextgauss))

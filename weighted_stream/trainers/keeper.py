"""Keeper: what a weighted stream does at the events of Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from weighted_stream.errors import StateError
from weighted_stream.lengths import length_of
from weighted_stream.state import check_keys
from weighted_stream.stream import WeightedStream

VERSION = 2


class Keeper:
    """Tells the stream of epochs, and keeps its state in the Trainer's checkpoints, a file for each rank.

    Other ranks go on from that of the first one. Multi-node checkpoints without a shared folder: each node has its own.

    Args:
        trainer: has the ``stream``.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._from: Path | None = None
        self._epoch = 0

    def resume(self, checkpoint: Path | None) -> None:
        """The next training goes on from there."""
        self._from = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training begins, perhaps within an epoch."""
        self._epoch = int((state.epoch or 0) + 1e-6)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch begins, or goes on: before the loader is asked for its first batch."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        stream: WeightedStream = self._trainer.stream
        saved, self._from = self._from, None
        if saved is None:
            stream.set_epoch(epoch)
            return
        kept = self._load(saved, args)
        if kept["epoch"] and length_of(self._trainer.train_dataset) is None:
            raise StateError(
                "The Trainer cannot find its place in a dataset without a length, once it was read whole.",
                found=f"a checkpoint of epoch {kept['epoch']}",
                expected="one of the first epoch, or a dataset with a length",
                do="give the Trainer a dataset that has __len__, or begin anew from the checkpoint's model",
            )
        if kept["epoch"] != epoch:
            stream.load_state_dict(kept["stream"])
            stream.set_epoch(epoch)
            return
        stream.set_epoch(epoch)  # first: what the strategy decided when this epoch began is in the state
        stream.load_state_dict(kept["stream"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been saved."""
        if args.save_only_model:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)  # other nodes may not have it
        stream: WeightedStream = self._trainer.stream
        kept = {"version": VERSION, "ranks": args.world_size, "samples": self._samples(), "epoch": stream.epoch}
        kept["stream"] = stream.state_dict()
        torch.save(kept, folder / self._name(args.process_index))

    def _load(self, saved: Path, args: Any) -> dict[str, Any]:
        kept = self._read(saved / self._name(0))
        ranks, samples = args.world_size, self._samples()
        if kept["version"] != VERSION or (kept["ranks"] != ranks and kept["samples"] != samples):
            raise StateError(
                "This checkpoint cannot be gone on from here.",
                found=f"version {kept['version']}, {kept['samples']} samples a step, on {kept['ranks']} ranks",
                expected=f"version {VERSION}, {samples} samples a step, if the number of ranks is another one",
                do="go on with the version that saved it; other ranks with as large a product of them, "
                "per_device_train_batch_size and gradient_accumulation_steps: the Trainer counts steps",
            )
        # Any rank's state serves any other number of ranks.
        return (
            kept
            if kept["ranks"] != ranks or not args.process_index
            else self._read(saved / self._name(args.process_index))
        )

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            raise StateError(
                "This checkpoint has no state of the stream.",
                found=f"no {path.name} in {path.parent}",
                expected="a checkpoint that was saved by a weighted Trainer",
                do="begin anew from its model, without resume_from_checkpoint",
            )
        try:
            kept: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception as error:  # whatever its readers of zip files and of pickles raise
            raise StateError(
                f"Cannot read {path}.",
                found=f"{type(error).__name__}: {str(error)[:200]}",
                expected="the state of the stream as the Trainer saved it, whole",
                do="copy the checkpoint again, or begin anew from its model, without resume_from_checkpoint",
            ) from error
        check_keys("the state of a weighted Trainer", kept, ("version", "ranks", "samples", "epoch", "stream"))
        return kept

    def _samples(self) -> int:
        """In a step, on all ranks."""
        args = self._trainer.args
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    def _name(self, rank: int) -> str:
        return f"weighted_stream_{rank}.pt"

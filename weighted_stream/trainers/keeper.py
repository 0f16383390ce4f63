"""Keeper: what a weighted stream does at the events of Hugging Face's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from weighted_stream.errors import StateError
from weighted_stream.state import check_keys
from weighted_stream.stream import WeightedStream
from weighted_stream.trainers.parts import length_of


class Keeper:
    """Tells the stream of epochs, and keeps its state in the Trainer's checkpoints, a file for each rank.

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
        kept = self._load(saved / self._name(args))
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
        kept = {"version": 1, "ranks": args.world_size, "epoch": stream.epoch, "stream": stream.state_dict()}
        torch.save(kept, folder / self._name(args))

    def _load(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            raise StateError(
                "This checkpoint has no state of the stream.",
                found=f"no {path.name} in {path.parent}",
                expected="a checkpoint that was saved by a weighted Trainer, with as many ranks",
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
        check_keys("the state of a weighted Trainer", kept, ("version", "ranks", "epoch", "stream"))
        ranks = self._trainer.args.world_size
        if kept["version"] != 1 or kept["ranks"] != ranks:
            raise StateError(
                "This checkpoint cannot be gone on from here.",
                found=f"version {kept['version']}, {kept['ranks']} ranks",
                expected=f"version 1, {ranks} ranks",
                do="go on with the version and the number of ranks that saved it",
            )
        return kept

    def _name(self, args: Any) -> str:
        return f"weighted_stream_{args.process_index}.pt"

"""ComposerWeights: a weighted stream in MosaicML Composer's Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from weighted_stream.errors import LossError, SourceError, StateError, WindowError, missing_extra
from weighted_stream.figures.batch_figures import BatchFigures
from weighted_stream.lengths import length_of
from weighted_stream.probes.running import forwards_only
from weighted_stream.state import check_keys
from weighted_stream.stream import WeightedStream
from weighted_stream.trainers.chunked_head import ChunkedModel
from weighted_stream.trainers.epochs import Epochs
from weighted_stream.trainers.parts import Parts, each

try:
    from composer.core import Algorithm, DataSpec, Event, State
    from composer.core.precision import get_precision_context
    from composer.loggers import Logger
    from composer.models import HuggingFaceModel
    from composer.utils import dist, reproducibility
except ImportError as error:
    raise missing_extra("composer", "composer") from error


class ComposerWeights(Algorithm):
    """Multiplies the losses of a Composer model by the weights of a stream; its `loader` is what the Trainer reads.

    Three lines change::

        weights = ComposerWeights(WeightedStream(dataset, LinUpper(), store="run/weights"), losses=causal_lm_losses)
        trainer = Trainer(
            model=model,
            train_dataloader=weights.loader(batch_size=32, shuffle=True),
            algorithms=weights,
            ...,
        )

    A batch is what the loader yields, on each rank: what one optimizer step trains on. Micro-batches are its parts, and
    a batch that is run again (out of memory, SAM) is counted once. A strategy that weighs a sample against its whole
    batch (``window="batch"``) needs all losses before the first backward pass: leave ``device_train_microbatch_size``
    at the batch size, take ``window="running"``, or pay for ``extra_forward=True``.

    The weights are multiplied into ``state.loss`` at ``Event.AFTER_LOSS``; Composer takes the mean over samples, of
    each micro-batch by its share. Checkpoints hold the state of the stream: a run from ``load_path`` goes on within the
    epoch as if it had not stopped; other ranks go on within it as long as a step has as many samples. The figures of
    `StepLog` are logged after each batch, as ``weights/…``.

    Args:
        stream: made without ``as_dict``: the model sees the batches that it would see without us, of any type.
        losses: ``losses(outputs, batch) -> (B,)``, in place of ``model.loss``; for ``HuggingFaceModel``, whose own loss
            is a mean over the batch, `causal_lm_losses` or `label_losses`. None: ``model.loss`` returns (B,) by itself,
            as ``ComposerClassifier`` does with ``loss_fn=partial(cross_entropy, reduction="none")``.
        chunk_size: for a ``HuggingFaceModel`` with a large vocabulary: make the losses from hidden states and output
            weights, `chunked_cross_entropy`, with the logits of so many tokens (1024, say) at a time. The same losses
            and gradients; in place of ``losses``. None: from what the model gives.
        extra_forward: run the micro-batches of a batch forward beforehand, without gradients, if the strategy needs all
            losses at once. Its losses (with their own dropout) decide, and are what the store remembers.
        prefix: of the logged names.

    Raises:
        SourceError: for a stream with ``as_dict=True``.
        LossError: for ``chunk_size`` beside ``losses``; when training begins, for a model that it cannot be used on.

    Example:
        >>> from functools import partial
        >>> from composer import Trainer
        >>> from composer.models import ComposerClassifier
        >>> from weighted_stream import LinUpper
        >>> data = torch.utils.data.TensorDataset(torch.rand(32, 4), torch.randint(0, 3, (32,)))
        >>> weights = ComposerWeights(WeightedStream(data, LinUpper()))
        >>> each_loss = partial(torch.nn.functional.cross_entropy, reduction="none")
        >>> model = ComposerClassifier(torch.nn.Linear(4, 3), num_classes=3, loss_fn=each_loss)
        >>> trainer = Trainer(
        ...     model=model,
        ...     train_dataloader=weights.loader(batch_size=8),
        ...     algorithms=weights,
        ...     optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        ...     max_duration="1ep",
        ...     progress_bar=False,
        ... )
        >>> trainer.fit()
        >>> weights.stream.stats()["step"]
        4.0
    """

    def __init__(
        self,
        stream: WeightedStream,
        losses: Callable[[Any, Any], Tensor] | None = None,
        *,
        chunk_size: int | None = None,
        extra_forward: bool = False,
        prefix: str = "weights",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        if stream._as_dict:
            raise SourceError(
                "ComposerWeights carries the ids itself.",
                found="a stream with as_dict=True",
                expected="one that yields (batch, weight)",
                do="leave as_dict out",
            )
        if chunk_size is not None and losses is not None:
            raise LossError(
                "chunk_size makes the losses, and so does losses=.",
                found=f"chunk_size={chunk_size}, losses={losses!r}",
                expected="one of them",
                do="leave losses out for the cross-entropy of a language model",
            )
        self.stream, self.losses, self.extra_forward, self.prefix = stream, losses, extra_forward, prefix
        self._figures = BatchFigures(stream)
        self._chunk_size = chunk_size
        self._chunked: ChunkedModel | None = None
        self._epochs: Epochs | None = None
        self._spec: Any = None
        self._parts: Parts | None = None
        self._fresh = True  # has not trained since it was made or loaded
        self._loaded = False
        self._random: Any = None  # to be put back before the first batch
        self._batches: int | None = None  # in an epoch, where other ranks have saved

    def loader(self, *, seed: int = 0, data_spec: Mapping[str, Any] | None = None, **arguments: Any) -> DataSpec:
        """The ``train_dataloader``: batches as the dataset and its collate function make them.

        Args:
            seed: see `WeightedStream.loader`.
            data_spec: more arguments of Composer's ``DataSpec``, e.g. ``get_num_tokens_in_batch``. A ``split_batch``
                and transforms must keep the samples and their order.
            **arguments: those of `torch.utils.data.DataLoader`.
        """
        options = dict(data_spec or {})
        users = options.pop("batch_transforms", None)

        def batch_transforms(pair: Any) -> Any:
            batch, weight = pair
            self._parts = Parts(weight)
            return batch if users is None else users(batch)

        self._epochs = Epochs(self.stream.loader(seed=seed, **arguments))
        spec = DataSpec(self._epochs, batch_transforms=batch_transforms, **options)
        self._spec = spec
        return spec

    def match(self, event: Event, state: State) -> bool:
        """Whether there is something to do."""
        return event in _EVENTS

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Do it."""
        if event == Event.FIT_START:
            self._begin(state)
            self._begin_chunks(state)
        elif event == Event.FIT_END and self._chunked is not None:
            self._chunked.end()
            self._chunked = None
        elif event == Event.BEFORE_DATALOADER:
            self._restore_random_state()
        elif event == Event.BEFORE_TRAIN_BATCH:
            self._known().again()
            if self.extra_forward and self.stream.strategy.joint:
                self._look_at_all_losses(state)
        elif event == Event.AFTER_LOSS:
            state.loss = self._weighted(self._checked(state, state.loss, state.outputs, state.batch))
        elif event == Event.AFTER_TRAIN_BATCH:
            self._known().end()
        elif event == Event.BATCH_END:
            logger.log_metrics({f"{self.prefix}/{name}": value for name, value in self._figures.take().items()})
        elif event == Event.EPOCH_END and self._epochs is not None:
            self._epochs.end()

    def state_dict(self) -> dict[str, Any]:
        """The stream's state and the random state of all ranks, for Composer's checkpoint."""
        states = dist.all_gather_object(self.stream.state_dict())
        own = {"streams": states, "random": reproducibility.get_rng_state(), "batches": self._length()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        """Go on from there, on as many ranks or on others.

        Raises:
            StateError: for a state of something else, or that the stream refuses.
        """
        check_keys("ComposerWeights' state", state, ("repr", "streams", "random", "batches"))
        streams, ranks = state["streams"], dist.get_world_size()
        # Any rank's state serves any other number of ranks; the random state is Composer's to share out.
        self.stream.load_state_dict(streams[dist.get_global_rank() if len(streams) == ranks else 0])
        self._random, self._loaded, self._fresh = state["random"], True, True
        self._batches = None if len(streams) == ranks else state["batches"]

    def __repr__(self) -> str:
        return f"ComposerWeights({self.stream!r})"

    def _begin(self, state: State) -> None:
        """A ``fit`` begins, perhaps within an epoch."""
        if self._epochs is None or state.dataloader is not self._epochs:
            raise SourceError(
                "The Trainer does not read the stream.",
                found=f"train_dataloader={type(state.dataloader).__name__}",
                expected="the loader of these ComposerWeights",
                do="Trainer(train_dataloader=weights.loader(batch_size=...), algorithms=weights)",
            )
        size = self._length()
        if state.dataloader_len is not None and int(state.dataloader_len) != size:
            raise SourceError(
                "An epoch of a stream is the whole of its loader.",
                found=f"train_subset_num_batches={int(state.dataloader_len)}",
                expected=f"{size} batches",
                do="wrap a torch.utils.data.Subset of the dataset, or limit max_duration",
            )
        if int(state.timestamp.batch_in_epoch):
            if self._fresh and not self._loaded:
                raise StateError(
                    "This checkpoint has no state of the stream, and was saved within an epoch.",
                    found=f"batch {int(state.timestamp.batch_in_epoch)} of its epoch",
                    expected="a checkpoint that was saved with ComposerWeights",
                    do="load_weights_only=True, to begin anew from its weights",
                )
            if self._batches not in (None, size):
                raise StateError(
                    "Another number of ranks can finish this epoch with steps of as many samples only.",
                    found=f"{size} batches in an epoch",
                    expected=f"{self._batches}, as the ranks that saved it had",
                    do="a batch_size with which batch_size * ranks is as it was",
                )
            if not self._fresh:  # a second fit(): the next `for` shall finish the epoch
                self.stream.load_state_dict(self.stream.state_dict())
        # Composer must not read and drop what was read before: the stream begins where it stands.
        state.dataset_resumption["train"] = True
        self._fresh = False

    def _length(self) -> int | None:
        return None if self._epochs is None else length_of(self._epochs)

    def _begin_chunks(self, state: State) -> None:
        """From here on the model gives a loss for each sample."""
        if self._chunk_size is None or self._chunked is not None:
            return
        model: Any = _inside(state.model)
        if not isinstance(model, HuggingFaceModel) or model.get_metrics(is_train=True):
            raise LossError(
                "chunk_size= cannot make this model's losses from its hidden states.",
                found=type(model).__name__
                + (" with metrics of its logits" if isinstance(model, HuggingFaceModel) else ""),
                expected="a HuggingFaceModel without metrics in training",
                do="HuggingFaceModel(..., eval_metrics=...) in place of metrics=; or leave chunk_size out",
            )
        self._chunked = ChunkedModel(model.model, self._chunk_size, bool(model.shift_labels))

    def _restore_random_state(self) -> None:
        """As it was when the checkpoint was saved: Composer leaves that to us, as it leaves the position."""
        if self._random is not None:
            reproducibility.load_rng_state(self._random)
            self._random = None

    def _known(self) -> Parts:
        assert self._parts is not None  # _begin has seen that the loader is ours
        return self._parts

    def _checked(self, state: State, loss: Any, outputs: Any, batch: Any) -> Tensor:
        """The losses of a micro-batch, (B,)."""
        with get_precision_context(state.precision, state.precision_config):  # as that of the model's own loss
            losses = loss if self.losses is None else self.losses(outputs, batch)
        count = self._spec.get_num_samples_in_batch(batch)
        if not each(losses, count):
            whose = type(_inside(state.model)).__name__ + ".loss" if self.losses is None else "losses="
            shape = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise LossError(
                f"{whose} does not say what each sample contributes.",
                found=shape,
                expected=f"float losses of shape ({count},)",
                do="ComposerWeights(stream, losses=causal_lm_losses) for a causal HuggingFaceModel, chunk_size=1024 if "
                "it has a fused loss, label_losses for others; ComposerClassifier(loss_fn=partial(cross_entropy, "
                "reduction='none')); else a function losses(outputs, batch) -> (B,)",
            )
        return losses

    def _weighted(self, losses: Tensor) -> Tensor:
        """The losses of a micro-batch times their weights."""
        try:
            return losses * self._known().next(len(losses))
        except WindowError as error:
            raise WindowError(
                error.problem,
                found=f"a micro-batch of {len(losses)} samples",
                expected=f"all {len(self._known().weight)} losses of the batch first",
                do='a strategy with window="running"; device_train_microbatch_size at the batch size; or '
                "ComposerWeights(extra_forward=True)",
            ) from error

    def _look_at_all_losses(self, state: State) -> None:
        """Let the strategy see all losses of the batch before its micro-batches are run."""
        size = state.device_train_microbatch_size
        if size is None or size >= len(self._known().weight):
            return
        model = _inside(state.model)
        found = []
        with forwards_only():
            for part in self._spec.split_batch(state.batch, size):
                part = self._spec.microbatch_transforms(state.device.batch_to_device(part))
                with get_precision_context(state.precision, state.precision_config):
                    outputs = state.model(part)
                    loss = model.loss(outputs, part) if self.losses is None else None
                found.append(self._checked(state, loss, outputs, part))
        self._known().weight.resolve(torch.cat(found))


def _inside(model: Any) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model


_EVENTS = frozenset(
    {
        Event.FIT_START,
        Event.FIT_END,
        Event.BEFORE_DATALOADER,
        Event.BEFORE_TRAIN_BATCH,
        Event.AFTER_LOSS,
        Event.AFTER_TRAIN_BATCH,
        Event.BATCH_END,
        Event.EPOCH_END,
    }
)

"""WeightedTrainerMixin: a weighted stream in Hugging Face's Trainer, and in trainers that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weighted_stream.collate import SAMPLE_ID
from weighted_stream.errors import LossError, SourceError, StrategyError, WindowError, missing_extra
from weighted_stream.figures.batch_figures import BatchFigures
from weighted_stream.store import WeightStore
from weighted_stream.strategies.base import Strategy
from weighted_stream.stream import WeightedStream
from weighted_stream.trainers.keeper import Keeper
from weighted_stream.trainers.parts import Parts, each
from weighted_stream.trainers.tagged import LENGTHS, CollateAround, Micro, lost, tagged, taken
from weighted_stream.trainers.token_losses import fused_tokens, logit_tokens

try:
    from transformers import TrainerCallback
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise missing_extra("transformers", "hf") from error

PREFIX = "weights/"
_Base: Any = object  # a Trainer, in the class that the user makes


class WeightedTrainerMixin(_Base):  # type: ignore[misc]
    """Multiplies the losses of a ``Trainer`` by the weights of a stream over its ``train_dataset``.

    Three lines change::

        from weighted_stream import LinUpper, WeightedTrainerMixin

        class WeightedTrainer(WeightedTrainerMixin, Trainer):
            pass

        trainer = WeightedTrainer(model, args, train_dataset=dataset, strategy=LinUpper(), store="run/weights")

    The loaders, samplers and collators stay the Trainer's own; a sample's id goes around the collator. Also for
    ``Seq2SeqTrainer`` and TRL's ``SFTTrainer``. The loss is ``sum(w * tokens * loss) / num_items_in_batch``, with the
    mean loss of a sample and its number of labelled tokens: with weights of 1 it is the Trainer's own, whatever the
    accumulation. Evaluation is as without us.

    A batch is what one optimizer step trains on, on each rank: with ``gradient_accumulation_steps`` the batches of the
    loader are its parts. A strategy that weighs a sample against its whole batch (``window="batch"``) needs all losses
    before the first backward pass: take ``window="running"``, or pay for ``extra_forward=True``. In a batch that is one
    long row (``padding_free``, ``packing``), each sample of the dataset that was given (a pack, if packed before) has a
    weight, for all of its tokens.

    Checkpoints hold the state of the stream (``weighted_stream_<rank>.pt``): ``train(resume_from_checkpoint=...)`` goes
    on as if it had not stopped. The figures of `StepLog` since the log before are in the logs, as ``weights/…``.

    Args:
        *args: the Trainer's own.
        strategy: turns losses into weights; not one that selects samples.
        store: where losses and weights are remembered, see `WeightedStream`.
        id_fn: who a sample is, where the dataset does not say, see `WeightedStream`.
        losses: ``losses(outputs, batch) -> (B,)``, for models whose loss is not a cross-entropy of ``logits`` and
            ``labels``; then each sample counts alike, however many tokens it has. ``outputs`` were made without labels.
        extra_forward: run the parts of a batch forward beforehand, without gradients, if the strategy needs all losses
            at once. Its losses (with their own dropout) decide, and are what the store remembers.
        **kwargs: the Trainer's own.

    Attributes:
        stream: the stream over the ``train_dataset``, made when it is first asked for.

    Raises:
        StrategyError: for a strategy that selects.
        LossError: for options that hide what each sample contributes.

    Example:
        >>> import tempfile
        >>> from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
        >>> from weighted_stream import LinUpper
        >>> class WeightedTrainer(WeightedTrainerMixin, Trainer):
        ...     pass
        >>> model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=20, n_positions=4))
        >>> rows = [{"input_ids": [n, n + 1, n + 2], "labels": [n, n + 1, n + 2]} for n in range(16)]
        >>> args = TrainingArguments(tempfile.gettempdir(), report_to=[], use_cpu=True)
        >>> trainer = WeightedTrainer(model, args, train_dataset=rows, strategy=LinUpper(window="running"))
        >>> trainer.stream
        WeightedStream(list, LinUpper(...))
    """

    # The Trainer's, whose annotations differ between versions.
    args: Any
    accelerator: Any
    compute_loss_func: Any
    data_collator: Any
    model: Any
    train_dataset: Any
    _signature_columns: Any

    def __init__(
        self,
        *args: Any,
        strategy: Strategy,
        store: WeightStore | str | PathLike[str] | None = None,
        id_fn: str | Callable[[Any], int | str] | None = None,
        losses: Callable[[Any, Any], Tensor] | None = None,
        extra_forward: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(strategy, Strategy) and strategy.budget is not None:
            raise StrategyError(
                f"{strategy!r} chooses among more samples than a batch holds; the Trainer's loader cannot draw them.",
                found=f"budget={strategy.budget}",
                expected="a strategy that weighs what the Trainer draws",
                do="use a loop of your own over stream.loader(...), or ComposerWeights",
            )
        super().__init__(*args, **kwargs)
        self._strategy, self._store, self._id_fn = strategy, store, id_fn
        self._losses, self._extra_forward = losses, extra_forward
        self._stream: WeightedStream | None = None
        self._figures: BatchFigures | None = None
        self._parts: Parts | None = None
        self._window: list[Any] = []
        self._micro: Micro | None = None
        self._fused = any(kind.__name__ == "SFTTrainer" for kind in type(self).__mro__)
        self._check_options()
        if not self._fused:
            self.compute_loss_func = self._loss
        self._keeper = _Callback(self)
        self.add_callback(self._keeper)

    @property
    def stream(self) -> WeightedStream:
        """The stream over the train dataset."""
        if self._stream is None:
            if self.train_dataset is None:
                raise SourceError(
                    "There is nothing to weigh.",
                    found="train_dataset=None",
                    expected="a dataset",
                    do="give the Trainer a train_dataset",
                )
            self._stream = WeightedStream(
                self.train_dataset, self._strategy, store=self._store, id_fn=self._id_fn, as_dict=True
            )
            self._figures = BatchFigures(self._stream)
        return self._stream

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; from a checkpoint, strategy and store go on from there, too."""
        found = resume_from_checkpoint
        if found is True:
            found = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call, unused-ignore]
        self._keeper.resume(Path(found) if found else None)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """The Trainer's own loader, over samples that carry their ids."""
        dataset, collator = self.train_dataset, self.data_collator
        self.train_dataset, self.data_collator = tagged(self.stream), CollateAround(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """What the next optimizer step trains on; its weight begins."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            for batch in batches:
                if SAMPLE_ID not in batch:
                    raise lost(batch)
            ids = torch.cat([batch[SAMPLE_ID].cpu() for batch in batches])
            if self.stream.strategy.keeps_samples:
                self._show(ids, batches)
            self._parts, self._window = Parts(self.stream.weight(ids)), batches
        return batches, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """The weighted loss of one batch of the loader; in evaluation, the Trainer's own."""
        if not model.training:
            with self._own_loss():
                return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        if SAMPLE_ID not in inputs or self._parts is None:
            raise lost(inputs)
        window, self._window = self._window, []
        if self._extra_forward and len(window) > 1 and self.stream.strategy.joint:
            self._look_at_all_losses(model, window)
        inputs, micro = taken(inputs)
        micro.part = self._parts.next(len(micro.ids))
        self._micro = micro
        forward = self._weighing(model) if self._fused else model
        result = super().compute_loss(forward, inputs, return_outputs, *args, **kwargs)
        self._micro = None
        if not micro.weighed:
            raise LossError(
                f"The loss of {type(self).__mro__[2].__name__} hides what each sample contributes.",
                found="a loss that was computed without us",
                expected="a trainer whose compute_loss calls that of transformers.Trainer, or TRL's SFTTrainer",
                do="let your compute_loss call super(), or use a loop of your own over stream.loader(...)",
            )
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's logs, with the figures of the stream beside the training loss."""
        if "loss" in logs and self._figures is not None:
            logs = {**logs, **{PREFIX + name: value for name, value in self._figures.take().items()}}
        super().log(logs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if SAMPLE_ID not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, SAMPLE_ID]

    def _check_options(self) -> None:
        """Refuse what would train on something else than the weighted losses."""
        hides = {
            "compute_loss_func": self.compute_loss_func is not None,
            "label_smoothing_factor": bool(self.args.label_smoothing_factor),
            "loss_type": self._fused and getattr(self.args, "loss_type", "nll") != "nll",
            "losses": self._fused and self._losses is not None,
        }
        for name, set_ in hides.items():
            if set_:
                raise LossError(
                    f"{name} and weights for each sample do not go together.",
                    found=f"{name} is set",
                    expected="the Trainer's cross-entropy, or a losses= function",
                    do=f"leave {name} out; losses=function(outputs, batch) -> (B,) gives the weights another loss"
                    + (" (not for SFTTrainer)" if self._fused else ""),
                )

    def _loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """The ``compute_loss_func`` of the Trainer: called in the midst of `compute_loss`."""
        micro = self._micro
        assert micro is not None
        assert self._parts is not None
        if self._losses is None:
            tokens = logit_tokens(outputs, labels, micro, self._shifts())
            items = tokens.counts.sum() if num_items_in_batch is None else num_items_in_batch
            total: Tensor = (self._times(micro, tokens.losses()) * tokens.counts).sum() / items
            return total
        losses = self._own(self._losses, outputs, {**micro.inputs, "labels": labels}, micro)
        share: Tensor = self._times(micro, losses).sum() / len(self._parts.weight)
        # The Trainer is about to multiply, taking this for a share of a sum over all ranks.
        shared = self.args.average_tokens_across_devices and num_items_in_batch is not None
        if shared:
            share = share / self.accelerator.num_processes
        return share

    def _own(self, losses: Callable[[Any, Any], Any], outputs: Any, batch: Any, micro: Micro) -> Tensor:
        found: Tensor = losses(outputs, batch)
        if not each(found, len(micro.ids)):
            raise LossError(
                "losses= does not say what each sample contributes.",
                found=f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__,
                expected=f"float losses of shape ({len(micro.ids)},)",
                do="reduce over tokens, not over samples",
            )
        return found

    def _weights(self, micro: Micro, losses: Tensor) -> Tensor:
        """The weights of these losses; feedback."""
        micro.weighed = True
        try:
            weights: Tensor = micro.part.resolve(losses, ids=micro.ids)
            return weights
        except WindowError as error:
            raise WindowError(
                error.problem,
                found=f"{len(losses)} samples of {len(self._parts.weight) if self._parts else 0}",
                expected="all losses of one optimizer step first",
                do='a strategy with window="running"; gradient_accumulation_steps=1; or extra_forward=True',
            ) from error

    def _times(self, micro: Micro, losses: Tensor) -> Tensor:
        weights = self._weights(micro, losses)
        return torch.where(weights > 0, losses, 0.0) * weights

    def _weighing(self, model: Any) -> Callable[..., Any]:
        """A model whose token log-probabilities are multiplied by the weights: TRL's SFTTrainer sums them up."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs = model(*args, **kwargs)
            micro = self._micro
            if micro is not None and getattr(outputs, "log_probs", None) is not None:
                tokens = fused_tokens(outputs, micro)
                weights = tokens.spread(self._weights(micro, tokens.losses()))
                outputs.log_probs = torch.where(weights > 0, outputs.log_probs, 0.0) * weights
            return outputs

        return forward

    def _look_at_all_losses(self, model: Any, window: list[Any]) -> None:
        """Let the strategy see all losses of the batch before its parts are run."""
        assert self._parts is not None
        found = []
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.compute_loss_context_manager():
            for batch in window:
                inputs, micro = taken(self._prepare_inputs(batch))
                if self._fused:
                    outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
                    found.append(fused_tokens(outputs, micro).losses())
                    continue
                labels = inputs.pop("labels", None)
                outputs = model(**inputs)
                if self._losses is None:
                    found.append(logit_tokens(outputs, labels, micro, self._shifts()).losses())
                else:
                    found.append(self._own(self._losses, outputs, {**inputs, "labels": labels}, micro))
        self._parts.weight.resolve(torch.cat(found))

    def _shifts(self) -> bool:
        """Whether position ``t`` of the logits predicts label ``t + 1``."""
        model = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            return False
        if type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return True
        return LOSS_MAPPING.get(getattr(model, "loss_type", None) or "") is ForCausalLMLoss

    def _show(self, ids: Tensor, batches: list[Any]) -> None:
        """Let a strategy that looks at the samples find them."""
        if len(batches) > 1:
            raise StrategyError(
                f"{self.stream.strategy!r} looks at all samples of a batch at once.",
                found=f"{len(batches)} batches of the loader for one optimizer step",
                expected="one",
                do="gradient_accumulation_steps=1, with a larger per_device_train_batch_size",
            )
        batch = {name: value for name, value in batches[0].items() if name not in (SAMPLE_ID, LENGTHS)}
        shown = self.stream._handed_over
        assert shown is not None
        shown.add(ids.numpy(), batch)

    @contextmanager
    def _own_loss(self) -> Iterator[None]:
        """The Trainer computes its loss as without us."""
        function, self.compute_loss_func = self.compute_loss_func, None
        try:
            yield
        finally:
            self.compute_loss_func = function


class _Callback(Keeper, TrainerCallback):  # type: ignore[misc, unused-ignore]
    """The Trainer tells a `Keeper` of what happens."""

"""WeightedTrainerMixin: a weighted stream in Hugging Face's Trainer, and in trainers that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from weighted_stream.collate import SAMPLE_ID
from weighted_stream.errors import LossError, SourceError, StrategyError, missing_extra
from weighted_stream.figures.batch_figures import BatchFigures
from weighted_stream.groups import SampleGroups, as_group_fn
from weighted_stream.probes.running import forwards_only
from weighted_stream.store import WeightStore
from weighted_stream.strategies.base import Strategy
from weighted_stream.stream import WeightedStream
from weighted_stream.trainers.keeper import Keeper
from weighted_stream.trainers.named_groups import Naming, names_taken
from weighted_stream.trainers.packs import are_packs, packed
from weighted_stream.trainers.pair_losses import PairLoss
from weighted_stream.trainers.parts import Parts
from weighted_stream.trainers.tagged import OWNERS, CollateAround, lost, tagged, taken
from weighted_stream.trainers.trainer_losses import FusedLoss, LogitLoss, TrainerLoss, kind_of

try:
    from transformers import TrainerCallback
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise missing_extra("transformers", "hf") from error

PREFIX = "weights/"
LOSSES: dict[str, type[TrainerLoss]] = {"SFTTrainer": FusedLoss, "DPOTrainer": PairLoss}
_Base: Any = object  # a Trainer, in the class that the user makes


class WeightedTrainerMixin(_Base):  # type: ignore[misc]
    """Multiplies the losses of a ``Trainer`` by the weights of a stream over its ``train_dataset``.

    Three lines change::

        from weighted_stream import LinUpper, WeightedTrainerMixin

        class WeightedTrainer(WeightedTrainerMixin, Trainer):
            pass

        trainer = WeightedTrainer(model, args, train_dataset=dataset, strategy=LinUpper(), store="run/weights")

    The loaders, samplers and collators stay the Trainer's own; a sample's id goes around the collator. Also for
    ``Seq2SeqTrainer``, TRL's ``SFTTrainer`` and ``DPOTrainer``. The loss is ``sum(w * tokens * loss) /
    num_items_in_batch``, with the mean loss of a sample and its number of labelled tokens: with weights of 1 it is the
    Trainer's own, whatever the accumulation. For the DPOTrainer a pair is a sample, and the loss the mean over pairs.
    Evaluation is as without us.

    A batch is what one optimizer step trains on, on each rank: with ``gradient_accumulation_steps`` the batches of the
    loader are its parts. A strategy that weighs a sample against its whole batch (``window="batch"``) needs all losses
    before the first backward pass: take ``window="running"``, or pay for ``extra_forward=True``. In rows of several
    samples (SFTConfig's ``padding_free`` and ``packing``, ``DataCollatorWithFlattening``) each sample has a weight, for
    all of its tokens. If it was cut, and its pieces come in several batches, each of them is weighed. A dataset that
    was packed before says who is in it by a column ``sample_id``, with an id for each token; without it, each pack has
    a weight.

    Checkpoints hold the state of the stream (``weighted_stream_<rank>.pt``): ``train(resume_from_checkpoint=...)`` goes
    on as if it had not stopped. The figures of `StepLog` since the log before are in the logs, as ``weights/…``.

    Args:
        *args: the Trainer's own.
        strategy: turns losses into weights; not one that selects samples.
        store: where losses and weights are remembered, see `WeightedStream`.
        id_fn: who a sample is, where the dataset does not say, see `WeightedStream`.
        group_fn: of which group a sample is (its domain, language, source …): the name of a column, or a function
            sample -> str or int. It sees all columns, also those that the Trainer drops as the model does not take
            them. Not for packs, in whose rows the samples have no columns of their own. None: groups are those that
            the store has (``trainer.stream.store.set_groups(ids, names)``), if any.
        losses: ``losses(outputs, batch) -> (B,)``, for models whose loss is not a cross-entropy of ``logits`` and
            ``labels``; then each sample counts alike, however many tokens it has. ``outputs`` were made without labels.
        chunk_size: for large vocabularies, and for models whose own loss gives no logits: make the losses from hidden
            states and output weights, `chunked_cross_entropy`, with the logits of so many tokens (1024, say) at a time.
            The same losses and gradients; for models that are asked for their logits in training (metrics) it is not.
            None: from the model's logits. TRL's trainers do the like by themselves.
        extra_forward: run the parts of a batch forward beforehand, without gradients, if the strategy needs all losses
            at once. Its losses (with their own dropout) decide, and are what the store remembers.
        **kwargs: the Trainer's own.

    Attributes:
        stream: the stream over the ``train_dataset``, made when it is first asked for.

    Raises:
        StrategyError: for a strategy that selects.
        SourceError: for a ``group_fn`` that is none, or packs.
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
        group_fn: str | Callable[[Any], int | str] | None = None,
        losses: Callable[[Any, Any], Tensor] | None = None,
        chunk_size: int | None = None,
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
        self._strategy, self._store, self._id_fn, self._group_fn = strategy, store, id_fn, as_group_fn(group_fn)
        self._extra_forward = extra_forward
        self._stream: WeightedStream | None = None
        self._figures: BatchFigures | None = None
        self._given: Any = None  # the samples, if the train_dataset is packs of them
        self._sampled: Any = None  # the train_dataset, while its loader is made
        self._parts: Parts | None = None
        self._window: list[Any] = []
        self._looked_at: Callable[[], Any] = lambda: None
        self._inside: Callable[[], Any] = lambda: None
        self._shifted = False
        super().__init__(*args, **kwargs)
        if self._group_fn is not None and self._is_packed():
            raise SourceError(
                "The rows of this dataset are packs: samples that have no columns of their own any more.",
                found=f"group_fn={group_fn!r}, and packed rows",
                expected="a sample in each row, for group_fn",
                do="leave group_fn out, and before train() trainer.stream.store.set_groups(ids, names)",
            )
        self._loss = LOSSES.get(kind_of(self), LogitLoss)(self, losses, chunk_size)
        self._loss.check()
        if self._loss.function is not None:
            self.compute_loss_func = self._loss.function
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
            samples = self.train_dataset if self._given is None else self._given
            self._stream = WeightedStream(samples, self._strategy, store=self._store, id_fn=self._id_fn, as_dict=True)
            self._figures = BatchFigures(self._stream)
        return self._stream

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; from a checkpoint, strategy and store go on from there, too."""
        self._check_run(kwargs.get("trial", args[0] if args else None))
        found = resume_from_checkpoint
        if found is True:
            found = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call, unused-ignore]
        self._keeper.resume(Path(found) if found else None)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _check_run(self, trial: Any) -> None:
        """Raise for a run that would train on something else than the weighted losses of one run.

        Raises:
            StrategyError: for a trial of a search, and for torch's DataParallel.
        """
        if trial is not None:
            raise StrategyError(
                "What is remembered of the samples belongs to one run, and a search makes many.",
                found="hyperparameter_search",
                expected="a trainer for each run",
                do="search in a loop of your own, with a new trainer and store for each setting",
            )
        if self.args.n_gpu > 1 and not getattr(self.model, "is_loaded_in_8bit", False):
            raise StrategyError(
                "The Trainer would put the model into torch's DataParallel, which scales losses in a way of its own.",
                found=f"{self.args.n_gpu} GPUs in one process",
                expected="a process for each GPU",
                do="torchrun --nproc_per_node=..., or accelerate launch; or CUDA_VISIBLE_DEVICES=0 for one GPU",
            )

    def get_train_dataloader(self) -> Any:
        """The Trainer's own loader, over samples that carry their ids."""
        dataset, collator = self.train_dataset, self.data_collator
        self.train_dataset = dataset if self._is_packed() else tagged(self.stream)
        self.data_collator = CollateAround(collator, self._loss.rows)
        self._sampled = dataset
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator, self._sampled = dataset, collator, None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's own, made from the dataset itself: it may look at its columns."""
        return super()._get_train_sampler(train_dataset if self._sampled is None else self._sampled)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """What the next optimizer step trains on; its weight begins."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if batches:
            for batch in batches:
                if SAMPLE_ID not in batch:
                    raise lost(batch)
            ids = torch.cat([batch[SAMPLE_ID].cpu() for batch in batches])
            if self._group_fn is not None:
                names = [name for batch in batches for name in names_taken(batch)]
                self.stream._live().learn_groups(SampleGroups(ids.numpy(), names))
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
        micro.part, micro.of = self._parts.next(len(micro.ids)), len(self._parts.weight)

        def compute(model: Any, inputs: Any) -> Any:
            return super(WeightedTrainerMixin, self).compute_loss(model, inputs, return_outputs, *args, **kwargs)

        result = self._loss.compute(compute, model, inputs, micro)
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

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's, which packs in the midst of it: so that tokens keep the ids of their samples, that is left to us."""
        prepare = super()._prepare_dataset
        given = signature(prepare).bind(dataset, *args, **kwargs)
        if given.arguments.get("dataset_name") != "train" or not given.arguments.get("packing"):
            return prepare(dataset, *args, **kwargs)
        if given.arguments["args"].max_length is None:
            return prepare(dataset, *args, **kwargs)  # refuses

        def unpacked(dataset: Any, args: Any) -> Any:
            given.arguments.update(dataset=dataset, args=args, packing=False)
            return prepare(*given.args, **given.kwargs)

        self._given = dataset
        return packed(unpacked, dataset, given.arguments["args"], self._id_fn)

    def _is_packed(self) -> bool:
        return self._given is not None or are_packs(self.train_dataset)

    def _get_collator_with_removed_columns(self, data_collator: Any, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own; in training, the groups of the samples are named before it drops their column."""
        collator = super()._get_collator_with_removed_columns(data_collator, *args, **kwargs)
        return collator if self._group_fn is None or self._sampled is None else Naming(collator, self._group_fn)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        others = [name for name in self._signature_columns if name != SAMPLE_ID]
        # Of an evaluation set the model would get it.
        self._signature_columns = others if self._sampled is None else [*others, SAMPLE_ID]

    def _look_at_all_losses(self, model: Any, window: list[Any]) -> None:
        """Let the strategy see all losses of the batch before its parts are run."""
        assert self._parts is not None
        found = []
        with forwards_only(), self.compute_loss_context_manager():
            for batch in window:
                inputs, micro = taken(self._prepare_inputs(batch))
                found.append(self._loss.look(super().compute_loss, model, inputs, micro))
        self._parts.weight.resolve(torch.cat(found))

    def _shifts(self) -> bool:
        """Whether position ``t`` of the logits predicts label ``t + 1``."""
        self._look()
        return self._shifted

    def _bare(self) -> Any:
        """The model inside wrappers and adapters."""
        self._look()
        return self._inside()

    def _look(self) -> None:
        """Unwrapping takes a while: once for a model."""
        if self._looked_at() is self.model:
            return
        model = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        # Held weakly: who replaces a model wants its memory.
        self._looked_at, self._inside, self._shifted = ref(self.model), ref(model), self._predicts_next(model)

    def _predicts_next(self, model: Any) -> bool:
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
        batch = {name: value for name, value in batches[0].items() if name not in (SAMPLE_ID, OWNERS)}
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

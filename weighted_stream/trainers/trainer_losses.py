"""TrainerLoss: how a kind of Hugging Face's trainers makes its loss, and where the weights of samples go into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from weighted_stream.errors import LossError, WindowError
from weighted_stream.trainers.chunked_head import ChunkedHead
from weighted_stream.trainers.outputs import IGNORED
from weighted_stream.trainers.parts import each
from weighted_stream.trainers.tagged import Micro
from weighted_stream.trainers.token_losses import Tokens, check_alone, fused_tokens, logit_tokens, targets


class TrainerLoss:
    """What all kinds have in common.

    Args:
        trainer: the Trainer that it is the loss of.
        losses: the user's, see `WeightedTrainerMixin`.
        chunk_size: the user's, see `WeightedTrainerMixin`.

    Attributes:
        rows: how many rows of a batch a sample has.
        function: becomes the Trainer's ``compute_loss_func`` in training; None: it has none.
    """

    rows = 1
    function: Callable[..., Tensor] | None = None
    expected, way_out = "the trainer's own loss", ""

    def __init__(
        self, trainer: Any, losses: Callable[[Any, Any], Tensor] | None = None, chunk_size: int | None = None
    ) -> None:
        self._trainer, self._losses, self._chunk_size = trainer, losses, chunk_size

    def refused(self) -> dict[str, bool]:
        """Options that would train on something else than the weighted losses, and whether they are set."""
        return {
            "compute_loss_func": self._trainer.compute_loss_func is not None,
            "label_smoothing_factor": bool(self._trainer.args.label_smoothing_factor),
        }

    def check(self) -> None:
        """Look at the options.

        Raises:
            LossError: for those that hide what each sample contributes.
        """
        for name, is_set in self.refused().items():
            if is_set:
                raise LossError(
                    f"{name} and weights for each sample do not go together.",
                    found=f"{name} is set, of {kind_of(self._trainer)}",
                    expected=self.expected,
                    do=f"leave {name} out" + self.way_out,
                )

    def compute(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Any:
        """What the Trainer's ``compute_loss(model, inputs)`` gives, with the weights in it."""
        raise NotImplementedError

    def look(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Tensor:
        """The losses of one batch of the loader, (B,), without gradients or weights."""
        raise NotImplementedError


class LogitLoss(TrainerLoss):
    """Trainer and Seq2SeqTrainer: the mean over labelled tokens, or the user's ``losses``."""

    expected = "the Trainer's cross-entropy, or a losses= function"
    way_out = "; losses=function(outputs, batch) -> (B,) gives the weights another loss"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.function = self._loss
        self._micro: Micro | None = None
        self._labels: Any = None
        self._head: ChunkedHead | None = None
        self._headed: Callable[[], Any] = lambda: None

    def refused(self) -> dict[str, bool]:
        """See `TrainerLoss.refused`."""
        both = self._losses is not None and self._chunk_size is not None
        return {**super().refused(), "chunk_size beside losses": both}

    def compute(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Any:
        """See `TrainerLoss.compute`."""
        self._micro = micro
        inputs = self._decoding(inputs)
        try:
            with self._chunks(model, inputs, micro):
                return compute(model, inputs)
        finally:
            self._micro = None

    def look(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Tensor:
        """See `TrainerLoss.look`."""
        inputs = self._decoding(inputs)
        with self._chunks(model, inputs, micro):
            labels = inputs.pop("labels", None)
            outputs = model(**inputs)
        if self._losses is None:
            return self._tokens(outputs, labels, micro).known()
        return self._own(outputs, {**inputs, "labels": labels}, micro)

    def _loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """The ``compute_loss_func``: called in the midst of `compute`."""
        micro, args = self._micro, self._trainer.args
        assert micro is not None
        if self._losses is None:
            tokens = self._tokens(outputs, labels, micro)
            items = tokens.counts.sum() if num_items_in_batch is None else num_items_in_batch
            total: Tensor = (times(micro, tokens.known()) * tokens.counts).sum() / items
            return total
        losses = self._own(outputs, {**micro.inputs, "labels": labels}, micro)
        share: Tensor = times(micro, losses).sum() / micro.of
        # The Trainer is about to multiply, taking this for a share of a sum over all ranks.
        shared = args.average_tokens_across_devices and num_items_in_batch is not None
        return share / self._trainer.accelerator.num_processes if shared else share

    def _tokens(self, outputs: Any, labels: Any, micro: Micro) -> Tokens:
        if self._head is None:
            return logit_tokens(outputs, labels, micro, self._trainer._shifts())
        check_alone(outputs)
        return self._head.tokens(outputs, micro)

    @contextmanager
    def _chunks(self, model: Any, inputs: Any, micro: Micro) -> Iterator[None]:
        """The output layer gives losses in place of logits, if that was asked for."""
        if self._chunk_size is None:
            yield
            return
        if self._head is None or self._headed() is not self._trainer.model:  # held weakly, as it may be replaced
            inside = self._trainer.accelerator.unwrap_model(self._trainer.model)
            self._head, self._headed = ChunkedHead(inside, self._chunk_size), ref(self._trainer.model)
        labels, owners = targets(inputs.get("labels"), micro, self._trainer._shifts())
        bare = {name: value for name, value in inputs.items() if name not in ("labels", "shift_labels")}
        with self._head.instead(lambda: model(**bare), labels, owners):
            yield

    def _decoding(self, inputs: Any) -> Any:
        """With the decoder's input, which a model makes from its labels: it is called without them.

        Raises:
            LossError: if nobody can make it.
        """
        config = getattr(self._trainer.model, "config", None)
        given = "decoder_input_ids" in inputs or "decoder_inputs_embeds" in inputs
        if given or inputs.get("labels") is None or not getattr(config, "is_encoder_decoder", False):
            return inputs
        labels = inputs["labels"]
        inside = self._trainer._bare()
        if hasattr(inside, "prepare_decoder_input_ids_from_labels"):
            return {**inputs, "decoder_input_ids": inside.prepare_decoder_input_ids_from_labels(labels=labels)}
        start, padding = getattr(config, "decoder_start_token_id", None), getattr(config, "pad_token_id", None)
        if start is None or padding is None:
            raise LossError(
                "The decoder's input cannot be made from the labels.",
                found=f"decoder_start_token_id={start}, pad_token_id={padding} in the model's config",
                expected="both, or decoder_input_ids in the batch",
                do="set them, or DataCollatorForSeq2Seq(tokenizer, model=model)",
            )
        begun = torch.cat([labels.new_full((len(labels), 1), start), labels[:, :-1]], 1)
        return {**inputs, "decoder_input_ids": begun.masked_fill(begun == IGNORED, padding)}

    def _own(self, outputs: Any, batch: Any, micro: Micro) -> Tensor:
        assert self._losses is not None
        found: Tensor = self._losses(outputs, batch)
        if not each(found, len(micro.ids)):
            raise LossError(
                "losses= does not say what each sample contributes.",
                found=f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__,
                expected=f"float losses of shape ({len(micro.ids)},)",
                do="reduce over tokens, not over samples",
            )
        return found


class FusedLoss(TrainerLoss):
    """TRL's SFTTrainer: it sums up the token log-probabilities that its fused output layer gives."""

    def refused(self) -> dict[str, bool]:
        """See `TrainerLoss.refused`."""
        loss_type = getattr(self._trainer.args, "loss_type", "nll")
        return {
            **super().refused(),
            f"loss_type={loss_type!r}": loss_type != "nll",
            "losses": self._losses is not None,
            "chunk_size (its own output layer works in chunks)": self._chunk_size is not None,
        }

    def compute(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Any:
        """See `TrainerLoss.compute`."""

        def weighing(*args: Any, **kwargs: Any) -> Any:
            outputs = model(*args, **kwargs)
            if getattr(outputs, "log_probs", None) is not None:
                tokens = fused_tokens(outputs, micro)
                weights = tokens.spread(weigh(micro, tokens.known()))
                outputs.log_probs = torch.where(weights > 0, outputs.log_probs, 0.0) * weights
            return outputs

        return compute(weighing, inputs)

    def look(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Tensor:
        """See `TrainerLoss.look`."""
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        return fused_tokens(outputs, micro).known()


def kind_of(trainer: Any) -> str:
    """The name of the trainer that the mixin was put on.

    Example:
        >>> kind_of(3)
        'int'
    """
    names = [kind.__name__ for kind in type(trainer).__mro__]
    known = (name for name in names if name in ("SFTTrainer", "DPOTrainer", "Seq2SeqTrainer", "Trainer"))
    return next(known, names[0])


def weigh(micro: Micro, losses: Tensor) -> Tensor:
    """The weights of these losses, (B,); feedback.

    Raises:
        WindowError: for a part of a batch, if the strategy needs the losses of all of it.
    """
    micro.weighed = True
    try:
        weights: Tensor = micro.part.resolve(losses, ids=micro.ids)
        return weights
    except WindowError as error:
        raise WindowError(
            error.problem,
            found=f"{len(losses)} samples of {micro.of}",
            expected="all losses of one optimizer step first",
            do='a strategy with window="running"; gradient_accumulation_steps=1; or extra_forward=True',
        ) from error


def times(micro: Micro, losses: Tensor) -> Tensor:
    """The losses times their weights; feedback."""
    weights = weigh(micro, losses)
    return torch.where(weights > 0, losses, 0.0) * weights

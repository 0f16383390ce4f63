"""ChunkedHead: losses from hidden states and output weights, where a language model would make its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from weighted_stream.errors import LossError
from weighted_stream.losses import chunked_cross_entropy
from weighted_stream.probes.running import forwards_only
from weighted_stream.trainers.outputs import IGNORED, shifted
from weighted_stream.trainers.token_losses import Tokens, check_alone, summed


class Whose(Protocol):
    """Whose tokens a batch holds."""

    ids: Tensor


class ChunkedHead:
    """The output layer of a language model, that gives the losses of tokens in place of their logits.

    It is the layer's own ``forward`` that is replaced, while `instead` lasts: so the model stays as it is (wrapped for
    several ranks, with adapters, sharded), and whatever it does before that layer is done. What it does behind it is
    seen once, on numbers of ours: a factor belongs to the logits (Cohere, Granite), anything else (the soft cap of
    Gemma 2) is refused.

    Args:
        model: of transformers, or with an adapter of peft around it; its output embeddings are a plain linear layer.
        chunk_size: tokens whose logits exist at a time.

    Raises:
        LossError: if its output layer is none that is known.
    """

    def __init__(self, model: Any, chunk_size: int) -> None:
        layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if layer is None or type(layer).forward is not nn.Linear.forward:
            raise _not_chunked(
                f"{type(model).__name__} with {'no output layer' if layer is None else type(layer).__name__}",
                "a language model whose output embeddings are a torch.nn.Linear",
            )
        self._layer, self._chunk_size = layer, chunk_size
        self._factor = 0.0  # not known yet
        self._labels: Tensor | None = None
        self._owners: Tensor | None = None
        self._asked = 0

    @contextmanager
    def instead(self, call: Callable[[], Any], labels: Tensor, owners: Tensor | None = None) -> Iterator[None]:
        """While this lasts, the model's logits are losses.

        Args:
            call: runs the model, without labels.
            labels: (R, T), at the positions that predict them.
            owners: (R, T), whose they are; None: a row is a sample.

        Raises:
            LossError: if the model does more than multiply, behind its output layer.
        """
        if not self._factor:
            self._factor = self._behind(call)
        self._labels, self._owners, self._asked = labels, owners, 0
        with self._replaced(self._losses):
            yield

    def tokens(self, outputs: Any, whose: Whose) -> Tokens:
        """The losses in what the model gave.

        Raises:
            LossError: if they are not there.
        """
        given = outputs.get("logits") if isinstance(outputs, dict) else getattr(outputs, "logits", None)
        assert self._labels is not None
        if self._asked != 1 or not isinstance(given, Tensor) or given.shape != (*self._labels.shape, 1):
            raise _not_chunked(
                f"an output layer that was asked {self._asked} times",
                "a model that asks it once for all positions, and returns logits",
            )
        each, labelled = given.squeeze(-1) / self._factor, (self._labels != IGNORED).to(given.device)
        if self._owners is not None:
            return summed(each, labelled, self._owners, len(whose.ids))
        return Tokens(each.sum(1), labelled.sum(1))

    def _losses(self, hidden: Tensor) -> Tensor:
        """In place of logits (R, T, V): losses (R, T, 1), 0 where there is no label."""
        assert self._labels is not None
        self._asked += 1
        if hidden.shape[:-1] != self._labels.shape:
            raise _not_chunked(
                f"hidden states of shape {tuple(hidden.shape)}, labels of shape {tuple(self._labels.shape)}",
                "hidden states for each label",
            )
        weight, bias, factor = self._layer.weight, self._layer.bias, self._factor
        labels = self._labels.to(hidden.device).flatten()
        if factor != 1.0:
            hidden, bias = hidden * factor, None if bias is None else bias * factor
        rows = chunked_cross_entropy(hidden.flatten(0, -2), weight, labels, bias=bias, chunk_size=self._chunk_size)
        return rows.view(*hidden.shape[:-1], 1)

    def _behind(self, call: Callable[[], Any]) -> float:
        """The factor between what the output layer gives and the model's logits."""
        powers = torch.tensor([1.0, -1.0, 64.0, 1024.0])
        asked = []

        def known(hidden: Tensor) -> Tensor:
            asked.append(hidden)
            return powers.to(hidden.device).expand(*hidden.shape[:-1], 4).clone()

        with forwards_only(), self._replaced(known):
            outputs = call()
        given = outputs.get("logits") if isinstance(outputs, dict) else getattr(outputs, "logits", None)
        if len(asked) != 1 or not isinstance(given, Tensor) or given.shape[-1] != 4:
            raise _not_chunked(
                f"an output layer that was asked {len(asked)} times",
                "a model that asks it once for all positions, and returns logits",
            )
        factor = float(given.flatten()[0])
        if not factor or not torch.equal(given.float().cpu(), (factor * powers).expand(given.shape)):
            raise _not_chunked("logits that are capped or otherwise changed after the output layer", "the layer's own")
        return factor

    @contextmanager
    def _replaced(self, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
        own = self._layer.__dict__
        before = own.get("forward")
        own["forward"] = forward
        try:
            yield
        finally:
            del own["forward"]
            if before is not None:
                own["forward"] = before


class ChunkedModel:
    """A language model of transformers whose loss, in training and given labels, is that of each sample, (B,).

    For frameworks in which the model makes its loss by itself.

    Args:
        model: see `ChunkedHead`; its ``forward`` is replaced until `end`.
        chunk_size: see `ChunkedHead`.
        shifts: whether position ``t`` predicts label ``t + 1``.

    Raises:
        LossError: as `ChunkedHead`.
    """

    def __init__(self, model: Any, chunk_size: int, shifts: bool) -> None:
        self._model, self._head, self._shifts = model, ChunkedHead(model, chunk_size), shifts
        self._own, self._before = model.forward, model.__dict__.get("forward")
        model.forward = self._forward

    def end(self) -> None:
        """The model is as it was."""
        del self._model.forward
        if self._before is not None:
            self._model.forward = self._before

    def _forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if labels is None or not self._model.training:
            return self._own(*args, labels=labels, **kwargs)
        call = partial(self._own, *args, **kwargs)
        with self._head.instead(call, shifted(labels) if self._shifts else labels):
            outputs = call()
        check_alone(outputs)
        losses = self._head.tokens(outputs, _Rows(torch.arange(len(labels)))).losses()
        outputs["loss"], outputs["logits"] = losses, None
        return outputs


@dataclass
class _Rows:
    ids: Tensor


def _not_chunked(found: str, expected: str) -> LossError:
    return LossError(
        "chunk_size= cannot make this model's losses from its hidden states.",
        found=found,
        expected=expected,
        do="leave chunk_size out, so that the losses come from its logits; leave the output layer out of peft's "
        "target_modules and modules_to_save, and unquantised; or use chunked_cross_entropy in a losses= function of "
        "yours",
    )

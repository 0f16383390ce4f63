"""Vectors from a model's own hidden states: ADAPT's offline relative, under its own name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weighted_stream.errors import ScoringError, StrategyError
from weighted_stream.probes.hidden_states import HiddenStateProbe, MaskOf
from weighted_stream.probes.running import aside, on_device, run
from weighted_stream.strategies.options import check_integer


class HiddenStateEncoder:
    """Encodes samples with a language model itself: the position-weighted mean of its last hidden states.

    The vector is ADAPT's ``phi(x)`` (arXiv 2605.05227; see `position_weighted_mean`). The rest is ours: the paper takes
    the hidden states of the model in training at each step, which is `Adapt`; here the model is as it is given (a
    checkpoint, or a smaller relative), and the samples are scored once, ahead of the trainer.

    The model runs in evaluation mode, without gradients, and is afterwards as it was. It travels by value to a process
    that scores ahead: an encoder with the model in training would keep scoring with the parameters of that moment.

    Args:
        model: maps what ``prepare`` gives to anything; its head shows its last hidden states.
        prepare: a list of samples -> what the model takes: a dict (keywords), a tuple or list (by position), or one
            tensor; e.g. a tokenizer with padding. It has to pickle: no lambda.
        head, body, mask: where to look; see `HiddenStateProbe`.
        batch_size: samples per forward.
        device: where the model is moved to at the first batch; None: it stays where it is.

    Raises:
        StrategyError: if the head cannot be found, or ``batch_size`` is below 1.

    Example:
        >>> model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 256))
        >>> def prepare(words):
        ...     return torch.tensor([list(word.encode()) for word in words])
        >>> encoder = HiddenStateEncoder(model, prepare, head="1")
        >>> encoder.encode(["cat", "dog", "cow"]).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Sequence[Any]], Any],
        *,
        head: nn.Module | str | None = None,
        body: nn.Module | str | None = None,
        mask: MaskOf | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> None:
        self.model, self.prepare, self.device = model, prepare, device
        self.batch_size = check_integer("HiddenStateEncoder", "batch_size", batch_size, least=1)
        self._where: dict[str, Any] = {"head": head, "body": body, "mask": mask}
        HiddenStateProbe(model, **self._where).close()  # says at once what cannot work

    @property
    def name(self) -> str:
        """The model's class, and its name if it has one."""
        source = getattr(getattr(self.model, "config", None), "_name_or_path", "")
        return f"HiddenStateEncoder({type(self.model).__name__}{f', {source!r}' if source else ''})"

    def encode(self, samples: Sequence[Any], /) -> Tensor:
        """Unit vectors: (n, H) float32, on the model's device; zeros for a sample without tokens.

        Raises:
            ScoringError: if the hidden states cannot be seen, or are not one row per sample.
        """
        if self.device is not None:
            self.model.to(self.device)
        parts: list[Tensor] = []
        try:
            with HiddenStateProbe(self.model, **self._where) as probe, aside(probe.model):
                for start in range(0, len(samples), self.batch_size):
                    parts.append(self._vectors(probe, samples[start : start + self.batch_size]))
        except StrategyError as error:
            raise ScoringError(error.problem, found=error.found, expected=error.expected, do=error.do) from None
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def _vectors(self, probe: HiddenStateProbe, samples: Sequence[Any]) -> Tensor:
        inputs = on_device(self.prepare(samples), probe.model)
        vectors = probe.read(lambda: run(probe.model, inputs))
        if len(vectors) != len(samples):
            raise ScoringError(
                f"{self.name} made another number of vectors than there are samples.",
                found=f"{len(vectors)} vectors",
                expected=f"{len(samples)}, one row of the model's input per sample",
                do="let prepare(samples) give one row for each sample, in their order",
            )
        return vectors

    def __repr__(self) -> str:
        return self.name

"""What a model shows of its samples without being changed: one vector each, from its last hidden states."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError
from weighted_stream.probes.heads import find_watched
from weighted_stream.probes.pooling import position_weighted_mean
from weighted_stream.probes.running import is_aside, unwrapped
from weighted_stream.probes.taps import Tap, remove

__all__ = ["HiddenStateProbe", "MaskOf", "position_weighted_mean"]

FORWARDS = 256
"""How many forwards without a `take` are remembered, a vector per sample each; older ones are forgotten."""

MaskOf = Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None]
"""The attention mask (B, T) of a call model(*args, **kwargs), or None if all tokens are real."""


class Autocast(NamedTuple):
    """The autocast that a forward ran under."""

    device: str
    dtype: torch.dtype
    enabled: bool


class HiddenStateProbe:
    """Sees the last hidden states of every training forward, through hooks from outside, and keeps a vector a sample.

    What it sees is the input of the output head, (B, T, H), after the final norm; it is pooled at once
    (`position_weighted_mean`), detached, so that (B, H) floats are all that stays. A head that sees (B, H), one
    vector per sample, does as well.

    Training forwards are those that run while gradients are enabled: evaluation under ``no_grad`` or
    ``inference_mode`` leaves no trace, nor does what other strategies run on the side (`aside`), nor what gradient
    checkpointing runs again during backward. `take` gives the latest forwards, so a batch that is run again is taken as
    it was run last.

    Make it before the first call of a model that `torch.compile` compiles (its hooks are part of what is compiled; they
    break the graph, so not with ``fullgraph=True``). DataParallel is not seen: its replicas are other modules.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel.
        head: the module whose input are the last hidden states, or its dotted name; None:
            ``model.get_output_embeddings()``, which models of transformers have.
        body: in place of ``head``, a module (or its dotted name) whose *output* they are (a tensor, or what has
            ``.last_hidden_state``, or a tuple that begins with them), for models that do not call their head, or not
            on all tokens: fused losses, ``logits_to_keep``, losses in chunks. E.g. ``"model"`` of a Llama,
            ``"transformer"`` of a GPT-2.
        mask: where the attention mask is; None: the argument ``attention_mask`` of the model's forward
            (``decoder_attention_mask`` of an encoder-decoder), and without one all tokens are real.

    Raises:
        StrategyError: if the head cannot be found.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        >>> with HiddenStateProbe(model, head="1") as probe:
        ...     logits = model(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        ...     probe.take(2).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        head: nn.Module | str | None = None,
        body: nn.Module | str | None = None,
        mask: MaskOf | None = None,
    ) -> None:
        self.model = unwrapped(model)
        self.autocast: Autocast | None = None
        """That of the latest training forward."""
        self._mask = mask
        self._signature = inspect.signature(self.model.forward)
        self._kept: deque[Tensor | StrategyError] = deque(maxlen=FORWARDS)
        self._aside: list[Tensor | StrategyError] | None = None
        self._call: Mapping[str, Any] | None = None
        self._forwards = 0
        self._at = find_watched(self.model, head, body)
        hooks = [self.model.register_forward_pre_hook(Tap(self._begin), with_kwargs=True)]
        if body is None:
            hooks.append(self._at.register_forward_pre_hook(Tap(self._see_input)))
        else:
            hooks.append(self._at.register_forward_hook(Tap(self._see_output)))
        self._remove = finalize(self, remove, hooks)

    def take(self, count: int) -> Tensor | None:
        """The vectors of the latest training forwards that together have ``count`` samples, and forget all others.

        Returns:
            (count, H) float32, in the order of the forwards; None if there was no forward since the last `take`.

        Raises:
            StrategyError: if the latest forwards do not add up to ``count``, or showed no hidden states.
        """
        if not self._kept and not self._forwards:
            return None
        kept, self._forwards = list(self._kept), 0
        self._kept.clear()
        if not kept:
            raise self._saw_nothing()
        parts: list[Tensor] = []
        missing = count
        while missing > 0 and kept:
            parts.append(_checked(kept.pop()))
            missing -= len(parts[-1])
        if missing:
            sizes = [len(part) for part in reversed(parts)]
            raise StrategyError(
                "The forwards of the model do not fit the samples of the batch.",
                found=f"{'…, ' if kept else ''}{', '.join(map(str, sizes))} samples in the forwards since the last "
                "weights",
                expected=f"latest forwards that add up to the {count} samples whose weights are asked for",
                do="ask for the weights after each forward, or at once after all forwards of the batch; one row of "
                "the model's input per sample",
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts[::-1])

    def read(self, run: Callable[[], object]) -> Tensor:
        """The vectors of whatever ``run`` sends through the model; training forwards are kept apart from it.

        Returns:
            (n, H) float32, in the order of the forwards.

        Raises:
            StrategyError: if the hidden states were not seen.
        """
        call, forwards, self._aside = self._call, self._forwards, []
        try:
            run()
            if not self._aside:
                raise self._saw_nothing() if self._forwards > forwards else self.no_forward()
            return torch.cat([_checked(seen) for seen in self._aside])
        finally:
            self._call, self._forwards, self._aside = call, forwards, None

    def no_forward(self) -> StrategyError:
        """The error for a batch whose forward was not seen."""
        name = type(self.model).__name__
        return StrategyError(
            f"No forward of {name} was seen for these samples.",
            found=f"no call of the {name} itself (in training: with gradients enabled) since the last weights",
            expected="one forward of each batch, after the strategy was made, before its weights",
            do="make the strategy before the first call of a compiled model; call the model itself, not its parts; ask "
            "for weights after each forward, or at once after all forwards of the batch",
        )

    def close(self) -> None:
        """Remove the hooks; also done when the probe is collected."""
        self._remove()

    def __enter__(self) -> HiddenStateProbe:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listens(self, module: nn.Module, expected: nn.Module) -> bool:
        """Whether this is a forward to be seen, and not one of a copy, of an evaluation or of a backward."""
        if module is not expected:
            return False
        backward = torch._C._current_graph_task_id() != -1
        return self._aside is not None or (torch.is_grad_enabled() and not backward and not is_aside())

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model is called: keep what tells its mask."""
        if not self._listens(model, self.model):
            return
        self._forwards += 1
        arguments = dict(kwargs)
        if args:
            arguments |= self._signature.bind_partial(*args).arguments
        decoder = "decoder_" * bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        mask = arguments.get(decoder + "attention_mask") if self._mask is None else self._mask(args, kwargs)
        self._call = {"mask": mask, "tokens": arguments.get(decoder + "input_ids")}

    def _see_input(self, head: nn.Module, args: tuple[Any, ...]) -> None:
        if self._listens(head, self._at):
            self._keep(args[0] if args else None)

    def _see_output(self, body: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._listens(body, self._at):
            states = getattr(output, "last_hidden_state", output)
            self._keep(states[0] if isinstance(states, (tuple, list)) and states else states)

    def _keep(self, hidden: Any) -> None:
        call, self._call = self._call, None
        try:
            seen: Tensor | StrategyError = self._pooled(hidden, call)
        except StrategyError as error:
            seen = error  # raised if it is asked for: a forward that is none of the batch's may look as it likes
        if self._aside is not None:
            self._aside.append(seen)
            return
        self._kept.append(seen)
        if isinstance(seen, Tensor):
            kind = seen.device.type
            self.autocast = Autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    @torch.no_grad()
    def _pooled(self, hidden: Any, call: Mapping[str, Any] | None) -> Tensor:
        """The vectors of one forward: (B, H)."""
        if call is None:
            raise self._strange(
                "hidden states without a call of the model: its head was called by itself, or twice in a forward",
                "one call of the head in each call of the model",
            )
        if not isinstance(hidden, Tensor) or not hidden.is_floating_point() or hidden.ndim not in (2, 3):
            found = f"shape {tuple(hidden.shape)}" if isinstance(hidden, Tensor) else type(hidden).__name__
            raise self._strange(found, "floats of shape (B, T, H), or (B, H) of a model with one vector per sample")
        mask, tokens = call["mask"], call["tokens"]
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            found = f"a mask of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise self._strange(found, "an attention mask (B, T)", "pass mask=, a function (args, kwargs) -> (B, T)")
        shape = next((t.shape for t in (mask, tokens) if isinstance(t, Tensor) and t.ndim == 2), None)
        if shape is not None and hidden.shape[: hidden.ndim - 1] != shape[: hidden.ndim - 1]:
            raise self._strange(f"states {tuple(hidden.shape)} for tokens {tuple(shape)}", "states of all tokens")
        return position_weighted_mean(hidden.detach(), mask) if hidden.ndim == 3 else _unit(hidden.detach())

    def _saw_nothing(self) -> StrategyError:
        return self._strange(
            "a forward that did not reach it (a fused loss? a model compiled before the probe was made?)",
            "one call of the head in each call of the model",
        )

    def _strange(self, found: str, expected: str, do: str = "") -> StrategyError:
        model, at = type(self.model).__name__, type(self._at).__name__
        return StrategyError(
            f"The last hidden states of {model} could not be seen at its {at}.",
            found=found,
            expected=expected,
            do=do
            or "pass body=, the module whose output are the last hidden states of all tokens, e.g. 'model' or "
            "'transformer'; make the strategy before the first call of a compiled model",
        )


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _checked(seen: Tensor | StrategyError) -> Tensor:
    if isinstance(seen, StrategyError):
        raise seen
    return seen

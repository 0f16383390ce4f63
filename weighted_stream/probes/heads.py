"""Where a model's last hidden states are to be seen."""

from __future__ import annotations

from torch import nn

from weighted_stream.errors import StrategyError


def find_watched(model: nn.Module, head: nn.Module | str | None, body: nn.Module | str | None) -> nn.Module:
    """The module whose input (``head``) or output (``body``) are the last hidden states; see `HiddenStateProbe`.

    Raises:
        StrategyError: if it is not given and the model does not say, or is no part of the model.

    Example:
        >>> find_watched(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)), "1", None)
        Linear(in_features=4, out_features=9, bias=True)
    """
    if head is not None and body is not None:
        raise _not_found(model, "both head and body", "one of them")
    given = head if body is None else body
    if given is None:
        getter = getattr(model, "get_output_embeddings", None)
        given = None if getter is None else getter()
        if given is None:
            raise _not_found(model, "no get_output_embeddings() that gives one", "the module whose input they are")
    if isinstance(given, str):
        named = dict(model.named_modules())
        if given not in named:
            raise _not_found(model, f"no module named {given!r}", f"one of {', '.join(list(named)[1:][-8:])} …")
        given = named[given]
    if not any(given is module for module in model.modules()):
        raise _not_found(model, f"a {type(given).__name__} that is not a part of it", "a module of the model")
    return given


def _not_found(model: nn.Module, found: str, expected: str) -> StrategyError:
    return StrategyError(
        f"Where are the last hidden states of {type(model).__name__}?",
        found=found,
        expected=expected,
        do="pass head=, the output layer (a module or its dotted name, e.g. 'lm_head')",
    )

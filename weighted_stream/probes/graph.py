"""What the graph of a tensor says about the parameters it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def count_uses(result: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """How many operations in the graph of ``result`` take each parameter directly.

    A cast that is kept and used again (autocast) counts once.

    Example:
        >>> import torch
        >>> w = torch.ones(2, requires_grad=True)
        >>> count_uses((w * 3).sum() + w.sum(), {"w": w})
        {'w': 2}
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    counts = dict.fromkeys(parameters, 0)
    for node in _nodes(result):
        for following, _ in node.next_functions:
            variable = getattr(following, "variable", None)
            if variable is not None and id(variable) in names:
                counts[names[id(variable)]] += 1
    return counts


def has_node(result: Tensor, kind: str) -> bool:
    """Whether an operation of this name, e.g. ``"CheckpointFunctionBackward"``, is in the graph of ``result``."""
    return any(node.name() == kind for node in _nodes(result))


def _nodes(result: Tensor) -> Iterator[Any]:
    """Every operation once."""
    # Nodes are Python objects only while somebody holds them: what was seen must be kept.
    seen: set[Any] = {result.grad_fn}
    open_nodes: list[Any] = [result.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                open_nodes.append(following)

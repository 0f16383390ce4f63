"""Which layers' gradients are looked at, and what parameters these are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import nn

from weighted_stream.errors import StrategyError
from weighted_stream.probes.heads import find_watched

Layers: TypeAlias = Literal["all", "lora", "head"] | Iterable[str | nn.Module]
"""``"all"``, ``"lora"``, ``"head"``, or modules or their dotted names."""

Kind: TypeAlias = Literal["linear", "transposed", "embedding"]
"""A weight (d_out, d_in), one of (d_in, d_out) as in transformers' Conv1D, or an embedding (V, d)."""


class Layer(NamedTuple):
    """A layer whose parameters are looked at.

    Attributes:
        name: dotted.
        module: the layer.
        kind: how its weight lies.
        weight: the name of its weight among the model's parameters; None: frozen.
        bias: the name of its bias; None: frozen, or it has none.
    """

    name: str
    module: nn.Module
    kind: Kind
    weight: str | None
    bias: str | None


def choose_layers(model: nn.Module, layers: Layers) -> list[Layer]:
    """The layers that have parameters in training, each once.

    - ``"all"``: every `torch.nn.Linear` and transformers' ``Conv1D``. Not embeddings of their own, nor norms.
    - ``"lora"``: the linear layers of adapters that are named as in ``peft``: ``lora_A``, ``lora_B``.
    - ``"head"``: the output layer alone, ``model.get_output_embeddings()``.
    - names or modules: these, and the linear layers and embeddings inside them.

    An embedding that shares its weight with a chosen layer is chosen too, as the gradient of that weight is the sum of
    both; not with ``"head"``, where only what the weight does as output layer is looked at, which costs no backward
    through the model.

    Raises:
        StrategyError: if there is no such layer, none of them is in training, or one was asked for that cannot be
            treated.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 9))
        >>> [layer.name for layer in choose_layers(model, "all")]
        ['1', '3']
    """
    chosen: dict[str, nn.Module] = {}
    for name, module in _asked_for(model, layers):
        chosen.setdefault(name, module)
    if not isinstance(layers, str) or layers != "head":
        shared = {id(weight) for module in chosen.values() if (weight := _weight(module)) is not None}
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding) and id(module.weight) in shared:
                chosen.setdefault(name, module)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    found = [
        Layer(name, module, _kind(module) or "linear", names.get(id(_weight(module))), names.get(id(_bias(module))))
        for name, module in chosen.items()
    ]
    trained = [layer for layer in found if layer.weight is not None or layer.bias is not None]
    if not trained:
        raise _no_layers(
            model,
            "no such layer" if not found else f"only frozen ones: {', '.join(layer.name for layer in found[:4])}",
        )
    for layer in trained:
        _check(layer)
    return trained


def _asked_for(model: nn.Module, layers: Layers) -> Iterator[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    if layers == "head":
        head = find_watched(model, None, None)
        yield next(name for name, module in modules.items() if module is head), head
    elif layers == "all":
        yield from ((name, m) for name, m in modules.items() if _kind(m) in ("linear", "transposed"))
    elif layers == "lora":
        adapters = {"lora_A", "lora_B"}
        yield from ((name, m) for name, m in modules.items() if _kind(m) == "linear" and adapters & {*name.split(".")})
    elif isinstance(layers, (str, nn.Module)):
        raise _no_layers(model, repr(layers) if isinstance(layers, str) else f"one {type(layers).__name__}")
    else:
        for layer in layers:
            yield from _inside(model, modules, layer)


def _inside(model: nn.Module, modules: dict[str, nn.Module], layer: Any) -> Iterator[tuple[str, nn.Module]]:
    """A layer, or the layers inside a module."""
    name = layer if isinstance(layer, str) else next((n for n, module in modules.items() if module is layer), None)
    if name is None or name not in modules:
        raise _no_layers(model, f"no {layer!r} in it" if isinstance(layer, str) else f"a {type(layer).__name__}")
    module = modules[name]
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    if own and _kind(module) is None:
        raise _cannot_treat(name, module)
    inner = {f"{name}.{n}".strip("."): m for n, m in module.named_modules() if n and _kind(m) is not None}
    yield from ({name: module} if _kind(module) is not None else inner).items()


def _kind(module: nn.Module) -> Kind | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    conv1d = type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"
    return "transposed" if conv1d else None


def _weight(module: nn.Module) -> nn.Parameter | None:
    return module._parameters.get("weight")


def _bias(module: nn.Module) -> nn.Parameter | None:
    return module._parameters.get("bias")


def _check(layer: Layer) -> None:
    """Raise for a layer that is not what it looks like."""
    module = layer.module
    found = ""
    if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
        found = "a Linear with a forward of its own"
    elif "forward" in vars(module) and not hasattr(module, "_hf_hook"):  # accelerate's moves data, and changes none
        found = "a forward that was put in the place of its own"
    elif hasattr(module, "parametrizations") or "weight" not in module._parameters:
        found = "a weight that is computed from other parameters (weight norm, spectral norm, parametrizations)"
    elif isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        found = "max_norm or scale_grad_by_freq"
    if found:
        raise _cannot_treat(layer.name, module, found)


def _cannot_treat(name: str, module: nn.Module, found: str = "") -> StrategyError:
    return StrategyError(
        f"The per-sample gradients of {name!r} cannot be told from its input and output.",
        found=f"a {type(module).__name__}" + (f": {found}" if found else ""),
        expected="torch.nn.Linear, torch.nn.Embedding, or Conv1D of transformers",
        do='leave it out of layers=; layers="all" takes every linear layer and passes by norms and convolutions, '
        "layers=[names] takes the ones you name",
    )


def _no_layers(model: nn.Module, found: str) -> StrategyError:
    names = [name for name, module in model.named_modules() if _kind(module) is not None]
    return StrategyError(
        f"These are no layers of {type(model).__name__} that are in training.",
        found=found,
        expected=f"among others {', '.join(names[-4:])}" if names else "a model with linear layers",
        do='pass layers="all", "lora", "head", or a list of modules or of their dotted names',
    )

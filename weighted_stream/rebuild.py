"""A DataLoader built again, with its own class and arguments, around the dataset with ids.

torch allows neither dataset nor sampler to be replaced in a loader that exists.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from weighted_stream.errors import SourceError

_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "pin_memory_device",
    "in_order",
)
_BATCHING = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


def loader_arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """The arguments that build this loader again, without its dataset.

    Raises:
        SourceError: if its class takes an argument of its own that it keeps under no attribute of that name.
    """
    arguments = {name: getattr(loader, name) for name in _KEPT if hasattr(loader, name)}
    if isinstance(loader.dataset, IterableDataset):
        arguments |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None and loader.batch_size is None:
        arguments["batch_sampler"] = loader.batch_sampler
    else:
        arguments |= {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    return arguments | _own_arguments(loader)


def _own_arguments(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a subclass takes beyond `DataLoader`, as its attributes say."""
    own: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(loader).__init__).parameters.items():
        if name in ("self", "dataset", *_KEPT, *_BATCHING) or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            continue
        held = next((key for key in (name, f"_{name}") if hasattr(loader, key)), None)
        if held is None:
            raise SourceError(
                f"This {type(loader).__name__} cannot be built again: its argument {name!r} is not to be found.",
                found=f"no attribute {name!r} of the loader",
                expected=f"the value of {name!r} kept as loader.{name}",
                do=f"keep it as self.{name}, or wrap the dataset: WeightedStream(dataset, ...).loader(...)",
            )
        own[name] = getattr(loader, held)
    return own


def rebuild(kind: type[DataLoader[Any]], dataset: Dataset[Any], arguments: dict[str, Any]) -> DataLoader[Any]:
    """A loader of this class; arguments are checked by name.

    Raises:
        SourceError: for an argument that the class does not take.
    """
    known = {*inspect.signature(DataLoader.__init__).parameters, *inspect.signature(kind.__init__).parameters}
    unknown = sorted(set(arguments) - known | set(arguments) & {"dataset"})
    if unknown:
        raise SourceError(
            "loader() got arguments that a DataLoader does not take.",
            found=", ".join(unknown),
            expected="torch.utils.data.DataLoader's arguments (without dataset), and seed",
            do="check the spelling",
        )
    if not arguments.get("num_workers"):  # these mean nothing without workers, and torch refuses them
        for name in ("prefetch_factor", "multiprocessing_context", "persistent_workers"):
            if not arguments.get(name):
                arguments.pop(name, None)
    return kind(dataset, **arguments)

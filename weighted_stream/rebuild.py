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


def merged_arguments(loader: DataLoader[Any] | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a wrapped loader (None: there is none), but for those that the user replaces.

    Raises:
        SourceError: if a batch_sampler would be lost half, or the loader cannot be built again.
    """
    own = {} if loader is None else loader_arguments(loader)
    if "batch_sampler" in own:
        _check_batch_sampler_stays(arguments)
    for replaced in _replaced_by(arguments):
        own.pop(replaced, None)
    return own | arguments


def _check_batch_sampler_stays(arguments: dict[str, Any]) -> None:
    """A wrapped batch_sampler holds size and order: whoever replaces one must say the other too.

    Raises:
        SourceError: if it would be lost half.
    """
    changes = sorted(arguments.keys() & {"batch_size", "sampler", "shuffle", "drop_last"})
    complete = "batch_size" in changes and ("sampler" in changes or "shuffle" in changes)
    if changes and not complete and "batch_sampler" not in arguments:
        raise SourceError(
            "The wrapped DataLoader makes its batches with a batch_sampler, which decides size and order.",
            found=f"only {', '.join(changes)} to replace it",
            expected="batch_size with sampler or shuffle, or another batch_sampler",
            do="pass both, or wrap the dataset itself",
        )


def _replaced_by(arguments: dict[str, Any]) -> set[str]:
    """Which arguments of a wrapped loader give way to these, because torch takes only one of them."""
    replaced = set(arguments)
    if "batch_sampler" in arguments:
        replaced |= {"batch_size", "sampler", "drop_last"}
    if replaced & {"batch_size", "sampler", "shuffle", "drop_last"}:
        replaced |= {"batch_sampler"}
    if "shuffle" in arguments:
        replaced |= {"sampler"}
    if arguments.get("num_workers") == 0:
        replaced |= {"prefetch_factor", "multiprocessing_context", "persistent_workers", "timeout"}
    return replaced


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

"""WebLoader: a WebDataset pipeline whose first stage is a DataLoader, read in the main process."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.tracking import Invoke, Tagged, as_list, follow
from weighted_stream.sources.webdataset_pickles import trusts_pickles
from weighted_stream.sources.webdataset_prepared import prepared_stages


def torch_loader_of(data: Any) -> DataLoader[Any] | None:
    """The DataLoader that a ``webdataset.WebLoader`` begins with; None if ``data`` is no WebLoader.

    Example:
        >>> torch_loader_of(DataLoader([1, 2])) is None
        True
    """
    pipeline = any(
        kind.__module__ == "webdataset.pipeline" and kind.__name__ == "DataPipeline" for kind in type(data).__mro__
    )
    if pipeline and data.pipeline and isinstance(data.pipeline[0], DataLoader):
        return data.pipeline[0]
    return None


def follow_webloader(data: Any, loader: Iterable[tuple[Any, Any]]) -> Any:
    """A copy of a WebLoader that reads from ``loader`` and yields ids.

    Args:
        data: the WebLoader; its stages behind the DataLoader (``unbatched``, ``shuffle``, ``batched`` …), its
            ``with_epoch`` and ``repeat`` stay.
        loader: the DataLoader it begins with, built again so that it yields ``(ids, batch)``.

    Returns:
        A WebLoader that yields ``(list of ids, batch)``; behind ``unbatched``, ``([id], sample)``.

    Raises:
        SourceError: if ``data`` is no WebLoader, or a stage could do nothing but unpickle; while iterating, for a
            stage that loses track of samples, or a member that would be unpickled.
    """
    if torch_loader_of(data) is None:
        raise SourceError(
            "This is no WebLoader.",
            found=type(data).__name__,
            expected="a pipeline that begins with a DataLoader",
            do="webdataset.WebLoader(dataset, batch_size=None)",
        )
    runner, result = copy(data), copy(data)
    runner.pipeline = []
    stages = prepared_stages(data.pipeline[1:], trusts_pickles(data))
    result.pipeline = [_Followed(loader, stages, runner.invoke)]
    return result


class _Followed(IterableDataset[Any]):
    def __init__(self, loader: Iterable[tuple[Any, Any]], stages: list[Any], invoke: Invoke) -> None:
        self._loader, self._stages, self._invoke = loader, stages, invoke

    def __iter__(self) -> Tagged:
        for ids, batch in follow(iter(self._loader), self._stages, self._invoke):
            yield as_list(ids), batch

"""Tar files in S3 for WebDataset, which has no handler for ``s3://`` of its own: ours, unless the user has set one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from weighted_stream.errors import SourceError
from weighted_stream.sources.s3 import BLOCK, RemoteFile, Storage, is_s3

OPENS = {
    *("webdataset.tariterators.tarfile_samples", "webdataset.tariterators.url_opener"),
    *("webdataset.cache.StreamingOpen", "webdataset.cache.FileCache"),
}
"""The stages that open urls, by name."""


def open_s3(url: str, mode: str = "rb", bufsize: int = 8192, *, filesystem: Any = None) -> RemoteFile:
    """Open an object in S3 for reading: a handler for WebDataset's ``gopen_schemes``.

    `WeightedStream` uses it for ``s3://`` urls by itself, in workers too, unless ``gopen_schemes["s3"]`` is set to
    another. A pipeline that is read without a stream needs ``webdataset.gopen_schemes["s3"] = open_s3``.

    The object is read in blocks by range. A request that fails is made again, five times in all within seconds, and as
    its length is known from the beginning, a connection that drops never looks like the end of the file.

    Args:
        url: ``s3://bucket/key``. Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL``,
            ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` …) or ``~/.aws``.
        mode: ``"rb"``.
        bufsize: has no meaning here.
        filesystem: a `pyarrow.fs.FileSystem` to be used instead, by
            ``functools.partial(open_s3, filesystem=S3FileSystem(anonymous=True))``.

    Raises:
        SourceError: if it is not there, cannot be reached, or is to be written; while reading, if it changes.

    Example:
        >>> import tempfile
        >>> from pyarrow.fs import LocalFileSystem
        >>> with tempfile.NamedTemporaryFile() as local:
        ...     _ = local.write(b"a tar file"), local.flush()
        ...     with open_s3(local.name, filesystem=LocalFileSystem()) as file:
        ...         file.read(5)
        b'a tar'
    """
    if mode != "rb":
        raise SourceError(
            "open_s3 reads only.", found=f"mode {mode!r}", expected="'rb'", do="write the file here, and copy it there"
        )
    return RemoteFile(Storage(filesystem), url, block=BLOCK)


class OpensS3:
    """A stage in front of the one that opens urls: with the first ``s3://`` url, WebDataset gets a handler for it.

    It is done here, as this is in the worker, however that was started.
    """

    def __call__(self, source: Iterable[Any]) -> Iterator[Any]:
        """The urls, as they are."""
        for sample in source:
            if is_s3(sample.get("url") if isinstance(sample, dict) else sample):
                from webdataset import gopen_schemes

                gopen_schemes.setdefault("s3", open_s3)
            yield sample

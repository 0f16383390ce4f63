"""Which shards lie below a url in S3, for the tools."""

from __future__ import annotations

from glob import has_magic
from pathlib import PurePosixPath

from weighted_stream.errors import SourceError
from weighted_stream.shards.mds import INDEX
from weighted_stream.sources.parquet_remote import expand
from weighted_stream.sources.s3 import Storage


def look_remote(url: str) -> tuple[str, list[str]]:
    """Format and urls of the shards: of an object, of a folder at any depth, or of a glob pattern.

    Raises:
        SourceError: if there are none, or of several kinds, or MosaicML shards; if the storage cannot be reached.
    """
    single = has_magic(url) or url.endswith((".tar", ".parquet"))
    files = [file for _, file in expand(url if single else url.rstrip("/") + "/**/*", Storage())]
    endings = {PurePosixPath(file).suffix for file in files} & {".tar", ".parquet"}
    if not single and any(PurePosixPath(file).name == INDEX for file in files):
        raise SourceError(
            "The tools do not read MosaicML shards in S3.",
            found=f"{url} with an {INDEX}",
            expected="MosaicML shards on this machine, or .tar or .parquet files in S3",
            do="copy them here",
        )
    if len(endings) != 1:
        raise SourceError(
            "There are no shards of one kind here.",
            found=f"{url}: " + (" and ".join(sorted(endings)) or f"{len(files)} other files"),
            expected=".tar (WebDataset) or .parquet files",
            do="check bucket and key, and AWS_ENDPOINT_URL if the storage is not Amazon's",
        )
    (ending,) = endings
    found = [file for file in files if file.endswith(ending)]
    return ("webdataset" if ending == ".tar" else "parquet"), found

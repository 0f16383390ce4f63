"""``weighted-stream convert``: files of samples into shards."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from weighted_stream.progress import progress_bar
from weighted_stream.shards.convert import Converted, convert
from weighted_stream.shards.writing import FORMATS, ShardSize

_UNITS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "convert",
        help="write JSON lines, Parquet, text or a Hugging Face folder as shards",
        description="Writes samples as MDS, WebDataset or Parquet shards, in bounded memory. Ids are kept: the id "
        "column stays a column, and where there is none one is written, so id_fn='id' gives a sample one id "
        "everywhere. Lists and dicts become JSON in MDS and WebDataset. In WebDataset a sample is one member 'json' "
        "(and <column>.bin for bytes). DST appears when it is whole.",
    )
    add = parser.add_argument
    files = ".jsonl[.gz], .parquet (also s3://), .txt, a folder of them, or of save_to_disk"
    add("source", metavar="SRC", help=files)
    add("folder", type=Path, metavar="DST", help="folder for the shards; new or empty")
    add("--format", choices=sorted(FORMATS), required=True, help="of the shards")
    add("--text", metavar="FIELD", help="check that this column is there and holds text")
    add("--id", metavar="FIELD", help="the column of the ids, unique (default: id, written if there is none)")
    add("--per", choices=("line", "file"), default="line", help="what a sample of a .txt file is (default: line)")
    add("--shard-size", type=shard_size, default=ShardSize(), metavar="N", help="samples, or 64mb (default: 64mb)")
    add("--overwrite", action="store_true", help="replace the shards of an earlier conversion")
    parser.set_defaults(run=run)


def shard_size(text: str) -> ShardSize:
    """How large a shard is: a number of samples, or of bytes with a unit.

    Example:
        >>> shard_size("1000"), shard_size("64mb")
        (ShardSize(samples=1000, bytes=None), ShardSize(samples=None, bytes=67108864))
    """
    found = re.fullmatch(r"(\d+)(kb|mb|gb)?", text.lower())
    number = int(found.group(1)) if found else 0
    if found is None or number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of samples, nor a size such as 64mb")
    if found.group(2) is None:
        return ShardSize(samples=number, bytes=None)
    return ShardSize(samples=None, bytes=number * _UNITS[found.group(2)])


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    with progress_bar("reading", "sample") as bar:

        def progress(step: str, samples: int) -> None:
            if bar.desc.rstrip(": ") != step:
                bar.reset(total=bar.n or None)  # what was read is what will be written
                bar.set_description(step)
            bar.update(samples)

        done = convert(
            arguments.source,
            arguments.folder,
            arguments.format,
            id=arguments.id,
            text=arguments.text,
            per=arguments.per,
            size=arguments.shard_size,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    print(f"{done.samples:,} samples in {done.shards:,} shards: {arguments.folder}")
    print("columns: " + ", ".join(f"{name} ({kind})" for name, kind in done.columns.items()))
    print(f"ids: column {done.id!r}, {_ids(done)}")
    return 0


def _ids(done: Converted) -> str:
    """Where the ids come from, and whether to go by them."""
    if done.repeated:
        return (
            f"kept, but it does not tell samples apart: {done.repeated}\n"
            "     two samples of one id share a record: leave id_fn out, and a sample is known by its place in the "
            "shards; or convert anew with a column that is unique: --id FIELD"
        )
    how = "made of the place of each sample" if done.made_ids else "kept"
    if not done.made_ids and done.compared < done.samples:
        how += f" (those of the first {done.compared:,} samples differ, the others were not compared)"
    rows = ", behind .decode().map(itemgetter('json'))" if done.format == "webdataset" else ""
    return f"{how}; WeightedStream(..., id_fn={done.id!r}) goes by them{rows}"

"""Files of samples into a folder of shards, which appears when it is whole."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.types as t

from weighted_stream._version import __version__
from weighted_stream.errors import SampleIdError, SourceError, WeightedStreamError
from weighted_stream.shards.blocks import Block, Input, Row
from weighted_stream.shards.columns import is_text, names, survey
from weighted_stream.shards.convert_ids import KeptIds
from weighted_stream.shards.inputs import Per, open_input
from weighted_stream.shards.mds import INDEX
from weighted_stream.shards.side_files import FOLDER
from weighted_stream.shards.writing import ShardSize, shard_writer, write_shards
from weighted_stream.sources.ids import check_id
from weighted_stream.sources.parquet import row_ids
from weighted_stream.sources.s3 import is_s3

RECEIPT = "_converted.json"
"""What a conversion leaves beside its shards: no reader of shards looks at it."""

ID = "id"

_WRITTEN = re.compile(rf"{re.escape(RECEIPT)}|{re.escape(INDEX)}|\d{{5,}}\.(parquet|tar)|shard\.\d{{5,}}\.mds(\.\w+)?")
"""What a conversion names its files."""

_SCORES = re.compile(r".+\.parquet|\..+\.parquet\.\d+")
"""What scoring names its files, and those it has not finished."""


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        source: what was converted.
        format: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        samples: how many.
        shards: how many.
        id: the column of the ids; pass it as ``id_fn=`` where the ids shall be those of before the conversion, and
            differ.
        made_ids: whether the conversion added that column.
        columns: the type of each column, in Arrow's words.
        version: of this library.
        compared: of how many samples, from the first on, the ids were compared; 0 if they were made.
        repeated: the first id that two of these samples have, and where they are; "" if all differ.
    """

    source: str
    format: str
    samples: int
    shards: int
    id: str
    made_ids: bool
    columns: dict[str, str]
    version: str = __version__
    compared: int = 0
    repeated: str = ""


def convert(
    source: str | PathLike[str],
    folder: str | PathLike[str],
    kind: str,
    *,
    id: str | None = None,
    text: str | None = None,
    per: Per = "line",
    size: ShardSize | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int], None] = lambda step, samples: None,
) -> Converted:
    """Write the samples of files as MDS, WebDataset or Parquet shards, in bounded memory.

    The samples are read twice: for the types of their columns, and to be written. Lists and dicts become JSON in MDS
    and WebDataset, lists and structs in Parquet. The shards are written beside ``folder``, under a name that begins
    with a dot, and renamed when they are whole: an interrupted conversion leaves nothing that could be taken for one.

    Ids: a sample keeps its id column, so ``id_fn="id"`` gives it the same id before and after. Where there is none, a
    column ``id`` is written: for Parquet and Hugging Face datasets the very id that `WeightedStream` gives the row
    there, otherwise `shard_id` of the file's name and the sample's number. Ids that are kept are compared, up to the
    first 50 million (eight bytes each): two samples of one id would share a record. If ``id`` names their column that
    is refused; of a column ``id`` that nobody asked for it is told, see `Converted`.

    Args:
        source: see `open_input`.
        folder: for the shards; new or empty.
        kind: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        id: the column of the ids; None: ``"id"``, made if there is none.
        text: a column that must be there and hold text, in every sample; None: no check.
        per: what a sample of plain text is, ``"line"`` or ``"file"``.
        size: of a shard; default: 64 MiB.
        overwrite: replace the shards that an earlier conversion made, and their scores. A folder that holds anything
            else, or the source, is left as it is.
        progress: is told "reading" or "writing", and of how many samples more.

    Raises:
        SourceError: if the source cannot be read, or the format cannot hold it, or the folder is not free or cannot be
            written.
        SampleIdError: if a sample's id is missing, or neither a string nor an int in [0, 2**63), or that of another
            sample, too, in the column that ``id`` names.
        MissingExtraError: if a package for one of the formats is not installed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = Path(folder.name, "a.txt").write_text("one\\ntwo\\n")
        >>> convert(f"{folder.name}/a.txt", f"{folder.name}/shards", "parquet").samples
        2
        >>> sorted(path.name for path in Path(folder.name, "shards").iterdir())
        ['00000.parquet', '_converted.json']
        >>> folder.cleanup()
    """
    shard_writer(kind)
    folder = Path(folder).absolute()
    with _told(folder):
        opened = open_input(source, per)
    with _told(folder), _draft(folder, overwrite, source) as draft:
        schema = _columns(opened, kind, progress)
        _check_text(schema, text)
        column = ID if id is None else id
        made = column not in schema.names
        if made and id is not None:
            raise _no_column(id, schema, "the ids")
        if made:
            schema = schema.insert(0, pa.field(ID, pa.int64(), nullable=False))
        kept = KeptIds(opened, column, refuse=id is not None)
        samples = 0

        def rows() -> Iterator[Row]:
            nonlocal samples
            for block in opened.blocks():
                _check_no_text_missing(block, text)
                yield from _with_ids(block, opened, column, None if made else kept, schema.names)
                samples += len(block.rows)
                progress("writing", len(block.rows))
            kept.end()

        shards = write_shards(rows(), draft, kind, schema, size)
        types = {field.name: str(field.type) for field in schema}
        done = Converted(
            str(source),
            kind,
            samples,
            len(shards),
            column,
            made,
            types,
            compared=kept.compared,
            repeated=kept.repeated,
        )
        (draft / RECEIPT).write_text(json.dumps(asdict(done), indent=1) + "\n", encoding="utf-8")
    return done


def receipt(folder: Path) -> Converted | None:
    """What a conversion left in this folder, or None."""
    try:
        return Converted(**json.loads((folder / RECEIPT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _columns(opened: Input, kind: str, progress: Callable[[str, int], None]) -> pa.Schema:
    if opened.schema is not None and kind != "mds":  # MDS has to know which columns hold None
        schema = opened.schema
    else:

        def blocks() -> Iterator[Block]:
            for block in opened.blocks():
                _check_names(block)
                yield block
                progress("reading", len(block.rows))

        schema = survey(blocks(), opened.schema)
    list(names(schema))
    return schema


def _check_names(block: Block) -> None:
    for number, row in enumerate(block.rows, block.start):
        try:
            "".join(row).encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                "A column has a name that no file of text can hold.",
                found=f"half a surrogate pair in a name of sample {number} of {block.file}: {list(row)!r:.100}",
                expected="Unicode text",
                do="mend the name",
            ) from error


def _with_ids(block: Block, opened: Input, column: str, kept: KeptIds | None, columns: list[str]) -> Iterator[Row]:
    """The samples with all columns, their ids checked, or made if none are kept."""
    start, stop = block.start, block.start + len(block.rows)
    if kept is None:
        numbers = range(start, stop) if opened.table else row_ids(block.file, start, stop)
        for number, row in zip(numbers, block.rows, strict=True):
            yield {name: row.get(name) for name in columns} | {ID: number}
        return
    for number, row in enumerate(block.rows, start):
        try:
            key = check_id(row.get(column), f"column {column!r}")
        except SampleIdError as error:
            raise SampleIdError(
                error.problem,
                found=f"{error.found}, in sample {number} of {block.file}",
                expected=error.expected,
                do="mend the column, or name another one: --id FIELD",
            ) from error
        kept.add(key)
        yield {name: row.get(name) for name in columns}


def _check_text(schema: pa.Schema, text: str | None) -> None:
    if text is None:
        return
    if text not in schema.names:
        raise _no_column(text, schema, "the text")
    kind = schema.field(text).type
    if not is_text(kind) and not (t.is_dictionary(kind) and is_text(kind.value_type)):
        raise SourceError(
            f"The column {text!r} holds no text.",
            found=f"values of type {kind}",
            expected="strings",
            do="name the column of the text: --text FIELD",
        )


def _check_no_text_missing(block: Block, text: str | None) -> None:
    if text is None:
        return
    for number, row in enumerate(block.rows, block.start):
        if row.get(text) is None:
            raise SourceError(
                f"A sample has no text in the column {text!r}.",
                found=f"none in sample {number} of {block.file}",
                expected="text in every sample, or nobody could score it",
                do="leave the sample out, give it an empty text, or convert without --text",
            )


def _no_column(name: str, schema: pa.Schema, what: str) -> SourceError:
    return SourceError(
        f"There is no column {name!r} for {what}.",
        found=f"the columns {schema.names}",
        expected="one of them",
        do="name one of these columns",
    )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the system refuses, as an error that says what to do."""
    try:
        yield
    except (WeightedStreamError, BrokenPipeError):  # no file has a broken pipe: it is that of whoever is told
        raise
    except OSError as error:
        raise SourceError(
            f"The conversion into {folder} failed.",
            found=f"{error}",
            expected="a folder that can be made beside its draft, on a disk with room, and a source that can be read",
            do="check the paths, the permissions and the disk; what was there before is as it was",
        ) from error


@contextmanager
def _draft(folder: Path, overwrite: bool, source: str | PathLike[str]) -> Iterator[Path]:
    """A directory beside ``folder`` that takes its place when the block ends well, and is removed when it does not.

    Raises:
        SourceError: if ``folder`` is not free, or another conversion is writing to it.
    """
    folder = Path(os.path.realpath(folder))  # of a link, what it leads to
    _check_free(folder, overwrite, source)
    draft, replaced = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "replaced"))
    draft.mkdir(parents=True, exist_ok=True)
    lock = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, however the process ends
        except OSError as error:
            raise SourceError(
                f"Another conversion is writing to {folder}.",
                found=f"{draft}, in use",
                expected="one conversion at a time",
                do="wait for it, or name another folder",
            ) from error
        if replaced.exists() and not folder.exists():  # interrupted between the two renames below
            replaced.rename(folder)
        for left in draft.iterdir():  # of an interrupted conversion
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            _check_free(folder, overwrite, source)
            yield draft
            _check_free(folder, overwrite, source)
            _take_place(draft, folder, replaced)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(draft)
            raise
    finally:
        os.close(lock)


def _take_place(draft: Path, folder: Path, replaced: Path) -> None:
    """Put the draft where the folder is: at any moment, one of the two is whole."""
    shutil.rmtree(replaced, ignore_errors=True)  # of an earlier conversion that could not
    there = folder.exists()
    if there:
        folder.rename(replaced)
    try:
        draft.rename(folder)
    except BaseException:
        if there:
            replaced.rename(folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _check_free(folder: Path, overwrite: bool, source: str | PathLike[str]) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = folder.is_dir() and receipt(folder) is not None
    if not (ours and overwrite):
        raise SourceError(
            f"{folder} is not free.",
            found="the shards of an earlier conversion" if ours else "something that no conversion wrote",
            expected="a new or empty folder",
            do="pass --overwrite to replace them" if ours else "name another folder",
        )
    if not is_s3(source) and Path(os.path.realpath(source)).is_relative_to(folder):
        raise SourceError(
            "The source is in the folder that would be replaced.",
            found=f"{source}",
            expected=f"a source that is not in {folder}",
            do="name another folder, or move the source",
        )
    foreign = _foreign(folder)
    if foreign is not None:
        raise SourceError(
            f"{folder} holds something that no conversion wrote, and replacing the shards would remove it.",
            found=foreign,
            expected="shards and their scores alone",
            do="move it away, or name another folder",
        )


def _foreign(folder: Path) -> str | None:
    """The first name in a folder of shards that is neither a conversion's nor scoring's."""
    for path in sorted(folder.iterdir()):
        if path.name == FOLDER and path.is_dir():
            others = sorted(file for file in path.iterdir() if file.is_dir() or not _SCORES.fullmatch(file.name))
            if others:
                return f"{FOLDER}/{others[0].name}"
        elif path.is_dir() or not _WRITTEN.fullmatch(path.name):
            return path.name
    return None

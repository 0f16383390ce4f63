"""Side files: the scores of a shard, in a small Parquet file that anything can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from weighted_stream._version import __version__
from weighted_stream.errors import ScoringError
from weighted_stream.scoring.base import Scores
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.scored import Scored
from weighted_stream.shards.side_contents import read_footer
from weighted_stream.sources.base import Fingerprint

Ids: TypeAlias = NDArray[np.int64]

FOLDER = "_scores"
"""Where they are, beside the shards; readers of Parquet folders skip names that begin with an underscore."""

_KEY, _CHECK = b"weighted_stream.scores", b"weighted_stream.check"
_SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("score", pa.float32(), nullable=False)])
_LONGEST = 180


@dataclass(frozen=True)
class SideFile:
    """What is written in the footer of a side file.

    Attributes:
        path: where it is.
        shard: the name of the shard.
        rows: how many samples of it have a score here: all of them.
        size: of the shard when it was scored (rows, or bytes where only those are known); None if unknown.
        identity: whose scores they are.
        dataset: the fingerprint of the dataset, with this shard alone.
        version: of this library.
        contents: of the shard when it was scored, see `contents_of`; None if unknown.
    """

    path: Path
    shard: str
    rows: int
    size: int | None
    identity: ScoreIdentity
    dataset: Fingerprint
    version: str
    contents: str | None = None


def side_path(folder: Path, shard: str) -> Path:
    """Where the scores of a shard are: its name with ``%2F`` for a slash.

    Example:
        >>> side_path(Path("_scores"), "c4/shard.00017.mds").as_posix()
        '_scores/c4%2Fshard.00017.mds.parquet'
    """
    name = quote(shard, safe=" =+@,()")
    if len(name) > _LONGEST:
        name = f"{blake2b(shard.encode(), digest_size=8).hexdigest()}-{name[-_LONGEST:]}"
    return folder / f"{name}.parquet"


def write_side_file(
    folder: Path,
    shard: str,
    ids: Ids,
    scores: Scores,
    *,
    identity: ScoreIdentity,
    dataset: Fingerprint,
    size: int | None = None,
    contents: str | None = None,
) -> Path:
    """Write the scores of a shard: columns ``id`` (int64) and ``score`` (float32).

    The file appears when it is complete, so its presence says that the shard is done.

    Args:
        folder: for the side files, made if there is none.
        shard: the name of the shard.
        ids: (n,) int64, as WeightedStream gives them.
        scores: (n,) float32.
        identity: whose scores these are.
        dataset: the fingerprint of the dataset that the ids belong to.
        size: of the shard.
        contents: of the shard, see `contents_of`.

    Returns:
        The file.

    Raises:
        ScoringError: if it cannot be written.
    """
    about = {
        "shard": shard,
        "rows": len(ids),
        "size": size,
        "identity": identity.to_json(),
        "dataset": replace(dataset, shards={k: v for k, v in dataset.shards.items() if k == shard}).to_json(),
        "version": __version__,
        "contents": contents,
    }
    table = pa.table([pa.array(ids, pa.int64()), pa.array(scores, pa.float32())], schema=_SCHEMA)
    said = json.dumps(about).encode()
    table = table.replace_schema_metadata({_KEY: said, _CHECK: _digest(said, table)})
    path = side_path(folder, shard)
    draft = folder / f".{path.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(draft, "wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ScoringError(
            f"Cannot write the scores of {shard}.",
            found=f"{path}: {error.strerror or error}",
            expected="a folder that can be written, with room",
            do="check its permissions and the disk, or name another folder: --out DIR",
        ) from error
    return path


def about(path: Path) -> SideFile | None:
    """What the footer of a Parquet file says, or None if it is no side file.

    Raises:
        ScoringError: if it cannot be read.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    found = schema.metadata or {}
    if _KEY not in found and _CHECK not in found and schema.remove_metadata() != _SCHEMA:
        if _has_our_words(path):
            raise _damaged(path, ValueError("a footer that has lost what it said"))
        return None
    try:
        value: dict[str, Any] = json.loads(found[_KEY])
        identity, dataset = ScoreIdentity.from_json(value["identity"]), Fingerprint.from_json(value["dataset"])
        facts = value["shard"], value["rows"], value["size"], identity, dataset, value["version"]
        return SideFile(path, *facts, value.get("contents"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error


def _has_our_words(path: Path) -> bool:
    """Whether the footer of a Parquet file was written here, though that cannot be read from it any more."""
    footer = read_footer(path)
    return _KEY in footer or _CHECK in footer


def side_files(path: str | PathLike[str]) -> list[SideFile]:
    """The side files of a folder, or one by itself, in the order of their names.

    Raises:
        ScoringError: if there is none, one is damaged, or their scores are not of one identity.
    """
    path = Path(path)
    files = sorted(file for file in path.glob("*.parquet") if file.name[0] != ".") if path.is_dir() else [path]
    found = [side for side in map(about, files) if side is not None] if path.exists() else []
    if not found:
        raise ScoringError(
            "There are no scores here.",
            found=f"{path}" + ("" if path.exists() else ", which does not exist"),
            expected="side files that weighted-stream score wrote",
            do=f"check the path; by default they are in the folder {FOLDER} beside the shards",
        )
    known = _best_known(found)
    for side in found:
        reason = known.identity.conflict(side.identity)
        if reason is not None:
            raise ScoringError(
                f"The scores in {path} do not belong together: {reason}.",
                found=f"{side.path.name}: {side.identity.named()}",
                expected=f"as in {known.path.name}: {known.identity.named()}",
                do="score the shards again into a folder of their own",
            )
    return found


def _best_known(found: list[SideFile]) -> SideFile:
    """The first that says which field was scored, or else the first."""
    return next((side for side in found if side.identity.text is not None), found[0])


def read_side_file(path: Path) -> tuple[Ids, Scores]:
    """The ids (n,) int64 and scores (n,) float32 of one side file.

    Raises:
        ScoringError: if it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            table, said = file.read(["id", "score"]), file.schema_arrow.metadata or {}
        if table.schema.remove_metadata() != _SCHEMA or said.get(_CHECK) != _digest(said.get(_KEY, b""), table):
            raise ValueError("other bytes than were written")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return table.column("id").to_numpy(), table.column("score").to_numpy()


def read_scores(path: str | PathLike[str]) -> Scored:
    """The scores in a folder of side files, or in one of them: iterate for ``(ids, scores)``, a shard at a time.

    Args:
        path: the folder, or the file.

    Raises:
        ScoringError: if there are none, one is damaged, or their scores are not of one identity.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_side_file(
        ...         Path(folder), "0.tar", np.array([7, 8]), np.array([0.5, -0.5], np.float32),
        ...         identity=ScoreIdentity("mini", "c0ffee", "mean"), dataset=Fingerprint("webdataset", ""),
        ...     )
        ...     [(ids.tolist(), scores.tolist()) for ids, scores in read_scores(folder)]
        [([7, 8], [0.5, -0.5])]
    """
    found = side_files(path)
    dataset = found[0].dataset
    for side in found[1:]:
        dataset = dataset.merged(side.dataset)

    def batches() -> Iterator[tuple[Ids, Scores]]:
        for side in found:
            yield read_side_file(side.path)

    return Scored(_best_known(found).identity, dataset, batches)


def _digest(said: bytes, table: pa.Table) -> bytes:
    """Of all that is in a side file: Parquet itself notices no flipped bit."""
    digest = blake2b(said, digest_size=16)
    for name in ("id", "score"):
        digest.update(np.ascontiguousarray(table.column(name).to_numpy()).data)
    return digest.hexdigest().encode()


def _damaged(path: Path, error: Exception) -> ScoringError:
    return ScoringError(
        f"Cannot read the scores in {path}.",
        found=f"{type(error).__name__}: {error}",
        expected="a side file that weighted-stream score wrote",
        do="delete it and score again; what is done stays",
    )

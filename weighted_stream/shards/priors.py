"""Scores that other tools wrote into a column, as a prior: NeMo Curator, datatrove, Data-Juicer, any other."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SampleIdError, ScoringError
from weighted_stream.scoring.base import Scores
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.blocks import Block, Input
from weighted_stream.shards.folder import ShardFolder, open_shards
from weighted_stream.shards.inputs import open_input
from weighted_stream.shards.scored import Scored
from weighted_stream.sources.base import Fingerprint
from weighted_stream.sources.ids import check_id
from weighted_stream.sources.parquet import ParquetDataset, ParquetSource, row_ids

_AT_ONCE = 1 << 16
# Of the mean: what rounding makes of values that are all the same stays far below it.
_LEAST_DEVIATION = 1e-12
# Scores are float32; the squares of these still have room in a float64.
_LARGEST = float(np.finfo(np.float32).max)


def prior_scores(
    path: str | PathLike[str],
    column: str,
    *,
    id: str | None = None,
    rows_of: str | PathLike[str] | None = None,
    standardize: bool = True,
    larger_is_better: bool = True,
) -> Scored:
    """The scores in a column that another tool wrote; `load_scores` puts them into a store, for `Similarity()`.

    Where such columns are (as their sources have it):

    - NeMo Curator: columns of the JSON lines or Parquet files it writes, e.g. ``fineweb-edu-score-float`` (0 to 5) of
      its ``FineWebEduClassifier``, or the ``score_field`` of others. ``AddId`` writes ids into a column that you name.
    - datatrove: documents with ``id``, ``text`` and ``metadata``; so ``metadata.language_score`` (with
      ``expand_metadata=True`` just ``language_score``), and ``id="id"``.
    - Data-Juicer: ``__dj__stats__.perplexity``, ``__dj__stats__.flagged_words_ratio`` … (for both, less is better) in
      its result with ``keep_stats_in_res_ds``, or in ``<result>_stats.jsonl`` beside it, which has no ids but the rows
      of the result: pass ``rows_of=`` the result (or what you train on, if that has the same rows in the same order).

    Args:
        path: JSON lines or Parquet, a file or a directory; see `open_input`.
        column: the column; with dots for a value inside, ``"metadata.score"``. JSON in a string is looked into.
        id: the column of the ids (dots likewise), for a stream with ``id_fn=`` of it. None: the files at ``path`` are
            the Parquet files that you train on, whose ids are those of file and row.
        rows_of: shards whose rows are those of ``path``, in order; their ids are taken.
        standardize: subtract the mean and divide by the standard deviation, so that scores of different columns and
            temperatures for them are of one scale.
        larger_is_better: if not, the scores are negated.

    Returns:
        The scores. A sample without a value (missing, null, NaN) is left out: a warning says how many.

    Raises:
        ScoringError: if the column is missing, holds something else than numbers, or one number only; if the shards of
            ``rows_of`` have more or fewer rows (of tar files these are counted by reading them).
        SampleIdError: if nobody says whose the rows are, or an id cannot be.
        SourceError: if the files cannot be read.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name, "00000.jsonl")
        >>> lines = [{"id": i, "text": "...", "metadata": {"language_score": i / 4}} for i in range(3)]
        >>> _ = file.write_text("".join(json.dumps(line) + "\\n" for line in lines))
        >>> for ids, scores in prior_scores(file, "metadata.language_score", id="id"):
        ...     print(ids, scores.round(4))
        [0 1 2] [-1.2247  0.      1.2247]
        >>> folder.cleanup()
    """
    fields = {name for dotted in (column, id) if dotted for name in (dotted, dotted.partition(".")[0])}
    opened = open_input(path, fields=fields)
    owner = _owner(Path(path), opened, id, rows_of)
    prior = _Prior(opened, column, id, owner)
    seen = prior.survey()
    if owner.shards is not None:
        _check_rows(owner.shards, seen.count + seen.missing)
    scale, sign = 1.0 if not standardize else seen.deviation, 1.0 if larger_is_better else -1.0
    if standardize and seen.deviation <= _LEAST_DEVIATION * abs(seen.mean):
        raise ScoringError(
            f"All values of {column!r} are the same, so they say nothing.",
            found=f"{seen.mean:.10g} in all of {seen.count:,} samples",
            expected="values that differ",
            do="name another column",
        )
    if seen.missing:
        warnings.warn(
            f"{seen.missing:,} of {seen.count + seen.missing:,} samples have no {column!r}; they stay without a score.",
            stacklevel=2,
        )
    center = seen.mean if standardize else 0.0

    def batches() -> Iterator[tuple[NDArray[np.int64], Scores]]:
        pairs = prior.pairs()
        while some := list(islice(pairs, _AT_ONCE)):
            ids, values = zip(*some, strict=True)
            yield np.array(ids, np.int64), (sign * (np.array(values) - center) / scale).astype(np.float32)

    method = "prior" + (", standardized" if standardize else "") + ("" if larger_is_better else ", negated")
    return Scored(ScoreIdentity(f"column {column}", "", method), owner.fingerprint, batches)


@dataclass(frozen=True)
class _Owner:
    """Whose the rows are, where no column says."""

    fingerprint: Fingerprint | None = None
    shards: ShardFolder | None = None


def _owner(path: Path, opened: Input, id: str | None, rows_of: str | PathLike[str] | None) -> _Owner:
    if rows_of is not None and id is None:
        shards = open_shards(rows_of)
        return _Owner(shards.fingerprint, shards)
    if id is not None and rows_of is None:
        return _Owner()
    if id is None and opened.schema is not None and not opened.table:
        return _Owner(ParquetSource(ParquetDataset(path, replica=(0, 1))).fingerprint())
    raise SampleIdError(
        "It is not clear whose scores these are.",
        found="both id= and rows_of=" if id is not None else f"{path}, without id= and rows_of=",
        expected="an id column, or shards with the same rows in the same order",
        do='pass id="id" (and id_fn="id" to the stream), or rows_of= the shards',
    )


@dataclass
class _Seen:
    """Count, mean and standard deviation of what was seen so far, by blocks."""

    count: int = 0
    missing: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count)

    def add(self, values: NDArray[np.float64]) -> None:
        """Merge a block (Chan, Golub and LeVeque: stable, where a sum of squares is not)."""
        count, delta = self.count + len(values), float(values.mean()) - self.mean
        self.squares += float(((values - values.mean()) ** 2).sum()) + delta**2 * self.count * len(values) / count
        self.mean += delta * len(values) / count
        self.count = count


@dataclass(frozen=True)
class _Prior:
    """A column with the ids of its samples."""

    opened: Input
    column: str
    id: str | None
    owner: _Owner

    def survey(self) -> _Seen:
        """Read all values.

        Raises:
            ScoringError: if there are none, or one is no number.
        """
        seen, names = _Seen(), set[str]()
        for block in self.opened.blocks():
            found = [value for value in self._values(block) if value is not None]
            seen.missing += len(block.rows) - len(found)
            if found:
                seen.add(np.array(found, np.float64))
            elif not seen.count:
                names |= {name for row in block.rows for name in row}
        if not seen.count:
            raise ScoringError(
                f"There is no column {self.column!r} with a number in it.",
                found=f"the columns {sorted(names)}" if names else "no column of this name",
                expected="one of them, or a value inside of one: 'metadata.score'",
                do="name the column of the scores",
            )
        return seen

    def pairs(self) -> Iterator[tuple[int, float]]:
        """(id, value) of all samples that have a value."""
        others = None if self.owner.shards is None else _ids_of(self.owner.shards)
        for block in self.opened.blocks():
            for number, value in zip(self._ids(block, others), self._values(block), strict=True):
                if value is not None:
                    yield number, value
        if others is not None and next(others, None) is not None:
            raise _other_rows("more samples in the shards than scores")

    def _ids(self, block: Block, others: Iterator[int] | None) -> list[int]:
        start, stop = block.start, block.start + len(block.rows)
        if self.id is not None:
            where = f"column {self.id!r} of {block.file}"
            return [check_id(lookup(row, self.id), where) for row in block.rows]
        if others is None:
            return list(row_ids(block.file, start, stop))
        numbers = list(islice(others, len(block.rows)))
        if len(numbers) < len(block.rows):
            raise _other_rows("fewer samples in the shards than scores")
        return numbers

    def _values(self, block: Block) -> Iterator[float | None]:
        for number, row in enumerate(block.rows, block.start):
            value = lookup(row, self.column)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                yield None
            elif isinstance(value, (int, float)) and abs(value) <= _LARGEST:
                yield float(value)
            else:
                raise ScoringError(
                    f"A value of {self.column!r} cannot be a score.",
                    found=f"{str(value)[:40]} ({type(value).__name__}) in sample {number} of {block.file}",
                    expected="finite numbers that a float32 can hold, or null where there is none",
                    do="name the column of the scores",
                )


def lookup(row: Mapping[str, Any], dotted: str) -> Any:
    """The value under a name, or inside values, strings of JSON included; None if there is none.

    Example:
        >>> row = {"a.b": 1, "stats": {"perplexity": 2.5}, "more": '{"score": 3}'}
        >>> lookup(row, "a.b"), lookup(row, "stats.perplexity"), lookup(row, "more.score"), lookup(row, "a")
        (1, 2.5, 3, None)
    """
    if dotted in row:
        return row[dotted]
    name, _, rest = dotted.partition(".")
    inner = row.get(name)
    if isinstance(inner, str) and inner.startswith("{"):
        try:
            inner = json.loads(inner)
        except (ValueError, RecursionError):
            return None
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else None


def _ids_of(opened: ShardFolder) -> Iterator[int]:
    for shard in opened.shards:
        ids = shard.ids()
        yield from (number for number, _ in shard.read()) if ids is None else ids.tolist()


def _check_rows(opened: ShardFolder, rows: int) -> None:
    """Compare the numbers of rows before any score is handed out under the id of another sample.

    Raises:
        ScoringError: if the shards have not as many.
    """
    samples = 0
    for shard in opened.shards:
        # The size of a tar file is in bytes.
        samples += sum(1 for _ in shard.read()) if shard.tar or shard.size is None else shard.size
    if samples != rows:
        raise _other_rows(f"{samples:,} samples in the shards, {rows:,} rows of scores")


def _other_rows(found: str) -> ScoringError:
    return ScoringError(
        "The shards do not have the rows of the scores.",
        found=found,
        expected="the same rows in the same order",
        do="pass rows_of= the very shards that the scores were computed on, or use an id column",
    )

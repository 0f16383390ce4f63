"""One scoring job: which shards, which scorer, where the scores go; and the scoring of one shard of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from weighted_stream.errors import ScoringError, SourceError
from weighted_stream.scoring.base import Scorer, Scores
from weighted_stream.scoring.fields import NoTextError
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.folder import Shard, ShardFolder, open_shards
from weighted_stream.shards.scorers import ScorerSpec
from weighted_stream.shards.side_contents import contents_of
from weighted_stream.shards.side_files import FOLDER, about, side_path, write_side_file

BATCH = 2048
"""Samples that are handed to the scorer together."""


@dataclass(frozen=True)
class ScoringJob:
    """What is to be scored, and how. It pickles: each process of a job opens the shards for itself.

    Attributes:
        shards: directory, file or glob pattern.
        spec: of the scorer.
        id: the column of the ids; None: ids by shard and row, or shard and key.
        out: folder for the side files; None: ``_scores`` beside the shards.
        skip: go on without shards that cannot be read.
    """

    shards: str
    spec: ScorerSpec
    id: str | None = None
    out: Path | None = None
    skip: bool = False

    def open(self) -> ShardFolder:
        """The shards.

        Raises:
            SourceError: if there are none, or they cannot be opened.
        """
        columns = [self.spec.text] if self.id in (None, self.spec.text) else [self.spec.text, str(self.id)]
        return open_shards(self.shards, id=self.id, columns=columns, skip=self.skip)

    def folder(self, opened: ShardFolder) -> Path:
        """Where the side files go.

        Raises:
            ScoringError: for shards in S3, if no folder is named; for a folder in which the side files would be read
                as shards.
        """
        if self.out is not None:
            if not os.path.isfile(self.shards):  # beside a file, nothing else is read
                _refuse_among_shards(self.out, opened)
            return self.out
        if opened.root is None:
            raise ScoringError(
                "There is no place for the scores of shards in S3.",
                found="no folder",
                expected="a folder on this machine",
                do="name one with --out DIR",
            )
        return opened.root / FOLDER


def _refuse_among_shards(out: Path, opened: ShardFolder) -> None:
    if opened.root is None or opened.kind == "mds":  # an index.json says which files are MDS shards
        return
    # Readers follow links: neither the way there nor the place itself may be among the shards.
    for real in (os.path.abspath, os.path.realpath):
        path, root = Path(real(out)), Path(real(opened.root))
        if path.is_relative_to(root) and not any(part[0] in "._" for part in path.relative_to(root).parts):
            raise ScoringError(
                "The scores would lie among the shards, and be read as shards.",
                found=f"{out}, within {opened.root}",
                expected="a folder elsewhere, or one whose name begins with _ or .",
                do=f"name another with --out DIR, or leave it out: the default is {opened.root / FOLDER}",
            )


def score_shard(
    shard: Shard,
    opened: ShardFolder,
    scorer: Scorer,
    out: Path,
    progress: Callable[[int], None] = lambda samples: None,
) -> int:
    """Score a shard and write its side file.

    Args:
        shard: one of ``opened``.
        opened: the shards.
        scorer: makes the scores.
        out: folder for the side file.
        progress: is told of how many samples more.

    Returns:
        How many samples it has.

    Raises:
        SourceError: if the shard cannot be read.
        ScoringError: if a sample has no such field, or the side file cannot be written.
    """
    ids: list[int] = []
    scores: list[Scores] = []
    contents = contents_of(opened, shard.name)  # before it is read: if it changes meanwhile, it is scored again
    samples = shard.read()
    while batch := list(islice(samples, BATCH)):
        ids += [number for number, _ in batch]
        try:
            scores.append(scorer.score([row for _, row in batch]))
        except NoTextError as error:
            row = len(ids) - len(batch) + error.row
            raise error.at(f"row {row:,} of {shard.name} (sample {batch[error.row][0]})") from error
        except ScoringError as error:
            raise ScoringError(
                error.problem, found=f"{error.found}, in {shard.name}", expected=error.expected, do=error.do
            ) from error
        progress(len(batch))
    write_side_file(
        out,
        shard.name,
        np.array(ids, np.int64),
        np.concatenate([np.empty(0, np.float32), *scores]),
        identity=scorer.identity,
        dataset=opened.fingerprint,
        size=shard.size,
        contents=contents,
    )
    return len(ids)


def pending(opened: ShardFolder, out: Path, identity: ScoreIdentity, overwrite: bool = False) -> list[Shard]:
    """The shards that have no scores of this identity yet, or have changed since they were scored.

    A change shows in the size, and for shards on this machine in what `contents_of` tells; what an older side file does
    not say counts as unchanged.

    Raises:
        ScoringError: if there are scores of another identity, or of other ids, and ``overwrite`` is not set.
    """
    left = []
    for shard in opened.shards:
        path = side_path(out, shard.name)
        side = about(path) if path.exists() and not overwrite else None
        if side is None:
            left.append(shard)
            continue
        reason = identity.conflict(side.identity) or _other_ids(opened, side.dataset.kind, side.dataset.name)
        if reason is not None:
            raise ScoringError(
                f"The folder {out} holds other scores: {reason}.",
                found=f"{path.name}: {side.identity.named()}",
                expected=f"{identity.named()}, or no scores",
                do="name another folder with --out DIR, or replace them with --overwrite",
            )
        if side.size != shard.size or _other_contents(side.contents, contents_of(opened, shard.name)):
            left.append(shard)
    return left


def refuse_unreadable(opened: ShardFolder, skip: bool) -> dict[str, SourceError]:
    """The shards that could not even be opened; without ``skip`` the first of them is raised."""
    for error in opened.unreadable.values():
        if not skip:
            raise error
    return dict(opened.unreadable)


def _other_contents(before: str | None, now: str | None) -> bool:
    return before is not None and now is not None and before != now


def _other_ids(opened: ShardFolder, kind: str, name: str) -> str | None:
    ours = opened.fingerprint
    if (kind, name) == (ours.kind, ours.name):
        return None
    return f"ids of {kind} ({name}) instead of {ours.kind} ({ours.name})"

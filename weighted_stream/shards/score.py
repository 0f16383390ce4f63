"""Score all shards of a folder, a side file each: here, or in several processes; what is done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from weighted_stream.errors import SourceError
from weighted_stream.scoring.base import Scorer
from weighted_stream.shards.folder import Shard, ShardFolder
from weighted_stream.shards.job import ScoringJob, pending, refuse_unreadable, score_shard
from weighted_stream.shards.workers import Bad, Done, Event, Samples, Workers

Progress: TypeAlias = Callable[[Event], None]


@dataclass
class Report:
    """What came of a job.

    Attributes:
        scored: shards scored now.
        samples: in them.
        before: shards that had their scores already.
        bad: shards that cannot be read, with the error.
    """

    scored: int = 0
    samples: int = 0
    before: int = 0
    bad: dict[str, SourceError] = field(default_factory=dict)


def score_shards(
    job: ScoringJob,
    *,
    devices: Sequence[str | None] = (None,),
    overwrite: bool = False,
    begin: Callable[[Sequence[Shard]], Progress] = lambda shards: lambda event: None,
) -> Report:
    """Score the shards of a job that have no scores yet.

    A side file appears when it is complete, so however this ends, only shards in flight are lost.

    Args:
        job: what is to be scored.
        devices: one per process: with one, the scoring is done in this process, else in new ones (spawn). None is what
            the encoder chooses.
        overwrite: score all of them, whatever there is.
        begin: is told which shards will be scored, and returns what is to be told of each event.

    Raises:
        SourceError: if there are no shards, or one cannot be read and ``job.skip`` is not set.
        ScoringError: if target, encoder or a sample cannot be used, or there are scores of another identity.
    """
    opened = job.open()
    report = Report(bad=refuse_unreadable(opened, job.skip))
    out = job.folder(opened)

    def follow(left: Sequence[Shard]) -> Progress:
        report.before = len(opened.shards) - len(left)
        progress = begin(left)

        def tell(event: Event) -> None:
            progress(event)
            _count(event, report, job.skip)

        return tell

    if len(devices) == 1:
        scorer = job.spec.make(devices[0])
        left = pending(opened, out, scorer.identity, overwrite)
        _score_here(left, opened, scorer, out, follow(left))
    else:
        with Workers(job, devices) as workers:
            left = pending(opened, out, workers.identity(), overwrite)
            tell = follow(left)
            for event in workers.run([shard.name for shard in left]):
                tell(event)
    return report


def _score_here(left: Sequence[Shard], opened: ShardFolder, scorer: Scorer, out: Path, tell: Progress) -> None:
    event: Event
    for shard in left:
        try:
            event = Done(shard.name, score_shard(shard, opened, scorer, out, lambda count: tell(Samples(count))))
        except SourceError as error:
            event = Bad(shard.name, error)
        tell(event)


def _count(event: Event, report: Report, skip: bool) -> None:
    if isinstance(event, Done):
        report.scored += 1
        report.samples += event.samples
    elif isinstance(event, Bad):
        if not skip:
            raise event.error
        report.bad[event.shard] = event.error

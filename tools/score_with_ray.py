"""Score shards on a Ray cluster: what ``weighted-stream score`` does, for a corpus that outgrows one machine.

    python tools/score_with_ray.py SHARDS --target FILE --actors 16 --gpus-per-actor 1

The arguments, the side files and what happens on a second run are those of ``weighted-stream score``. Names of shards
travel through Ray, not samples: each actor has an encoder and reads the shards it is given. So SHARDS, FILE and the
folder of the side files have to be on a file system that all nodes have under the same path, and this library has to be
installed on all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weighted_stream.cli.options import positive
from weighted_stream.cli.score import add_arguments, print_report, scoring_job, shard_progress
from weighted_stream.errors import ScoringError, SourceError, WeightedStreamError, missing_extra
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.job import ScoringJob, pending, refuse_unreadable, score_shard
from weighted_stream.shards.score import Report
from weighted_stream.shards.workers import Bad, Done, Samples
from weighted_stream.sources.s3 import is_s3

FACTS = ("problem", "found", "expected", "do")


class ScoreShards:
    """An actor: scores the shards whose names it is given, with an encoder of its own.

    Args:
        job: what is to be scored.
    """

    def __init__(self, job: ScoringJob) -> None:
        self._scorer = job.spec.make()  # Ray shows each actor its own GPUs only
        self._opened = job.open()
        self._out = job.folder(self._opened)
        self._shards = {shard.name: shard for shard in self._opened.shards}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns ``shard``, ``samples`` and ``error``: the kind of error and its facts, or an empty list."""
        rows = [self._score(str(name)) for name in batch["shard"]]
        return {name: [row[name] for row in rows] for name in ("shard", "samples", "error")}

    def _score(self, name: str) -> dict[str, Any]:
        try:
            samples = score_shard(self._shards[name], self._opened, self._scorer, self._out)
        except WeightedStreamError as error:
            facts = [str(getattr(error, fact)) for fact in FACTS]
            return {"shard": name, "samples": 0, "error": [type(error).__name__, *facts]}
        return {"shard": name, "samples": samples, "error": []}


def whose_scores(job: ScoringJob) -> ScoreIdentity:
    """The identity of the scores: asked where the encoder can run, which may not be here."""
    return job.spec.make().identity


def score_with_ray(
    job: ScoringJob, *, actors: int, gpus: float = 0.0, cpus: float = 1.0, overwrite: bool = False
) -> Report:
    """Score the shards of a job that have no scores yet, on the cluster that Ray is connected to.

    Args:
        job: what is to be scored, with paths that all nodes have.
        actors: how many at most score at once.
        gpus: GPUs per actor; a fraction lets actors share one.
        cpus: processor cores per actor.
        overwrite: score all of them, whatever there is.

    Raises:
        SourceError: if there are no shards, or one cannot be read and ``job.skip`` is not set.
        ScoringError: if target, encoder or a sample cannot be used, or there are scores of another identity.
    """
    import ray.data

    opened = job.open()
    report = Report(bad=refuse_unreadable(opened, job.skip))
    try:
        identity = ray.get(ray.remote(whose_scores).options(num_gpus=gpus, num_cpus=cpus).remote(job))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, WeightedStreamError) else error from None
    left = pending(opened, job.folder(opened), identity, overwrite)
    report.before = len(opened.shards) - len(left)
    if not left:
        return report
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours knows samples
    # A block per shard, so that shards are dealt one by one.
    names = ray.data.from_items([{"shard": shard.name} for shard in left], override_num_blocks=len(left))
    results = names.map_batches(
        ScoreShards,
        fn_constructor_kwargs={"job": job},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(left))),
        num_gpus=gpus,
        num_cpus=cpus,
    )
    bar, tell = shard_progress(left)
    with bar:
        for row in results.iter_rows():
            name, samples, facts = row["shard"], int(row["samples"]), [str(fact) for fact in row["error"]]
            if facts:
                problem = _error(facts)
                if not (job.skip and isinstance(problem, SourceError)):
                    raise problem
                tell(Bad(name, problem))
                report.bad[name] = problem
            else:
                tell(Samples(samples))
                tell(Done(name, samples))
                report.scored += 1
                report.samples += samples
    return report


def _error(facts: Sequence[str]) -> WeightedStreamError:
    kind = SourceError if facts[0] == SourceError.__name__ else ScoringError
    problem, found, expected, do = facts[1:]
    return kind(problem, found=found, expected=expected, do=do)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; its exit status."""
    parser = argparse.ArgumentParser(description="Score shards on a Ray cluster, as weighted-stream score does.")
    add_arguments(parser)
    parser.add_argument("--actors", type=positive, default=1, metavar="N", help="at most so many (default: 1)")
    parser.add_argument("--gpus-per-actor", type=float, default=0.0, metavar="X", help="may be a fraction (default: 0)")
    parser.add_argument("--cpus-per-actor", type=float, default=1.0, metavar="X", help="(default: 1)")
    parser.add_argument("--address", metavar="ADDRESS", help="of a running cluster (default: that of the environment)")
    arguments = parser.parse_args(argv)
    try:
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "ray") from error
        if not ray.is_initialized():
            ray.init(address=arguments.address)
        report = score_with_ray(
            _everywhere(scoring_job(arguments)),
            actors=arguments.actors,
            gpus=arguments.gpus_per_actor,
            cpus=arguments.cpus_per_actor,
            overwrite=arguments.overwrite,
        )
    except WeightedStreamError as error:
        print(f"score_with_ray: {error}", file=sys.stderr)
        return 1
    print_report(report)
    return 0


def _everywhere(job: ScoringJob) -> ScoringJob:
    """The job with absolute paths, as actors work in other directories."""
    spec = replace(job.spec, target=os.path.abspath(job.spec.target))
    if Path(spec.encoder).exists():
        spec = replace(spec, encoder=os.path.abspath(spec.encoder))
    out = None if job.out is None else job.out.absolute()
    return replace(job, shards=job.shards if is_s3(job.shards) else os.path.abspath(job.shards), spec=spec, out=out)


if __name__ == "__main__":
    sys.exit(main())

"""``weighted-stream score``: how much each sample of the shards resembles a target set, as side files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from weighted_stream.cli.options import positive
from weighted_stream.progress import progress_bar
from weighted_stream.shards.folder import Shard
from weighted_stream.shards.job import ScoringJob
from weighted_stream.shards.score import Progress, Report, score_shards
from weighted_stream.shards.scorers import ScorerSpec
from weighted_stream.shards.sending import ScoreSender
from weighted_stream.shards.workers import Bad, Done, Event, Samples
from weighted_stream.store import SharedStore
from weighted_stream.store.shared_address import PASSWORD, USERNAME

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "score",
        help="score shards by their likeness to a target set, into Parquet side files",
        description="Writes a Parquet file of id and score for each shard (MDS, WebDataset, Parquet). Shards that are "
        "done are not scored again, so an interrupted job goes on where it was. load_scores(stream, DIR) puts the "
        "scores into a stream's store, where Similarity() uses them; --store brings them to trainers at once "
        f"(keep user and password in {USERNAME} and {PASSWORD}, rather than in the URL).",
    )
    add_arguments(parser)
    add = parser.add_argument
    add("--processes", type=positive, metavar="N", help="at once, each with an encoder (default: one per device)")
    add(
        "--store", metavar="URL", help="also put the scores into a SharedStore: redis://host:6379/0, rediss://… for TLS"
    )
    add("--store-name", default="weights", metavar="NAME", help="of the shared store (default: weights)")
    add("--store-ca", metavar="FILE", help="whom to trust with TLS, PEM (default: whom the system trusts)")
    add("--device", metavar="LIST", help="cpu, or GPUs dealt to the processes: cuda:0,cuda:1 (default: the encoder's)")
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is to be scored and how; the job on a cluster has the same."""
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="folder, file or glob pattern of MDS, WebDataset or Parquet shards; s3://")
    add("--target", required=True, metavar="FILE", help=".jsonl, .jsonl.gz or .parquet: what to become good at")
    add("--encoder", default="hashed", metavar="NAME", help="hashed (default), a sentence encoder, or module:function")
    add("--text", default="text", metavar="FIELD", help="of a sample (default: text)")
    add("--target-text", metavar="FIELD", help="of a target sample (default: as --text)")
    add("--id", metavar="FIELD", help="the column that the stream is given as id_fn= (default: none is)")
    add("--score", choices=("mean", "max", "top-k", "centroids"), default="mean", help="of the cosines (default: mean)")
    add("--k", type=positive, metavar="N", help="for top-k (default: 5) and centroids (default: 8)")
    add("--out", type=Path, metavar="DIR", help="for the side files (default: SHARDS/_scores)")
    add("--overwrite", action="store_true", help="score all shards again")
    add("--on-bad-shard", choices=("raise", "skip"), default="raise", help="that cannot be read (default: raise)")


def scoring_job(arguments: argparse.Namespace) -> ScoringJob:
    """The job that the arguments describe."""
    spec = ScorerSpec(
        target=arguments.target,
        encoder=arguments.encoder,
        text=arguments.text,
        target_text=arguments.target_text,
        score=arguments.score,
        k=arguments.k,
    )
    return ScoringJob(arguments.shards, spec, arguments.id, arguments.out, arguments.on_bad_shard == "skip")


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    named: list[str | None] = [*arguments.device.split(",")] if arguments.device else [None]
    devices = [named[i % len(named)] for i in range(arguments.processes or len(named))]
    job = scoring_job(arguments)
    bars: list[Any] = []

    def begin(shards: Sequence[Shard]) -> Progress:
        bar, show = shard_progress(shards)
        bars.append(bar)

        def tell(event: Event) -> None:
            show(event)
            if sender is not None:
                sender.tell(event)

        return tell

    try:
        with ExitStack() as stack:
            sender = _sender(arguments, job, stack)
            report = score_shards(job, devices=devices, overwrite=arguments.overwrite, begin=begin)
            if sender is not None:
                sender.finish()
    except KeyboardInterrupt:
        print("weighted-stream: interrupted; the same command goes on with the shards that are left", file=sys.stderr)
        return INTERRUPTED
    finally:
        for bar in bars:
            bar.close()
    print_report(report)
    if sender is not None:
        print(f"{sender.sent:,} scores are in the shared store {arguments.store_name!r}")
    return 0


def _sender(arguments: argparse.Namespace, job: ScoringJob, stack: ExitStack) -> ScoreSender | None:
    if arguments.store is None:
        return None
    store = SharedStore(arguments.store, name=arguments.store_name, ca_file=arguments.store_ca, follow=False)
    opened = job.open()
    return ScoreSender(stack.enter_context(store), job.folder(opened), opened.fingerprint)


def shard_progress(shards: Sequence[Shard]) -> tuple[Any, Progress]:
    """A progress bar over samples where the shards say how many they have, else over shards."""
    rows = [shard.size for shard in shards if shard.size is not None and not shard.tar]
    by_sample = len(rows) == len(shards)
    bar = progress_bar("scoring", "sample" if by_sample else "shard", sum(rows) if by_sample else len(shards))

    def tell(event: Event) -> None:
        if isinstance(event, Samples) and by_sample:
            bar.update(event.count)
        elif isinstance(event, (Done, Bad)):
            bar.set_postfix_str(event.shard, refresh=False)
            bar.update(0 if by_sample else 1)

    return bar, tell


def print_report(report: Report) -> None:
    """Say what was done, and name what could not be."""
    before = f"; {report.before:,} had their scores" if report.before else ""
    print(f"{report.samples:,} samples in {report.scored:,} shards scored{before}")
    if report.bad:
        print(f"{len(report.bad):,} shards left out, as they cannot be read:")
        for name, error in report.bad.items():
            print(f"  {name}: {error.found}")

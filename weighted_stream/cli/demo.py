"""``weighted-stream demo``: a small GPT trained on weighted real text, beside the same one trained uniformly."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weighted_stream.cli.options import not_negative, option, positive, table
from weighted_stream.demo.corpus import Corpus, file_corpus, installed_corpus
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.shards import FORMATS, read_shards, write_shards
from weighted_stream.demo.tokenizer import BPE
from weighted_stream.demo.train import Curve, endless, train
from weighted_stream.errors import MissingExtraError, SourceError, missing_extra
from weighted_stream.strategies import Strategy, Uniform, make_strategy, strategy_names
from weighted_stream.stream import WeightedStream

BATCH = 64
MARKER = ".weighted-stream-demo"


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "demo",
        help="train a small model on weighted real text and compare with uniform training",
        description="Builds MDS, WebDataset and Parquet shards of real text (the installed Python packages', "
        "or a file's), trains the same small GPT uniformly and with a strategy from one of them, and compares.",
    )
    add = parser.add_argument
    add("--strategy", default="linupper", metavar="NAME", help=f"one of {', '.join(strategy_names())}")
    add("--option", type=option, action="append", default=[], metavar="NAME=VALUE", help="of the strategy: r=0.4")
    add("--format", choices=sorted(FORMATS), default="mds", help="the shards to train from (default: mds)")
    add("--data", type=Path, metavar="FILE", help="text of your own: .jsonl or .parquet (field text), or .txt")
    add("--target", type=Path, metavar="FILE", help="with --data: text that training should become good at")
    add("--steps", type=positive, default=200, metavar="N", help="training steps of 64 texts (default: 200)")
    add("--seed", type=not_negative, default=0, metavar="N", help="of texts, order and model (default: 0)")
    add("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="for results (default: runs/demo)")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    if arguments.target is not None and arguments.data is None:
        arguments.usage_error("--target needs --data")
    # What may be missing or wrong is found out before the work begins.
    from weighted_stream.demo.plot import draw

    strategy = make_strategy(arguments.strategy, **dict(arguments.option))
    label = " ".join([arguments.strategy, *(f"{name}={value}" for name, value in arguments.option)])
    # Threads help a model this small little, and so the numbers do not depend on how many cores there are.
    torch.set_num_threads(1)
    out = prepare_folder(arguments.out)
    began = time.perf_counter()

    corpus = read_corpus(arguments)
    build_shards(corpus, out / "shards", arguments.format)
    texts = [sample.text for sample in corpus.train]
    bpe = BPE(texts)
    context = GPTConfig.context
    frequencies = torch.bincount(bpe.encode(texts, context + 1).flatten(), minlength=bpe.vocab)
    sets = {"target": corpus.target, "rest": corpus.rest}
    held_out = {name: bpe.encode([s.text for s in sets[name]], context + 1) for name in sets if sets[name]}

    curves: dict[str, Curve] = {}
    for name, chosen, store in (("uniform", Uniform(), None), (label, strategy, out / "weights")):
        data = read_shards(out / "shards" / arguments.format, arguments.format, arguments.seed, BATCH)
        model = GPT(GPTConfig(vocab=bpe.vocab), frequencies=frequencies, seed=arguments.seed)
        shown = name if name not in curves else f"{name} again"
        curves[shown] = train_one(data, chosen, store, bpe, model, held_out, arguments, shown)
        del data
        gc.collect()  # a StreamingDataset holds its folder until it is gone

    print(f"\n{compare(curves)}\n")
    draw(curves, out / "demo.png", f"{arguments.format} shards, {len(texts):,} texts, {corpus.repeats:.0%} repeats")
    write_figures(out / "demo.json", arguments, corpus, curves)
    print(f"plot: {out / 'demo.png'}   figures: {out / 'demo.json'}   losses and weights: {out / 'weights'}")
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def prepare_folder(out: Path) -> Path:
    """A folder for the results, with nothing of an earlier demo in it.

    Raises:
        SourceError: if there are files in it that no demo wrote, or it cannot be made.
    """
    try:
        if out.is_dir() and any(out.iterdir()) and not (out / MARKER).exists():
            raise SourceError(
                "The demo would write over these files.",
                found=f"{out} is not empty, and no demo wrote it",
                expected="a new or empty folder, or that of an earlier demo",
                do="name another one: --out DIR",
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
    except OSError as error:
        raise SourceError(
            "The demo cannot write its results.",
            found=f"{out}: {error.strerror}",
            expected="a folder that can be made and written",
            do="name another one: --out DIR",
        ) from error
    for folder in ("shards", "weights"):
        shutil.rmtree(out / folder, ignore_errors=True)
    return out


def read_corpus(arguments: argparse.Namespace) -> Corpus:
    """The text of the packages, or of the file; says what there is."""
    start = time.perf_counter()
    size = max(12_800, arguments.steps * BATCH)
    if arguments.data is None:
        corpus = installed_corpus(arguments.seed, size)
        origin = f"{len({s.package for s in corpus.train}):,} packages"
    else:
        corpus = file_corpus(arguments.data, arguments.target, seed=arguments.seed, size=size)
        origin = arguments.data.name
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in corpus.kinds().items())
    print(f"text    {len(corpus.train):,} pieces of {origin}, {corpus.repeats:.0%} of them exact repeats")
    print(f"        {kinds}")
    print(f"        held out: {len(corpus.target)} target, {len(corpus.rest)} rest", end="")
    print(f"   ({time.perf_counter() - start:.1f} s)", flush=True)
    return corpus


def build_shards(corpus: Corpus, folder: Path, wanted: str) -> None:
    """Shards of all formats whose library is installed; says which.

    Raises:
        MissingExtraError: if the library of the ``wanted`` format is not.
    """
    for kind in (wanted, *sorted(FORMATS.keys() - {wanted})):
        try:
            shards = write_shards(corpus.train, folder / kind, kind)
        except MissingExtraError as error:
            if kind == wanted:
                raise
            print(f"shards  {kind}: left out; {error.do}")
        else:
            size = sum(path.stat().st_size for path in shards) / 1e6
            print(f"shards  {kind}: {len(shards)} of {size:.1f} MB in all", flush=True)


class Encode:
    """A collate function: dicts with ``text`` to tokens (B, T + 1) int64."""

    def __init__(self, bpe: BPE, length: int) -> None:
        self.bpe, self.length = bpe, length

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """The tokens of a list of samples."""
        return self.bpe.encode([sample["text"] for sample in samples], self.length)


def train_one(
    data: Any,
    strategy: Strategy,
    store: Path | None,
    bpe: BPE,
    model: GPT,
    held_out: Mapping[str, Tensor],
    arguments: argparse.Namespace,
    label: str,
) -> Curve:
    """Train one model, with a progress bar."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise missing_extra("tqdm", "cli") from error
    steps: int = arguments.steps
    every = 0.2 if sys.stderr.isatty() else 15.0  # a line of a log at a time
    with (
        WeightedStream(data, strategy, store=store) as stream,
        tqdm(total=steps, desc=label, unit="step", mininterval=every) as bar,
    ):

        def on_step(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()

        loader = stream.loader(batch_size=BATCH, collate_fn=Encode(bpe, model.config.context + 1))
        return train(
            endless(loader),
            model,
            steps=steps,
            held_out=held_out,
            evaluate_every=max(1, steps // 20),
            on_step=on_step,
        )


def compare(curves: Mapping[str, Curve]) -> str:
    """The table at the end."""
    uniform, weighted = curves.values()
    rows = [["", *curves]]
    for name in uniform.losses:
        rows.append([f"loss on held-out {name}", f"{uniform.final(name):.3f}", f"{weighted.final(name):.3f}"])
    for name in uniform.losses:
        reached = [curve.steps_to(name, uniform.final(name)) for curve in curves.values()]
        steps = ["never" if step is None else str(step) for step in reached]
        rows.append([f"steps to uniform's final loss, {name}", *steps])
    rows.append(["effective sample size", *(f"{statistics.mean(c.ess):.0%}" for c in curves.values())])
    rows.append(["samples/s", *(f"{c.samples_per_second():,.0f}" for c in curves.values())])
    return table(rows)


def write_figures(path: Path, arguments: argparse.Namespace, corpus: Corpus, curves: Mapping[str, Curve]) -> None:
    """Everything that was measured, as JSON."""
    figures = {
        "strategy": arguments.strategy,
        "options": dict(arguments.option),
        "format": arguments.format,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "texts": len(corpus.train),
        "repeats": corpus.repeats,
        "kinds": corpus.kinds(),
        "curves": {name: asdict(curve) for name, curve in curves.items()},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

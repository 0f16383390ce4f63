"""``weighted-stream demo``: a small GPT trained on weighted real text, beside the same one trained uniformly."""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weighted_stream.cli.demo_outcome import compare, write_figures
from weighted_stream.cli.options import not_negative, option, positive
from weighted_stream.cli.report import write_page
from weighted_stream.demo.corpus import Corpus, file_corpus, installed_corpus
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.named_strategy import NamedStrategy
from weighted_stream.demo.shards import FORMATS, read_shards, write_shards
from weighted_stream.demo.tokenizer import BPE
from weighted_stream.demo.train import Curve, endless, train
from weighted_stream.errors import MissingExtraError, SourceError
from weighted_stream.progress import progress_bar
from weighted_stream.report.build import Options, build
from weighted_stream.strategies import Strategy, strategy_names
from weighted_stream.stream import WeightedStream

BATCH = 64
MARKER = ".weighted-stream-demo"
PAGE = "report.html"


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "demo",
        help="train a small model on weighted real text and compare with uniform training",
        description="Builds MDS, WebDataset and Parquet shards of real text (the installed Python packages', "
        "or a file's), trains the same small GPT uniformly and with each strategy from one of them, and compares.",
    )
    add = parser.add_argument
    add(
        "--strategy",
        action=AddStrategy,
        dest="strategies",
        metavar="NAME",
        help=f"one of {', '.join(strategy_names())}; may be repeated (default: linupper, similarity)",
    )
    add("--option", type=option, action=AddOption, metavar="NAME=VALUE", help="of the --strategy before it: r=0.4")
    add("--format", choices=sorted(FORMATS), default="mds", help="the shards to train from (default: mds)")
    add("--data", type=Path, metavar="FILE", help="text of your own: .jsonl or .parquet (field text), or .txt")
    add("--target", type=Path, metavar="FILE", help="with --data: text that training should become good at")
    add("--steps", type=positive, default=200, metavar="N", help="training steps of 64 texts (default: 200)")
    add("--seed", type=not_negative, default=0, metavar="N", help="of texts, order and model (default: 0)")
    add("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="for results (default: runs/demo)")
    parser.set_defaults(run=run, strategies=[], usage_error=parser.error)


class AddStrategy(argparse.Action):
    """``--strategy NAME``: one more."""

    def __call__(self, parser: Any, arguments: Any, value: Any, option_string: str | None = None) -> None:
        """Keep it."""
        arguments.strategies = [*arguments.strategies, NamedStrategy(value)]


class AddOption(argparse.Action):
    """``--option NAME=VALUE``: of the strategy named last."""

    def __call__(self, parser: Any, arguments: Any, value: Any, option_string: str | None = None) -> None:
        """Give it to that strategy."""
        if not arguments.strategies:
            parser.error("--option needs a --strategy before it")
        *before, last = arguments.strategies
        arguments.strategies = [*before, NamedStrategy(last.name, {**last.options, value[0]: value[1]})]


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    if arguments.target is not None and arguments.data is None:
        arguments.usage_error("--target needs --data")
    choices = chosen(arguments)
    # What may be missing or wrong is found out before the work begins.
    from weighted_stream.demo.plot import draw

    for choice in choices:
        choice.check()
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
    examples = [sample.text for sample in corpus.examples]

    curves: dict[str, Curve] = {}
    for choice in (NamedStrategy("uniform"), *choices):
        label = choice.label
        while label in curves:
            label += " again"
        strategy, store = choice.make(examples), out / "weights" / folder_name(label)
        data = read_shards(out / "shards" / arguments.format, arguments.format, arguments.seed, BATCH)
        model = GPT(GPTConfig(vocab=bpe.vocab), frequencies=frequencies, seed=arguments.seed)
        curves[label] = train_one(data, strategy, store, bpe, model, held_out, arguments.steps, label)
        del data
        gc.collect()  # a StreamingDataset holds its folder until it is gone

    print(f"\n{compare(curves)}\n")
    draw(curves, out / "demo.png", f"{arguments.format} shards, {len(texts):,} texts, {corpus.repeats:.0%} repeats")
    settings = {
        "strategies": [{"name": choice.name, "options": dict(choice.options)} for choice in choices],
        **{name: getattr(arguments, name) for name in ("format", "steps", "seed")},
    }
    write_figures(out / "demo.json", settings, corpus, curves)
    print(f"plot: {out / 'demo.png'}   figures: {out / 'demo.json'}   losses and weights: {out / 'weights'}")
    first, *second = [out / "weights" / folder_name(label) for label in curves][1:3]
    write_page(build(first, next(iter(second), None), Options(data=out / "shards" / arguments.format)), out / PAGE)
    print(f"report: {out / PAGE}   open it in a browser")
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def folder_name(label: str) -> str:
    """Where a run's store is, of what tables call the run.

    Example:
        >>> folder_name("linupper r=0.4")
        'linupper-r-0.4'
    """
    return re.sub(r"[^\w.]+", "-", label)


def chosen(arguments: argparse.Namespace) -> list[NamedStrategy]:
    """The strategies asked for, or else LinUpper and, where there is a target, Similarity."""
    target = arguments.data is None or arguments.target is not None
    if not arguments.strategies:
        if not target:
            print("similarity is left out: it needs a target (--target FILE)")
        return [NamedStrategy("linupper"), NamedStrategy("similarity")] if target else [NamedStrategy("linupper")]
    for choice in arguments.strategies:
        if choice.needs_target and not target:
            arguments.usage_error(f"--strategy {choice.name} needs --target")
    return list(arguments.strategies)


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
    print(f"; shown to strategies: {len(corpus.examples)} target" if corpus.examples else "", end="")
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
    store: Path,
    bpe: BPE,
    model: GPT,
    held_out: Mapping[str, Tensor],
    steps: int,
    label: str,
) -> Curve:
    """Train one model, with a progress bar."""
    with (
        WeightedStream(data, strategy, store=store, group_fn="kind") as stream,
        progress_bar(label, "step", steps) as bar,
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

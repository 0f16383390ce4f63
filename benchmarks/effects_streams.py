"""Streams of text that `benchmarks.effects` trains on: two that are on every machine, and one of the real data sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.mixtures import MATHS, standard_mixture
from weighted_stream.demo.corpus import installed_corpus
from weighted_stream.demo.tokenizer import BPE

REFERENCE = "reference"
"""The kind of text that the packages' target is of: Python's language reference."""

EXAMPLES = 128
REPEATED = 64


@dataclass(frozen=True)
class Texts:
    """A stream and texts beside it, none of which is in the stream.

    Attributes:
        texts: the stream, shuffled.
        kinds: of each text.
        wanted: which of them are of the target's kind.
        examples: of the target, for strategies that are told of one.
        choose: held-out text of the target, to choose options and the best evaluation on.
        report: other held-out text of the target.
        rest: held-out text of all kinds.
    """

    texts: list[str]
    kinds: list[str]
    wanted: NDArray[np.bool_]
    examples: list[str]
    choose: list[str]
    report: list[str]
    rest: list[str]


def packages(folder: Path, seed: int, size: int) -> Texts:
    """Text of the installed packages, repeats and all; the target is the language reference."""
    corpus = installed_corpus(seed, size, examples=EXAMPLES)
    kinds = [sample.kind for sample in corpus.train]
    target, rest, examples = ([s.text for s in part] for part in (corpus.target, corpus.rest, corpus.examples))
    half = len(target) // 2
    texts = [sample.text for sample in corpus.train]
    return Texts(texts, kinds, np.array(kinds) == REFERENCE, examples, target[:half], target[half:], rest)


def redundant(folder: Path, seed: int, size: int) -> Texts:
    """The same, each text once, but half of the stream are repeats of 64 of them. The target is text of all kinds."""
    rng = random.Random(f"{seed}:redundant")
    corpus = installed_corpus(seed, 4 * size, held_out=512, examples=0)
    once = list({sample.text: sample for sample in corpus.train}.values())[: size - size // 2]
    repeated = rng.sample(once, REPEATED)
    samples = once + [repeated[at % REPEATED] for at in range(size // 2)]
    rng.shuffle(samples)
    rest = [sample.text for sample in corpus.rest]
    rng.shuffle(rest)
    texts, kinds = [sample.text for sample in samples], [sample.kind for sample in samples]
    n = len(rest) // 4
    everything = np.ones(len(texts), bool)
    return Texts(texts, kinds, everything, rest[:n], rest[n : 2 * n], rest[2 * n : 3 * n], rest[3 * n :])


def mixture(folder: Path, seed: int, size: int) -> Texts:
    """The standard mixture of the real data sets; the target is maths."""
    made = standard_mixture(folder, seed, size)
    rest = [text for texts in made.rest.values() for text in texts]
    wanted = np.array(made.domains) == MATHS
    return Texts(made.texts, made.domains, wanted, made.target[:EXAMPLES], made.choose, made.report, rest)


STREAMS: dict[str, Callable[[Path, int, int], Texts]] = {
    "packages": packages,
    "redundant": redundant,
    "mixture": mixture,
}


@dataclass(frozen=True)
class Tokens:
    """The same in tokens: rows (N, T + 1), and whether a row is there for the first time."""

    of: Texts
    rows: Tensor
    first: NDArray[np.bool_]
    examples: Tensor
    held_out: dict[str, Tensor]


@lru_cache(maxsize=1)
def tokens(stream: str, folder: Path, seed: int, size: int, vocab: int, context: int) -> Tokens:
    """A stream of a seed; made once for the runs of one process that follow each other."""
    texts = STREAMS[stream](folder, seed, size)
    bpe = BPE(texts.texts, vocab=vocab)
    seen: set[str] = set()
    first = np.array([text not in seen and not seen.add(text) for text in texts.texts])  # type: ignore[func-returns-value]
    rows = {name: bpe.encode(getattr(texts, name), context + 1) for name in ("choose", "report", "rest")}
    return Tokens(texts, bpe.encode(texts.texts, context + 1), first, bpe.encode(texts.examples, context + 1), rows)


def frequencies(rows: Tensor, vocab: int) -> Tensor:
    """How often each token occurs."""
    return torch.bincount(rows.flatten(), minlength=vocab)

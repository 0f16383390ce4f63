"""What the demo trains on and is measured on: a training stream, examples of the target, two held-out sets."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from os import PathLike
from pathlib import Path

import pyarrow.parquet

from weighted_stream.demo.texts import Sample, chunks, installed_texts, topics
from weighted_stream.errors import SourceError
from weighted_stream.text_lines import open_text

OPENING = 160
"""Characters that two texts must differ in to count as different: what fits the small model's context."""

EXAMPLES = 128
"""Texts of the target that a strategy is shown."""


@dataclass(frozen=True)
class Corpus:
    """A training stream and texts beside it; none of these begins as any text of the stream, or another of them, does.

    Attributes:
        train: the stream, shuffled, repeats and all.
        target: what training should become good at, held out; may be empty.
        rest: diverse other text, held out.
        examples: more of the target, for strategies that are told what to become good at; may be empty.
    """

    train: list[Sample]
    target: list[Sample]
    rest: list[Sample]
    examples: list[Sample]

    @property
    def repeats(self) -> float:
        """The share of the stream that are exact repeats of another text in it, the first not counted."""
        return 1 - len({s.text for s in self.train}) / len(self.train) if self.train else 0.0

    def kinds(self) -> dict[str, float]:
        """The share of each kind of text in the stream, the largest first."""
        counts = Counter(s.kind for s in self.train)
        return {kind: count / len(self.train) for kind, count in counts.most_common()}


def installed_corpus(seed: int = 0, size: int = 12_800, held_out: int = 256, examples: int = EXAMPLES) -> Corpus:
    """The text of the installed packages and of the language reference (about 5 s for 170 packages).

    The target is the language reference (`topics`), a part of which is in the stream; the rest is text of all
    kinds, as many of each, that occurs once.

    Args:
        seed: of the choice and of the order. The same packages and seed give the same corpus.
        size: texts in the stream, at most.
        held_out: texts in each held-out set, at most.
        examples: of the target, at most.
    """
    return _split(installed_texts(seed), topics(), seed, size, held_out, examples)


def file_corpus(
    data: str | PathLike[str],
    target: str | PathLike[str] | None = None,
    *,
    seed: int = 0,
    size: int = 12_800,
    held_out: int = 256,
    examples: int = EXAMPLES,
) -> Corpus:
    """A corpus of the user's own text; see `read_texts` for the files.

    Args:
        data: the stream; a part of it is held out as the rest.
        target: what training should become good at; none of it is put into the stream. None: no target.
        seed: of the choice and of the order.
        size: texts in the stream, at most.
        held_out: texts in each held-out set, at most; the rest takes no more than a tenth of the data.
        examples: of the target, at most, and no more than half of it.

    Raises:
        SourceError: if a file cannot be read or holds too little text.
    """
    texts = [Sample(text, "data", Path(data).name) for text in read_texts(data)]
    wanted = [] if target is None else [Sample(t, "target", Path(target).name) for t in read_texts(target)]
    corpus = _split(texts, [], seed, size, min(held_out, len(texts) // 10), 0)
    if not corpus.rest:
        raise SourceError(
            "There is too little text to hold some of it out.",
            found=f"{len({_opening(s) for s in texts})} different pieces of text in {data}",
            expected="at least 10",
            do="give a file with more text",
        )
    random.Random(f"{seed}:target").shuffle(wanted)
    beside = {_opening(s) for s in corpus.train + corpus.rest}
    different = {_opening(s): s for s in wanted if _opening(s) not in beside}
    wanted = list(different.values())
    if target is not None and len(wanted) < 2:
        raise SourceError(
            "There is too little text of the target, to show some of it and to measure on other.",
            found=f"{len(wanted)} different pieces of text in {target} that are not in {data}, too",
            expected="at least 2",
            do="give a file with more text of the target",
        )
    shown = min(examples, len(wanted) // 2)
    return Corpus(corpus.train, wanted[shown:][:held_out], corpus.rest, wanted[:shown])


def read_texts(path: str | PathLike[str]) -> list[str]:
    """The texts of a file, those of more than 420 characters in pieces.

    Args:
        path: ``.jsonl`` (one object a line, text in the field ``text``; also ``.jsonl.gz``), ``.parquet``
            (column
            ``text``) or ``.txt`` (UTF-8).

    Raises:
        SourceError: if it does not exist, has another ending, or cannot be read.
    """
    path = Path(path)
    readers = {".jsonl": _jsonl, ".gz": _jsonl, ".parquet": _parquet, ".txt": _txt}
    if path.suffix not in readers or not path.is_file():
        raise SourceError(
            "Cannot read text from this.",
            found=f"{path}" + ("" if path.is_file() else ", which is no file"),
            expected="an existing .jsonl, .jsonl.gz, .parquet or .txt file",
            do="check the path, or convert the file",
        )
    try:
        return [piece for text in readers[path.suffix](path) for piece in chunks(text, least=1)]
    except (
        OSError,
        EOFError,
        RecursionError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pyarrow.ArrowException,
    ) as error:
        raise SourceError(
            f"Cannot read text from {path}.",
            found=f"{type(error).__name__}: {error}",
            expected="UTF-8 text, in JSON lines and Parquet in the field 'text'",
            do="check the file's content",
        ) from error


def _jsonl(path: Path) -> Iterator[str]:
    with open_text(path) as file:
        for line in file:
            if line.strip():
                yield json.loads(line)["text"]


def _parquet(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["text"]):
            yield from (text for text in batch.column("text").to_pylist() if text is not None)


def _txt(path: Path) -> Iterator[str]:
    yield path.read_text(encoding="utf-8-sig")  # with or without a byte order mark


def _opening(sample: Sample) -> str:
    return " ".join(sample.text.split())[:OPENING]


def _split(texts: list[Sample], wanted: list[Sample], seed: int, size: int, held_out: int, examples: int) -> Corpus:
    """Set aside texts that occur once: target and examples of ``wanted``, the rest of ``texts``, as many of a kind."""
    rng = random.Random(seed)
    count = Counter(_opening(s) for s in texts + wanted)
    target_pool = [s for s in rng.sample(wanted, len(wanted)) if count[_opening(s)] == 1]
    target, shown = target_pool[:held_out], target_pool[held_out : held_out + examples]
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample in rng.sample(texts, len(texts)):
        if count[_opening(sample)] == 1:
            by_kind[sample.kind].append(sample)
    in_turn = zip_longest(*(by_kind[kind] for kind in sorted(by_kind)))
    rest = [s for turn in in_turn for s in turn if s is not None][:held_out]
    out = {_opening(s) for s in target + shown + rest}
    pool = [s for s in texts + wanted if _opening(s) not in out]
    return Corpus(rng.sample(pool, min(size, len(pool))), target, rest, shown)

"""The real text of the training benchmarks: a folder of gzipped JSON lines that is not part of this repository."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import string
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import LEFT_OUT

TEXT = 420
"""Characters of a text, at most."""

STANDARD = {
    "gsm8k": 125,
    "wikitext2_valid_test": 125,
    "us_speeches": 125,
    "movie_reviews": 125,
    "redpajama_c4": 125,
    "redpajama_stackexchange": 125,
    "mbpp+redpajama_github": 70,
    "genesis_multilingual": 70,
    "tinyshakespeare": 50,
    "garbage": 60,
}
"""The standard mixture: files and their shares, in thousandths."""

MATHS = "gsm8k"
REST = ("wikitext2_valid_test", "redpajama_c4", "redpajama_stackexchange")
ENGLISH_GENESIS = "genesis_english-kjv"


@dataclass(frozen=True)
class Mixture:
    """The standard mixture of one seed.

    Attributes:
        texts: the stream, shuffled.
        domains: where each text comes from: a key of `STANDARD`.
        target: maths that is not in the stream, for the strategies.
        choose: held-out maths to choose hyper-parameters on.
        report: other held-out maths, to report; ``choose`` and ``report`` are the same for every seed.
        rest: held-out text of other kinds.
    """

    texts: list[str]
    domains: list[str]
    target: list[str]
    choose: list[str]
    report: list[str]
    rest: dict[str, list[str]]


def standard_mixture(folder: Path, seed: int, size: int = 12_800) -> Mixture:
    """Maths, Wikipedia, speeches, reviews, web text, questions, code, foreign text, Shakespeare and garbage."""
    rng = random.Random(seed)
    drawn: list[tuple[str, str]] = []
    spare: list[str] = []
    target: list[str] = []
    for name, share in STANDARD.items():
        count = round(size * share / sum(STANDARD.values()))
        if name == "garbage":
            pool = garbage(rng.sample(spare, count), rng)
        else:
            whole = list(texts(folder, name, "train", without=ENGLISH_GENESIS))
            if name == MATHS:
                rng.shuffle(whole)
                target, whole = [text[:TEXT] for text in whole[:256]], whole[256:]
            pool = pieces(whole)
            rng.shuffle(pool)
        drawn += [(text, name) for text in pool[:count]]
        spare += pool[count:]
    rng.shuffle(drawn)
    maths = random.Random(0).sample([text[:TEXT] for text in texts(folder, MATHS, "test")], 400)
    rest = {name: random.Random(0).sample(pieces(texts(folder, name, "test")), 100) for name in REST}
    return Mixture([t for t, _ in drawn], [d for _, d in drawn], target, maths[:200], maths[200:], rest)


def garbage(sources: list[str], rng: random.Random) -> list[str]:
    """Half of these texts with their words in random order, half random characters in their place."""
    made = []
    for number, text in enumerate(sources):
        words = text.split()
        rng.shuffle(words)
        made.append(" ".join(words) if number % 2 else "".join(rng.choices(string.printable, k=len(text))))
    return made


def texts(folder: Path, name: str, split: str, without: str | None = None) -> Iterator[str]:
    """The texts of one split of a file, or of several joined by ``+``, but for one domain."""
    for part in name.split("+"):
        with gzip.open(folder / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row["split"] == split and (without is None or row.get("domain") != without):
                    yield row["text"]


def pieces(whole: Iterable[str]) -> list[str]:
    """Pieces of 200 to 420 characters, none twice."""
    cut = (text[start : start + TEXT].strip() for text in whole for start in range(0, len(text), TEXT))
    return list(dict.fromkeys(piece for piece in cut if len(piece) >= 200))


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """The folder of the data: ``--data``, or else WEIGHTED_STREAM_DATA, or else a folder beside the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("WEIGHTED_STREAM_DATA", default)))


def leave_out_without(folder: Path, names: Iterable[str], benchmark: str) -> None:
    """End the process with `LEFT_OUT`, and say why, if a file is missing."""
    missing = missing_files(folder, names)
    if missing:
        print(
            f"{benchmark}: left out, the data sets are not here.\n"
            f"  found:    no {', '.join(missing)} (.jsonl.gz) in {folder}\n"
            "  expected: the folder of the real data sets\n"
            "  to do:    set WEIGHTED_STREAM_DATA or --data to it"
        )
        sys.exit(LEFT_OUT)


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """The data sets that are not in this folder, of several joined by ``+`` each by itself."""
    parts = [part for name in names for part in name.split("+") if part != "garbage"]
    return [part for part in parts if not (folder / f"{part}.jsonl.gz").is_file()]


def has_mixture(folder: Path) -> bool:
    """Whether the data of the standard mixture are here."""
    return not missing_files(folder, STANDARD)

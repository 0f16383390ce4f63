"""All benchmarks, by name: what each answers, how it is run in a hurry and on a GPU, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One command.

    Attributes:
        asks: the question.
        quick: its arguments within the twenty minutes of ``make bench``; None: it is not a part of that.
        quick_minutes, full_minutes: about what it takes on two cores.
        gpu: its arguments on a GPU, a list for each part of ``make bench-gpu``, which takes less than ten minutes.
    """

    asks: str
    quick: tuple[str, ...] | None
    quick_minutes: float
    full_minutes: float
    gpu: tuple[tuple[str, ...], ...] = ()


QUICK = ("--quick",)
GPU = ("--device", "cuda")

BENCHMARKS = {
    "store_ops": Benchmark("the store over NumPy", QUICK, 0.5, 2),
    "store_rivals": Benchmark("the store over NumPy, LMDB, SQLite and Redis, 10^6 to 10^9 records", QUICK, 0.7, 6),
    "journal_ops": Benchmark("the journal, states, and going back", QUICK, 1, 6),
    "shared_store": Benchmark("a store shared through a server", QUICK, 0.7, 2),
    "loader_overhead": Benchmark("loaders wrapped over bare, and the product", QUICK, 1.7, 18),
    "rank_overhead": Benchmark("feedback over ranks", QUICK, 0.5, 2),
    "peers": Benchmark("ours beside InfoBatch, DataFlex and loops by hand", QUICK, 1.5, 14, (GPU,)),
    "method_cost": Benchmark(
        "a step with each method over plain training",
        QUICK,
        1,
        35,
        (
            (*GPU, "--sizes", "1M", "30M"),
            (*GPU, "--sizes", "124M"),
            (*GPU, "--sizes", "350M", "--repeats", "5"),
            (*GPU, "--sizes", "124M", "--batch", "64", "--parts", "4"),
        ),
    ),
    "scoring": Benchmark("encoders over sentence-transformers", QUICK, 1.5, 9, (("--devices", "cuda"),)),
    "scale": Benchmark("memory, disk and network of 10^9 samples and 1,000 ranks; simulated ranks", QUICK, 0.5, 2),
    "report_page": Benchmark("the report of a large run", QUICK, 0.3, 1),
    "noisy_labels": Benchmark("every strategy where labels are wrong", QUICK, 1.5, 10),
    "effects": Benchmark(
        "every strategy on the installed packages' text",
        QUICK,
        2.5,
        60,
        (
            (*GPU, "--model", "124M", "--seeds", "1"),
            (*GPU, "--model", "124M", "--seeds", "1", "--fine-tune", "200"),
        ),
    ),
    "batch_sizes": Benchmark("LinUpper in batches of 1 to 64, over the batch and running", QUICK, 1, 12),
    "redundant_stream": Benchmark("LinUpper where half of the stream repeats itself", QUICK, 1.5, 15),
    "standard_mixture": Benchmark("Similarity and its kin towards maths", QUICK, 1.5, 55),
    "selection": Benchmark("choosing samples by their gradients", QUICK, 1, 60),
}
"""In the order in which they are run."""

"""The report of a large run: how long it takes to make, what it needs, and how long its page takes to open.

`python -m benchmarks.report_page`, with ``--samples 10000000`` minutes and 2 GB of disk.
The page is opened in the system's Chromium, driven by Playwright, where both are installed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Spread, Table, add_form_argument, machine, save
from weighted_stream import WeightStore
from weighted_stream.cli.report import write_page
from weighted_stream.report.build import build
from weighted_stream.sources.ids import shard_ids

SHARD, BATCH, OPENINGS = 100_000, 512, 5
GROUPS = ("web", "code", "books", "wiki", "papers", "forum")


def train(path: Path, samples: int) -> None:
    """One epoch over shards of 100,000 samples in six groups, its weights rising with the losses."""
    rng = np.random.default_rng(0)
    names = [f"shard.{number:05d}.mds" for number in range(-(-samples // SHARD))]
    ids = np.concatenate([shard_ids(name, np.arange(SHARD)) for name in names])[:samples]
    groups = rng.choice(len(GROUPS), samples, p=[0.5, 0.15, 0.1, 0.1, 0.1, 0.05])
    order = rng.permutation(samples)
    with WeightStore(path) as store:
        store.set_groups(ids[: len(GROUPS)], GROUPS)
        for begin in range(0, samples, 16_384):
            part = slice(begin, begin + 16_384)
            store.update(ids[part], group=groups[part], similarity=rng.normal(size=len(ids[part])))
        for step, begin in enumerate(range(0, samples, BATCH)):
            some = order[begin : begin + BATCH]
            losses = 2 + 4 * np.exp(-5 * begin / samples) + rng.gamma(2, 0.5, len(some)) - 0.1 * groups[some]
            weights = np.exp(0.3 * losses)
            store.record(ids[some], losses, weights / weights.mean(), step=step)
    manifest = json.loads((path / "manifest.json").read_text())
    shards = dict.fromkeys(names, SHARD)
    manifest["fingerprint"] = {"kind": "mds", "name": "text", "size": None, "shards": shards}
    (path / "manifest.json").write_text(json.dumps(manifest))


def opening(page: Path) -> list[float] | None:
    """Seconds until the table of the page stands, several times over; None without a browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if path is None:
        return None
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            tab = browser.new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#body tr")
            seconds.append(time.perf_counter() - began)
            tab.close()
        browser.close()
    return seconds


def main(argv: list[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_page")
    add_form_argument(parser)
    parser.add_argument("--samples", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    samples = options.samples // 10 if options.quick else options.samples
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        store, page = Path(folder, "store"), Path(folder, "report.html")
        train(store, samples)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.perf_counter(), time.process_time()
        write_page(build(store), page)
        rows: list[list[object]] = [
            ["samples", samples, ""],
            ["to make the page", time.perf_counter() - began, "s"],
            ["of that, on the processor", time.process_time() - cpu, "s"],
            ["more memory", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "MiB"],
            ["size of the page", page.stat().st_size / 1000, "kB"],
        ]
        seconds = opening(page)
        if seconds is not None:
            rows.append(["to open it in Chromium, until its table stands", Spread.of(seconds), "s"])
    table = Table("The report of a large run", [("what", ""), ("", ""), ("unit", "")], rows)
    print(table)
    save("report_page", {"figures": {str(what): value for what, value, _ in rows}}, [table])


if __name__ == "__main__":
    main()

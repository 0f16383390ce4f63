"""The constants that `benchmarks.scale` reckons with, measured by the library's own parts."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.journal_ops import journal_bytes
from weighted_stream.ranks.everyone import Everyone
from weighted_stream.ranks.group import ROOM, RankGroup
from weighted_stream.ranks.packet import Kind, Packet
from weighted_stream.sample_ids import HASHED
from weighted_stream.store import WeightStore
from weighted_stream.store.record import RECORD_BYTES
from weighted_stream.strategies.lin_upper import lin_upper


def packet_of(samples: int, rank: int, weights: bool = False) -> Packet:
    """The feedback of one batch."""
    ids = np.arange(samples) + rank * samples
    values = np.random.default_rng(rank).random(samples, np.float32)
    return Packet(Kind.FEEDBACK, step=1, ids=ids, losses=values, weights=values if weights else None)


def work_of(ranks: int, samples: int, repeats: int) -> float:
    """Seconds that one rank computes for an exchange: says its packet, reads all, weighs, remembers everything."""
    heard = [packet_of(samples, rank).to_bytes() for rank in range(ranks)]
    mine = packet_of(samples, 0)
    times = []
    with WeightStore() as store:
        store.reserve(ranks * samples)
        for step in range(repeats + 1):
            begin = time.perf_counter()
            mine.to_bytes()
            everyone = Everyone([Packet.from_bytes(one) for one in heard], 0)
            weights = lin_upper(torch.from_numpy(everyone.losses), 1.0).numpy()
            store.record(everyone.ids, everyone.losses, weights, step=step)
            times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def exchange_of(ranks: int, repeats: int) -> float:
    """Seconds of one exchange of empty messages between processes of this machine, over gloo."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_exchanges, (ranks, repeats, folder), nprocs=ranks)
        return float(Path(folder, "seconds").read_text())


def _exchanges(rank: int, ranks: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    group, message = RankGroup(), packet_of(16, rank).to_bytes()
    for _ in range(5):
        group.exchange(message)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        group.exchange(message)
        times.append(time.perf_counter() - begin)
    if rank == 0:
        Path(folder, "seconds").write_text(str(statistics.median(times)))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort an orderly exit


def hashed_bytes(folder: Path, samples: int) -> float:
    """Bytes on disk of each sample whose id is a hash, not a place."""
    with WeightStore(folder / "hashed", journal=False) as store:
        ids = np.unique(np.random.default_rng(0).integers(HASHED, 2 * HASHED - 1, samples))
        for part in np.array_split(ids, max(1, samples // 4096)):
            store.update(part, loss=np.ones(len(part)))
        store.flush()
        files = [file for file in (folder / "hashed").rglob("*") if file.is_file()]
        return sum(file.stat().st_blocks * 512 for file in files) / len(ids)


def measure(quick: bool) -> dict[str, Any]:
    """All of them. Bytes, and seconds."""
    samples, repeats = (50_000, 5) if quick else (500_000, 20)
    sizes = (8, 64, 512)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        journal, hashed = journal_bytes(folder, samples), hashed_bytes(folder, samples)
    work = {ranks * 16: work_of(ranks, 16, repeats) for ranks in sizes}
    per_sample, fixed = np.polyfit(list(work), list(work.values()), 1)
    return {
        "record, bytes": RECORD_BYTES,
        "hashed record, bytes": hashed,
        "journal, bytes a sample": journal,
        "packet of 16, bytes": len(packet_of(16, 0).to_bytes()),
        "packet of 16 with weights, bytes": len(packet_of(16, 0, weights=True).to_bytes()),
        "room of a packet, bytes": ROOM,
        "work of an exchange, s": work,
        "work a sample of the global batch, s": float(per_sample),
        "work besides, s": max(0.0, float(fixed)),
        "exchange of 2 processes, s": exchange_of(2, 50 if quick else 500),
    }

"""Ranks for tests: a process each, joined by gloo, whose own errors reach the test."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ports import free_port

# Ranks fork from a server that has imported what takes seconds, and begins as empty otherwise as a fresh process.
multiprocessing.set_forkserver_preload(["torch", "pyarrow.parquet", "weighted_stream", "webdataset", "streaming"])


def run_ranks(rank_work: Callable[..., None], ranks: int, folder: Path, *args: Any, backend: str = "gloo") -> None:
    """`rank_work(rank, *args)` in processes of one group (from a module that imports little: each imports it).

    Args:
        backend: of the trainer: "gloo", or "out_of_reach", which fails whoever uses it.
    """
    work = (rank_work, ranks, str(folder), dict(os.environ), backend, args)
    torch.multiprocessing.start_processes(_one_rank, work, nprocs=ranks, start_method="forkserver")


def _one_rank(
    rank: int,
    rank_work: Callable[..., None],
    ranks: int,
    folder: str,
    environment: dict[str, str],
    backend: str,
    args: tuple[Any, ...],
) -> None:
    os.environ |= environment  # the server has that of the first test
    torch.set_num_threads(1)
    if backend == "out_of_reach":
        torch.distributed.Backend.register_backend(backend, _out_of_reach, devices=["cpu"])
    torch.distributed.init_process_group(backend, f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    rank_work(rank, *args)
    if backend == "gloo":
        torch.distributed.barrier()
    # Gloo's threads outlive destroy_process_group, and now and then abort the process when Python takes itself down:
    # "terminate called without an active exception" (torch 2.15). All the work is done and seen by every rank.
    os._exit(0)


def _out_of_reach(store: Any, rank: int, size: int, timeout: Any) -> Any:
    """As NCCL is for what lies on the host: every collective fails."""
    return torch.distributed.ProcessGroup(rank, size)


def run_ranks_of_environment(rank_work: Callable[..., None], ranks: int, *args: Any) -> None:
    """`rank_work(rank, *args)` in processes as torchrun starts them: a framework joins them by their environment."""
    torch.multiprocessing.spawn(_as_torchrun, (rank_work, ranks, free_port(), args), nprocs=ranks)


def _as_torchrun(rank: int, rank_work: Callable[..., None], ranks: int, port: int, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_PORT": port}
    numbers |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}
    rank_work(rank, *args)
    torch.distributed.barrier()
    os._exit(0)  # see _one_rank

"""Processes of a profile: one alone, or several that measure at the same time over gloo or NCCL."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist

from ridgeline.errors import InputError
from ridgeline.validation.profiling.sampling import Ranks

Work = Callable[..., None]


class ProcessRanks(Ranks):
    """Ranks of a process group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        # agreements travel beside the measured links
        self._side = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else None

    def barrier(self) -> None:
        """Wait for the others."""
        dist.barrier(group=self._side)

    def slowest(self, value: float) -> float:
        """Return the largest value of all ranks."""
        held = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(held, op=dist.ReduceOp.MAX, group=self._side)
        return float(held.item())


def pick_device(name: str, rank: int = 0) -> torch.device:
    """Return the device of a rank: ``auto`` takes CUDA (or ROCm, which goes by the same name).

    Raises
    ------
    InputError
        CUDA is asked for and PyTorch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no CUDA or ROCm device; use --device cpu")
    return torch.device(name, rank) if name == "cuda" else torch.device("cpu")


def start(work: Work, processes: int, device: str, threads: int, *arguments: Any) -> None:
    """Run ``work(ranks, device, *arguments)`` on every rank.

    A rank alone runs in this process, several in new ones.

    Raises
    ------
    InputError
        More processes than devices.
    """
    chosen = pick_device(device)
    if chosen.type == "cuda" and processes > torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InputError(f"--processes {processes}: there are {count} devices, one a process")
    if processes == 1:
        torch.set_num_threads(threads)
        work(Ranks(), chosen, *arguments)
        return
    torch.multiprocessing.spawn(
        _member, (processes, _free_port(), device, threads, work, arguments), nprocs=processes
    )


def _member(
    rank: int,
    processes: int,
    port: int,
    device: str,
    threads: int,
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    chosen = pick_device(device, rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=processes)
    try:
        work(ProcessRanks(), chosen, *arguments)
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""A simulated schedule of many ranks: when feedback has to wait for whom. NumPy; nothing here sends anything.

Each rank's step is a forward and a backward (a third and two thirds of the step, each of a random length), and ends
when all ranks end theirs, as gradients are averaged. Feedback is one all-gather on a ring of its own: ranks - 1 hops,
in each of which a rank hands on what it had from its neighbour, as gloo does. A joint strategy needs the others' losses
between forward and backward; one with a running window begins the exchange there, and needs its end at the same place
of the next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Way = Literal["ring", "nodes", "doubling"]


@dataclass(frozen=True)
class Cluster:
    """What is assumed, and what was measured.

    Attributes:
        ranks: how many.
        step: seconds of a step, on average.
        spread: of a rank's forward or backward from step to step, as a share (a standard deviation). Assumed.
        latency: seconds of a message between machines, on average. Assumed.
        tail: how much later messages come at random, as a share of the latency (exponential). Assumed.
        bandwidth: bytes a second between machines. Assumed.
        local: seconds of a message within a machine. Measured.
        message: bytes of a rank's packet as it is sent. Measured.
        work: seconds that a rank computes for each exchange. Measured.
        node: ranks of a machine.
    """

    ranks: int
    step: float
    spread: float
    latency: float
    tail: float
    bandwidth: float
    local: float
    message: int
    work: float
    node: int = 8


def all_gather(cluster: Cluster, ready: Times, way: Way, rng: np.random.Generator) -> Times:
    """When each rank (R,) has heard all, if they are ready to speak at these times."""
    match way:
        case "ring":
            return _ring(ready, cluster.message, cluster, rng)
        case "nodes":
            # Ranks of a machine tell its first one, the first ones go around, and tell theirs.
            nodes = ready.reshape(-1, min(cluster.node, cluster.ranks))
            inside = cluster.local * nodes.shape[1]
            heard = _ring(nodes.max(1) + inside, cluster.message * nodes.shape[1], cluster, rng)
            return np.repeat(heard + inside, nodes.shape[1])
        case "doubling":
            times, length, distance = ready, cluster.message, 1
            while distance < len(times):
                partner = np.arange(len(times)) ^ distance
                times = np.maximum(times, times[partner]) + _hop(length, cluster, len(times), rng)
                length, distance = 2 * length, 2 * distance
            return times


def _ring(ready: Times, length: int, cluster: Cluster, rng: np.random.Generator) -> Times:
    times = ready
    for _ in range(len(ready) - 1):
        times = np.maximum(times, np.roll(times, 1)) + _hop(length, cluster, len(ready), rng)
    return times


def _hop(length: int, cluster: Cluster, count: int, rng: np.random.Generator) -> Times:
    late = rng.exponential(cluster.tail, count)
    return np.asarray(cluster.latency * (1 + late) + length / cluster.bandwidth)


def simulate(cluster: Cluster, joint: bool, way: Way, steps: int, seed: int = 0) -> dict[str, Any]:
    """Seconds that a step takes on average, without feedback and with it, and those of the exchange alone."""
    rng = np.random.default_rng(seed)
    plain = weighted = exchanges = 0.0
    under_way: Times | None = None
    for _ in range(steps):
        forward, backward = (
            cluster.step * share * np.maximum(0.1, rng.normal(1, cluster.spread, cluster.ranks))
            for share in (1 / 3, 2 / 3)
        )
        plain += (forward + backward).max()
        now = weighted + forward
        if joint:
            heard = all_gather(cluster, now, way, rng)
            exchanges += heard.max() - now.max()
            ready = heard + cluster.work
        else:
            ready = (now if under_way is None else np.maximum(now, under_way)) + cluster.work
            under_way = all_gather(cluster, ready, way, rng)
            exchanges += under_way.max() - ready.max()
        weighted = (ready + backward).max()
    return {"plain": plain / steps, "weighted": weighted / steps, "exchange": exchanges / steps}

"""What 10^9 samples and 1,000 ranks take, on paper and by simulation: `python -m benchmarks.scale [--quick]`.

On paper: memory, disk and network, from constants that are measured here (bytes of a record, of the journal, of a
packet; the computing of an exchange). By simulation (`benchmarks.scale_ranks`): what feedback adds to a step of 64 to
1,024 ranks, where it is more than 1% of the step, and what could be done then. Assumed, not measured, for there is one
machine here: latency and bandwidth between machines, how much messages and steps vary; all of them are options.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import scale_constants
from benchmarks.harness import Table, add_form_argument, machine, save
from benchmarks.scale_ranks import Cluster, Way, simulate

BATCH = 16
SAMPLES = 10**9
RANKS = (64, 128, 256, 512, 1024)
WAYS: dict[str, tuple[bool, Way, bool]] = {
    "joint strategy, as it is": (True, "ring", False),
    "running window, as it is": (False, "ring", False),
    "joint, packets without room to spare": (True, "ring", True),
    "joint, one rank of each machine speaks": (True, "nodes", True),
    "joint, by recursive doubling": (True, "doubling", True),
}
"""Whether the strategy is joint, how they gather, and whether a packet is as long as what it says."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--latency-us", type=float, default=30.0, help="of a message between machines (assumed: 30)")
    parser.add_argument("--gbit", type=float, default=25.0, help="per second between machines (assumed: 25)")
    parser.add_argument("--step-ms", type=float, default=500.0, help="of a step (assumed: 500)")
    parser.add_argument("--spread", type=float, default=0.05, help="of steps, as a share (assumed: 0.05)")
    parser.add_argument("--tail", type=float, default=0.3, help="of messages, as a share (assumed: 0.3)")
    parser.add_argument("--steps", type=int, help="to simulate; default: 40, quick: 8")
    add_form_argument(parser)
    options = parser.parse_args(argv)
    steps = options.steps or (8 if options.quick else 40)
    print(machine())
    constants = scale_constants.measure(options.quick)
    tables = [measured(constants), on_paper(constants)]
    print(*tables, sep="\n\n", flush=True)
    figures = simulated(constants, options, steps)
    tables += [schedule(figures, options), limits(figures)]
    print("", *tables[2:], sep="\n\n")
    assumed = {name: getattr(options, name) for name in ("latency_us", "gbit", "step_ms", "spread", "tail")}
    save("scale", {"constants": constants, "assumed": assumed, "simulated": figures}, tables)


def measured(constants: dict[str, Any]) -> Table:
    """The constants."""
    rows = []
    for name, value in constants.items():
        if isinstance(value, dict):
            rows += [[f"computing of an exchange of {n:,} samples", v * 1e6, "µs"] for n, v in value.items()]
        elif name.endswith(", s"):
            rows.append([name.removesuffix(", s"), value * 1e6, "µs"])
        else:
            rows.append([*name.rsplit(", ", 1)[:1], value, name.rsplit(", ", 1)[1]])
    return Table("Measured here", [("what", ""), ("figure", ""), ("unit", "")], rows)


def on_paper(constants: dict[str, Any]) -> Table:
    """Bytes of 10^9 samples, and of 1,000 ranks."""
    gigabyte = 1e9
    ranks = 1000
    record, hashed = constants["record, bytes"], constants["hashed record, bytes"]
    journal, room = constants["journal, bytes a sample"], constants["room of a packet, bytes"]
    exchanges = SAMPLES / (ranks * BATCH)
    heard = (ranks - 1) * room
    work = ranks * BATCH * constants["work a sample of the global batch, s"] + constants["work besides, s"]
    rows = [
        ["disk, records of 10^9 samples, ids by shard and row", record * SAMPLES / gigabyte, "GB a machine"],
        ["disk, the same, ids that are hashes", hashed * SAMPLES / gigabyte, "GB a machine"],
        [
            "disk, the journal, as it is bounded",
            (1 << 30) / gigabyte,
            f"GB, the last {2**30 / journal / 1e6:.0f} million",
        ],
        ["disk, the journal of 10^9 samples, if it were not", journal * SAMPLES / gigabyte, "GB an epoch"],
        ["memory that has to be there", 0, "GB: pages come and go; what is warm is faster"],
        ["memory, all records warm", record * SAMPLES / gigabyte, "GB a machine"],
        ["memory, a batch of 1,000 × 16 samples far apart", ranks * BATCH * 4096 / gigabyte, "GB of pages"],
        ["network, 1,000 ranks: heard by each rank", heard / 1e6, "MB an exchange"],
        ["of which said by someone", ranks * constants["packet of 16, bytes"] / 1e6, "MB an exchange"],
        [f"network, 10^9 samples in batches of {BATCH} on 1,000 ranks", exchanges * heard / gigabyte, "GB a rank"],
        ["computing of each rank", work * 1e3, "ms an exchange"],
    ]
    return Table("10^9 samples, 1,000 ranks, on paper", [("what", ""), ("figure", ""), ("unit", "")], rows)


def simulated(constants: dict[str, Any], options: argparse.Namespace, steps: int) -> list[dict[str, Any]]:
    """Every way, with every number of ranks."""
    figures = []
    for name, (joint, way, short) in WAYS.items():
        for ranks in RANKS:
            samples = ranks * BATCH
            cluster = Cluster(
                ranks,
                options.step_ms / 1e3,
                options.spread,
                options.latency_us / 1e6,
                options.tail,
                options.gbit * 1e9 / 8,
                constants["exchange of 2 processes, s"] / 2,
                constants["packet of 16, bytes"] if short else constants["room of a packet, bytes"],
                constants["work besides, s"] + samples * constants["work a sample of the global batch, s"],
            )
            found = simulate(cluster, joint, way, steps)
            added = found["weighted"] - found["plain"]
            figures.append({"way": name, "ranks": ranks, "added": added, "work": cluster.work, **found})
    return figures


def schedule(figures: list[dict[str, Any]], options: argparse.Namespace) -> Table:
    """What each adds to a step."""
    rows = [
        [f["way"], f["ranks"], f["exchange"] * 1e3, f["work"] * 1e3, f["added"] * 1e3, f["weighted"] / f["plain"]]
        for f in figures
    ]
    columns = [("feedback", ""), ("ranks", ""), ("exchange", "ms"), ("computing", "ms"), ("added to a step", "ms")]
    title = f"Simulated: {BATCH} samples a rank, steps of {options.step_ms:g} ms that vary by {options.spread:.0%}"
    note = (
        f"Assumed: {options.latency_us:g} µs and {options.gbit:g} Gbit/s between machines, messages up to some "
        f"{options.tail:.0%} later at random. Added: also what ranks wait for each other between forward and backward."
    )
    return Table(title, [*columns, ("step over plain", "")], rows, note)


def limits(figures: list[dict[str, Any]]) -> Table:
    """How long a step has to be for exchange and computing to be 1% of it."""
    rows = []
    for name, (joint, _, _) in WAYS.items():
        costs = [f["work"] + (f["exchange"] if joint else 0) for f in figures if f["way"] == name]
        waits = [f["exchange"] if not joint else 0.0 for f in figures if f["way"] == name]
        rows.append([name, *(max(100 * cost, wait) for cost, wait in zip(costs, waits, strict=True))])
    columns = [("feedback", ""), *((f"{ranks} ranks", "s") for ranks in RANKS)]
    return Table("Steps longer than this spend less than 1% on exchange and computing", columns, rows)


if __name__ == "__main__":
    main()

"""A process that trains, to be followed: STORE and PAUSE; it ends when its input does."""

from __future__ import annotations

import select
import sys

from weighted_stream import LinUpper, WeightedStream

LOSSES = [0.5 + (number * 37 % 100) / 50 for number in range(600)]
GROUPS = ["code", "web", "\x1b[31mred"]


def main(store: str) -> None:
    """Train until told to end."""
    data = [{"loss": loss, "domain": GROUPS[number % 3]} for number, loss in enumerate(LOSSES)]
    with WeightedStream(data, LinUpper(), store=store, group_fn="domain") as stream:
        while True:
            for batch, weight in stream.loader(batch_size=20):
                batch["loss"].float() / (1 + stream.epoch) * weight
                if stream.stats()["step"] == 1:
                    print("trains", flush=True)
                if select.select([sys.stdin], [], [], 0.005)[0]:
                    return


if __name__ == "__main__":
    main(sys.argv[1])

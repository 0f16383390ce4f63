"""Anything may happen to two trainers and their server, in any order; at the end all know what each has done."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_cutting import CuttingLine
from shared_servers import SharedServer

from weighted_stream import SharedStore
from weighted_stream.sample_ids import HASHED

IDS = np.concatenate([np.arange(40), HASHED + np.arange(20) * 7919])


class _Trainer:
    """A store, and what must be in it."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.visits: Counter[int] = Counter()
        self.states: list[tuple[dict[str, Any], Counter[int]]] = []
        self.open()

    def open(self) -> None:
        self.store = SharedStore(self.url, self.path, every=0.01, timeout=2.0, flush_timeout=30.0, must_connect=False)

    def update(self, chance: random.Random) -> None:
        ids = np.array(chance.sample(IDS.tolist(), chance.randrange(1, 30)))
        self.store.update(ids, loss=np.full(len(ids), 2.0), weight=ids % 3, step=chance.randrange(100))
        self.visits.update(ids.tolist())

    def keep(self) -> None:
        self.states.append((self.store.state_dict(), self.visits.copy()))

    def go_back(self, chance: random.Random) -> None:
        if self.states:
            del self.states[chance.randrange(len(self.states)) + 1 :]
            state, visits = self.states[-1]
            self.store.load_state_dict(state)
            self.visits = visits.copy()

    def open_again(self) -> None:
        """Without waiting for the server: as after a crash."""
        sharing, self.store._sharing = self.store._sharing, None
        assert sharing is not None
        self.store._ending.detach()
        sharing.close()
        assert sharing.error is None
        self.store.close()
        self.open()


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens(seed: int, tmp_path: Path) -> None:
    assert play(tmp_path, seed, turns=80) > 0


def play(folder: Path, seed: int, turns: int) -> int:
    """Let things happen so many times, and compare; returns how often the line was cut."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        server = stack.enter_context(SharedServer(folder / "server", durable=seed % 2 == 0))
        line = stack.enter_context(closing(CuttingLine(server.port, seed, most=6000)))
        url = f"redis://127.0.0.1:{line.port}/0"
        crew = [_Trainer(url, folder / f"{number}") for number in range(2)]
        for one in crew:
            stack.callback(lambda one=one: one.store.close())  # type: ignore[misc]
        for _ in range(turns):
            one = chance.choice(crew)
            what = chance.choices(["update", "wait", "keep", "go back", "open again", "kill"], [10, 5, 2, 1, 1, 1])[0]
            if what == "update":
                one.update(chance)
            elif what == "keep":
                one.keep()
            elif what == "go back":
                one.go_back(chance)
            elif what == "open again":
                one.open_again()
            elif what == "kill":
                server.kill()
                server.start()
            else:
                time.sleep(chance.uniform(0.0, 0.1))
        line.mend = True
        for one in crew:
            one.store.flush()
        expected = [sum(one.visits[number] for one in crew) for number in IDS.tolist()]
        views = [*(one.store for one in crew), stack.enter_context(SharedStore(server.url, every=0.01))]
        for store in views:
            store.catch_up()
            known = store.get(IDS)
            assert known["visits"].tolist() == expected
            assert np.isnan(known["loss"]).tolist() == [count == 0 for count in expected]
            np.testing.assert_array_equal(known["last_step"], views[0].get(IDS)["last_step"])
        return line.cuts

"""Trainers and their server are killed at random moments; at the end nothing is lost, and nothing counts twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from shared_servers import SharedServer
from shared_trainer import all_ids, ids_of

from weighted_stream import SharedStore, WeightStore

HERE = Path(__file__).parent


class _Trainer:
    """A process that is started again each time it was killed.

    Args:
        server: it shares with.
        path: of its local store.
        seed: of what it does.
    """

    def __init__(self, server: SharedServer, path: Path, seed: int) -> None:
        self.path, self.seed, self.done = path, seed, -1
        self._server = server
        self.start()

    def start(self) -> None:
        """Begin, or go on."""
        places = os.pathsep.join([str(HERE.parents[1]), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "shared_trainer.py"), self._server.url, str(self.path), str(self.seed)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,))
        self._listener.start()

    def kill(self) -> None:
        """kill -9."""
        ended = self._process.poll() is not None
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert not ended, f"trainer {self.seed} ended by itself"

    def end(self) -> None:
        """kill -9, whether it runs or not."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith(b"\n"):
                    self.done = int(line)

    @property
    def listening(self) -> bool:
        """Whether the present process has said anything."""
        assert self._process.poll() is None, f"trainer {self.seed} ended by itself"
        return self.done >= 0


def kill_at_random(
    folder: Path, kills: int, *, seed: int = 0, trainers: int = 2, durable: bool | None = None
) -> Counter[str]:
    """Kill server or trainers so many times, and see that everything adds up.

    Args:
        folder: for all files.
        kills: how many.
        seed: of who is killed, and when.
        trainers: how many there are.
        durable: whether the server keeps what it has acknowledged; False: it comes back empty. None: by the seed.

    Returns:
        How often each was killed; ``updates``: of all trainers.
    """
    chance = random.Random(seed)
    durable = chance.random() < 0.5 if durable is None else durable
    killed: Counter[str] = Counter()
    with ExitStack() as stack:
        server = stack.enter_context(SharedServer(folder / "server", durable=durable))
        crew: list[_Trainer] = []
        for number in range(trainers):
            crew.append(_Trainer(server, folder / f"trainer-{number}", seed * 1000 + number))
            stack.callback(crew[-1].end)
        for one in crew:
            _until(lambda one=one: one.listening)  # type: ignore[misc]
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.3))
            victim = chance.choice([None, *crew])
            if victim is None:
                server.kill()
                time.sleep(chance.uniform(0.0, 0.3))
                server.start()
            else:
                victim.kill()
                victim.start()
            killed["server" if victim is None else "trainer"] += 1
        time.sleep(chance.uniform(0.0, 1.0))
        for one in crew:
            one.kill()
        expected = np.zeros(len(all_ids()), np.int64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The shared store at", RuntimeWarning)
            warnings.filterwarnings("ignore", "The journal of the store", RuntimeWarning)
            for one in crew:
                expected += _check_local(one)
                killed["updates"] += one.done + 1
            for one in crew:
                SharedStore(server.url, one.path, name="killing").close()
            with SharedStore(server.url, name="killing", every=0.01) as reader:
                _until(lambda: reader.get(all_ids())["visits"].tolist() == expected.tolist())
                assert sum(known["visits"].sum() for _, known in reader.chunks()) == expected.sum()
    return killed


def _check_local(trainer: _Trainer) -> np.ndarray:
    """What a trainer has acknowledged is in its local store, all of it and perhaps one update more."""
    # For writing: what the journal has of an update that was cut short is made then. Who only reads may not see it yet.
    with WeightStore(trainer.path) as local:
        visits = local.get(all_ids())["visits"]
        updates = round(local.stats()["visits"]) // 9
    assert updates in (trainer.done + 1, trainer.done + 2)
    expected: Counter[int] = Counter()
    for update in range(updates):
        expected.update(ids_of(trainer.seed, update).tolist())
    assert visits.tolist() == [expected[number] for number in all_ids().tolist()]
    return visits


def _until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)

"""A process that trains with a shared store until it is killed: `python shared_trainer.py URL PATH SEED`.

Update k gives loss 1 to nine ids; its number is printed once the update has returned.
"""

from __future__ import annotations

import os
import sys
import time
import warnings

import numpy as np
import numpy.typing as npt

from weighted_stream import SharedStore
from weighted_stream.sample_ids import HASHED

SAMPLES = 400


def ids_of(seed: int, update: int) -> npt.NDArray[np.int64]:
    ids = np.random.default_rng([seed, update]).choice(SAMPLES, 9, replace=False)
    return np.where(ids % 4 == 0, HASHED + ids * 104_729, ids * 31)


def all_ids() -> npt.NDArray[np.int64]:
    ids = np.arange(SAMPLES)
    return np.where(ids % 4 == 0, HASHED + ids * 104_729, ids * 31)


def main(url: str, path: str, seed: int) -> None:
    warnings.filterwarnings("ignore", "The shared store at", RuntimeWarning)
    warnings.filterwarnings("error", "Nothing is shared any more", RuntimeWarning)
    store = SharedStore(url, path, name="killing", every=0.01, timeout=1.0, must_connect=False)
    update = round(store.stats()["visits"]) // 9
    while True:
        store.update(ids_of(seed, update), loss=np.ones(9), weight=np.full(9, update), step=update)
        os.write(1, b"%d\n" % update)
        update += 1
        time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

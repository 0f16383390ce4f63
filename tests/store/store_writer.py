"""A process that writes a store until it is killed: `python store_writer.py PATH`.

Update k gives loss k, weight k + 1 and step k to id 0 and to eight dense and eight hashed ids of its own; its
number is printed once the update has returned.
"""

from __future__ import annotations

import os
import sys
from itertools import count

import numpy as np
import numpy.typing as npt

from weighted_stream.sample_ids import HASHED
from weighted_stream.store import WeightStore


def ids_of(update: int) -> npt.NDArray[np.int64]:
    own = np.arange(8) * 1000 + update * 7919 + 1
    return np.concatenate([[0], own, HASHED + own * 104_729])


def main(path: str) -> None:
    store = WeightStore(path)
    for update in count():
        ids = ids_of(update)
        store.update(ids, loss=np.full(17, update), weight=np.full(17, update + 1), step=update)
        os.write(1, b"%d\n" % update)


if __name__ == "__main__":
    main(sys.argv[1])

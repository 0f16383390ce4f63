"""What feedback needs of a store, and of a scorer that runs ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import StateError
from weighted_stream.signals import Signals
from weighted_stream.state import with_arrays


class Memory(Protocol):
    """What strategies are told of, and the feedback looks up."""

    @property
    def groups(self) -> Sequence[str]:
        """The names of the groups, by number."""

    def get(self, ids: Any) -> dict[str, NDArray[Any]]:
        """The records of these ids."""

    def set_groups(self, ids: Any, names: Sequence[str]) -> None:
        """Remember of which groups samples are."""

    def stats(self) -> dict[str, float]:
        """Figures over all records and the latest feedback."""

    def chunks(self) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """Everything in it."""


class Written(Memory, Protocol):
    """A store that this process writes."""

    def record(self, ids: Any, loss: Any, weight: Any = None, *, step: int) -> None:
        """Remember the losses and weights of a batch."""

    def update(
        self,
        ids: Any,
        *,
        loss: Any = None,
        weight: Any = None,
        similarity: Any = None,
        group: Any = None,
        step: int | None = None,
    ) -> None:
        """Remember something of samples."""

    def state_dict(self) -> dict[str, Any]:
        """What it takes to be again as it is now."""

    def load_state_dict(self, state: Any) -> None:
        """Be again as it was then."""


class Ahead(Protocol):
    """What the feedback needs of a scorer that runs ahead."""

    def check(self) -> None:
        """Raise what stopped it."""

    def meet(self, signals: Signals) -> None:
        """The strategy is about to be asked about these samples."""

    def passed(self, count: int) -> None:
        """So many samples have been weighed for the first time."""


def restore_store(store: Written, state: Mapping[str, Any]) -> None:
    """Put a store back to a state, with what was still to be written to it then.

    Raises:
        StateError: if the state has no store in it.
    """
    if state["files"] is None:
        raise StateError(
            "This state has no store in it.",
            found="the state of a rank that reads a store which another rank of its node writes",
            expected="the state of the rank that writes it: the first one of the node",
            do="load the state of rank 0 on all ranks; with several machines, of the first rank of each",
        )
    store.load_state_dict(with_arrays(state["files"]))
    for call in with_arrays(state["later"]):
        write = store.set_groups if "names" in call else store.update
        write(**call)

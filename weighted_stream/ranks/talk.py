"""Talk: exchanges of packets between the ranks, numbered, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weighted_stream.errors import RanksError
from weighted_stream.position import Position
from weighted_stream.ranks.group import Exchange, RankGroup
from weighted_stream.ranks.node import NodeStore
from weighted_stream.ranks.packet import NO_FLOATS, NO_IDS, Floats, Ids, Kind, Packet, Place

_DOES = {
    Kind.BEGIN: "begins",
    Kind.FEEDBACK: "weighs a batch of",
    Kind.ENDED: "has ended",
    Kind.LOAD: "loads a state in",
    Kind.ADD: "adds up a batch of",
    Kind.NOTHING: "weighs a batch without a finite loss of",
}


class Talk:
    """One exchange after the other; at most one is under way.

    Args:
        group: the ranks.
        store: of this node; has something to tell, too.

    Attributes:
        epoch: that this rank is in.
        position: how far it is there; None before it has begun.
        number: of the latest exchange that is over, from 1.
        places: how far each rank was in its epoch, as it said last.
        all_ended: whether all ranks said in the latest exchange that their loader has ended.
    """

    def __init__(self, group: RankGroup, store: NodeStore) -> None:
        self._group, self._store = group, store
        self.rank, self.number, self.all_ended = group.rank, 0, False
        self.places = [Place()] * group.size
        self.epoch = 0
        self.position: Position | None = None
        self._passed: list[tuple[Ids, int]] = []
        self._under_way: Exchange | None = None

    def packet(
        self, kind: Kind, ids: Ids = NO_IDS, losses: Floats = NO_FLOATS, weights: Floats | None = None, step: int = 0
    ) -> Packet:
        """What to say where this rank stands; with the candidates that were passed over since the last one."""
        passed, self._passed = self._passed, []
        packet = Packet(kind, self.epoch, step, self._place(), 0, ids, losses, weights)
        if passed:
            packet.passed = np.concatenate([ids for ids, _ in passed])
            packet.passed_steps = np.repeat([step for _, step in passed], [len(ids) for ids, _ in passed])
        return packet

    def pass_over(self, ids: Ids, step: int) -> None:
        """These candidates were not chosen: the next packet tells of them."""
        self._passed.append((ids, step))

    def forget(self) -> None:
        """What was not said yet is void."""
        self._passed = []

    def say(self, packet: Packet) -> list[Packet]:
        """One whole exchange; nothing is under way."""
        self.start(packet)
        packets = self.finish()
        assert packets is not None
        return packets

    def start(self, packet: Packet) -> None:
        """Begin to tell the others."""
        self._under_way = self._group.start(self._store.fill(packet).to_bytes())

    def finish(self) -> list[Packet] | None:
        """What every rank said; None if nothing is under way.

        Raises:
            RanksError: if one is gone, or they are at different places.
        """
        if self._under_way is None:
            return None
        exchange, self._under_way = self._under_way, None
        packets = [Packet.from_bytes(said) for said in exchange.wait()]
        check_together(packets)
        self.number += 1
        self.places = [packet.place for packet in packets]
        self.all_ended = all(packet.kind is Kind.ENDED for packet in packets)
        self._store.settle(self.number, packets)
        return packets

    def agree(self, kind: Kind, error: Exception | None) -> None:
        """All ranks are through with something, or none is.

        Raises:
            Exception: this rank's.
            RanksError: if another rank has one.
        """
        packets = self.say(Packet(kind, note="" if error is None else str(error) or type(error).__name__))
        if error is not None:
            raise error
        check_agreed(packets)

    def places_now(self) -> list[list[int]]:
        """The places of all ranks, with that of this one as it is now."""
        places = [list(place) for place in self.places]
        places[self.rank] = list(self._place())
        return places

    def _place(self) -> Place:
        """This rank's, as the others are told."""
        position = self.position
        if position is None:
            return Place()
        return Place(position.drawn, position.samples, position.batches, position.digest, int(position.over))


def check_agreed(packets: Sequence[Packet]) -> None:
    """Raise what another rank has raised.

    Raises:
        RanksError: with its text.
    """
    for rank, packet in enumerate(packets):
        if packet.note:
            raise RanksError(
                f"Rank {rank} cannot go on.",
                found=packet.note.replace("\n", "\n            "),
                expected="every rank to get through",
                do=f"see what rank {rank} says",
            )


def check_together(packets: Sequence[Packet]) -> None:
    """Raise unless the ranks are where they can understand each other.

    Raises:
        RanksError: naming where each of them is.
    """
    kinds = {packet.kind for packet in packets}
    epochs = {packet.epoch for packet in packets if packet.kind is not Kind.LOAD}
    weighing = kinds - {Kind.NOTHING, Kind.ENDED}
    if len(epochs) <= 1 and (len(kinds) == 1 or weighing in (set(), {Kind.FEEDBACK}, {Kind.ADD})):
        return
    raise RanksError(
        "The ranks are at different places of their training.",
        found="; ".join(f"rank {r} {_DOES[packet.kind]} epoch {packet.epoch}" for r, packet in enumerate(packets)),
        expected="every rank at the same epoch, weighing its n-th batch while the others weigh theirs",
        do="let every rank go through its loader to the end, or leave it at the same batch; load a state on every "
        "rank; or process_group=False, and each rank weighs by itself",
    )

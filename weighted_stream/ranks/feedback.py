"""RankedFeedback: where losses come back, and go on to every other rank that trains the same model.

Every rank weighs one batch at a time, the n-th of its epoch while the others weigh their n-th; together these are the
global batch. A joint strategy gets all its losses before it says a weight; feedback of the others is on its way while
the trainer goes on, and is learned from before the next weight. So every rank has the same store and the same strategy
as one process with the global batch would have.
"""

from __future__ import annotations

import atexit
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.batch import Batch, Positions
from weighted_stream.feedback import Feedback, Floats, host_array, in_float32
from weighted_stream.memory import Ahead, restore_store
from weighted_stream.position import Position
from weighted_stream.ranks.everyone import Everyone
from weighted_stream.ranks.group import RankGroup
from weighted_stream.ranks.listener import Listener
from weighted_stream.ranks.node import NodeStore
from weighted_stream.ranks.packet import NO_FLOATS, Kind, Packet
from weighted_stream.ranks.sums import Sums, said_by_others, total
from weighted_stream.ranks.talk import Talk
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, with_tensors
from weighted_stream.strategies.base import Strategy


class RankedFeedback(Feedback):
    """Binds a strategy to the store of its node, for the batches of one stream on every rank.

    Args:
        strategy: makes the weights.
        store: of this node.
        group: the ranks; each makes the same streams in the same order.
        ahead: scores samples before they come here, if the strategy wants that.
    """

    def __init__(self, strategy: Strategy, store: NodeStore, group: RankGroup, ahead: Ahead | None = None) -> None:
        super().__init__(strategy, store, ahead)  # type: ignore[arg-type]  # written in turns, see _after
        self._written = None
        self._node, self._talk = store, Talk(group, store)
        self._iterates = False
        self._compared = False
        self._open: Batch | None = None  # its feedback is not sent yet
        self._rows: list[tuple[NDArray[np.int64], Floats, Floats]] = []
        self._device = torch.device("cpu")
        self._listener: Listener | None = None
        atexit.register(_finish, weakref.ref(self))

    def __del__(self) -> None:
        _finish(lambda: self)

    def begin_epoch(self, epoch: int) -> None:
        """Wait for all ranks to begin it; everything before is in every store then."""
        self.set_epoch(epoch)
        self._iterates = True

    def set_epoch(self, epoch: int) -> None:
        """The same for loaders that the user makes, of whose end nobody knows."""
        if self._iterates:
            self.end_epoch()  # it was left early
        self._enter()
        with self._threads:
            self._flush()
            talk = self._talk
            talk.epoch, talk.position = epoch, None
            for _ in range(2):  # what came is written when the first is over, and known to be when the second is
                talk.say(talk.packet(Kind.BEGIN))
            self._node.read_names()

    def go_through(self, position: Position) -> None:
        """It goes through this epoch."""
        self._talk.position = position

    def end_epoch(self) -> None:
        """Go on listening to the ranks that have not ended, in a thread: the trainer may have to wait for them, too."""
        self._enter()
        with self._threads:
            self._flush()
        self._iterates = False
        self._listener = Listener(self._listen)

    def settle(self) -> None:
        """Wait until the batches that all ranks have weighed, up to this one's latest whole one, are remembered."""
        self._enter()
        with self._threads:
            self._catch_up()

    def close(self) -> None:
        """Hear the others out; what came from them is written, even if they are gone."""
        try:
            self.settle()
        finally:
            self._node.write_all()
            super().close()

    @property
    def rank(self) -> int:
        """Which rank this is."""
        return self._talk.rank

    def stored(self) -> dict[str, Any]:
        """The store's part of a state: without the store's files on a rank that only reads them."""
        self.settle()
        node = self._node
        files = with_tensors(node.inner.state_dict()) if node.inner.writable else None
        return {"files": files, "later": [] if files is None else with_tensors(node.not_written())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the store back to a state, on all ranks at the same time."""
        check_keys("the store's part of a state", state, ("files", "later"))
        self._enter()
        with self._threads:
            self._catch_up()
            self._open, self._rows, self._iterates = None, [], False
            self._talk.forget()
            error: Exception | None = None
            held = self._node.hold()  # or the exchange below would write it into what the store has gone back to
            if self._node.inner.writable:
                try:
                    restore_store(self._node.inner, state)
                except Exception as raised:
                    error = raised
                    self._node.put_back(held)
            self._talk.agree(Kind.LOAD, error)
            self._node.forget()

    def places(self) -> list[list[int]]:
        """How far every rank is in the epoch, as of the latest exchange; this one as it is now."""
        return self._talk.places_now()

    def _after(self, packets: list[Packet]) -> Everyone | None:
        """Learn from an exchange; the global batch, if one was weighed."""
        number, node = self._talk.number, self._node
        self._warn_of_the_same(packets)
        node.learn(number, packets, self._talk.rank)
        for packet in packets:
            node.pass_over(number, packet.passed, packet.passed_steps, self.strategy.remembers)
        if not any(packet.kind in (Kind.FEEDBACK, Kind.NOTHING) for packet in packets):
            return None
        everyone = Everyone(packets, self._talk.rank)
        self.step = max(self.step, everyone.step + 1)
        return everyone

    def _warn_of_the_same(self, packets: list[Packet]) -> None:
        """Where nobody shares the samples out: said at the first batch that several ranks have weighed."""
        if self._compared:
            return
        shares = [np.sort(packet.ids) for packet in packets if packet.kind is Kind.FEEDBACK and len(packet.ids) > 1]
        self._compared = len(shares) > 1
        if not self._compared:
            return
        if all(np.array_equal(shares[0], other) for other in shares[1:]):
            warnings.warn(
                "All ranks weigh the same samples: each loader draws from the whole dataset, in the same order. Give "
                "it sampler=DistributedSampler(dataset) (Composer: composer.utils.dist.get_sampler); or, if the ranks' "
                "datasets differ, ids that do (id_fn=).",
                RuntimeWarning,
                stacklevel=2,
            )

    def _catch_up(self) -> None:
        packets = self._talk.finish()
        if packets is not None:
            self._take_in(packets)

    def _take_in(self, packets: list[Packet]) -> None:
        """Learn from an exchange, also the feedback of the others."""
        everyone = self._after(packets)
        if everyone is None:
            return
        if self._weighs_all:
            self._weigh_all(everyone, everyone.losses, {}, counts=True)
            return
        if len(everyone):
            self._record(everyone, everyone.losses, everyone.weights)
        if not self.strategy.local:
            finite = everyone.finite()
            losses = torch.from_numpy(everyone.losses[finite]).to(self._device)
            super()._learn(self._global_signals(everyone, finite, losses, {}))

    @property
    def _weighs_all(self) -> bool:
        return self.strategy.joint and not self.strategy.local and self.strategy.budget is None

    @property
    def _adds_up(self) -> bool:
        """Whether the strategy may ask for sums over all ranks."""
        return self.strategy.joint and self.strategy.local and self.strategy.budget is None

    def _resolve(
        self, batch: Batch, positions: Positions, ids: NDArray[np.int64], losses: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        self._device = losses.device
        if self._open is not batch:
            self._flush()
        else:
            self._catch_up()
        if self._weighs_all and not batch.is_part(positions):
            return self._resolve_everywhere(batch, positions, losses)
        weights, finite = super()._resolve(batch, positions, ids, losses)
        if self._open is batch and batch.counted:
            nothing = self._adds_up and not np.isfinite(np.concatenate([losses for _, losses, _ in self._rows])).any()
            self._send(Kind.NOTHING if nothing else Kind.FEEDBACK)
            if nothing:
                self._stand_by(batch)
        return weights, finite

    def _stand_by(self, batch: Batch) -> None:
        """Stay at this batch while the others add up theirs; if it is run again, it gets what they said."""
        while (packets := self._talk.finish()) is not None:
            self._take_in(packets)
            if any(packet.kind is Kind.ADD for packet in packets):
                said_by_others(batch.scratch).append(total(packets))
                self._talk.start(self._talk.packet(Kind.NOTHING, step=batch.step or 0))

    def _resolve_everywhere(self, batch: Batch, positions: Positions, losses: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights of a whole batch from the losses of all ranks."""
        _, host, finite = in_float32(losses)
        in_order = host
        if positions is not None:
            in_order = np.empty_like(host)
            in_order[positions] = host
        everyone: Everyone | None = batch.scratch.get(Everyone)
        first = everyone is None
        if everyone is None:
            signals = self._signals(batch, None, None)  # tells the store of its groups, too
            if self.ahead is not None:
                self.ahead.meet(signals)
            if batch.step is None:
                batch.step, self.step = self.step, self.step + 1
            packets = self._talk.say(self._talk.packet(Kind.FEEDBACK, batch.ids, in_order, None, batch.step))
            everyone = batch.scratch[Everyone] = self._after(packets)
            assert everyone is not None
        weights = self._weigh_all(everyone, everyone.again(in_order), batch.scratch, counts=first)[everyone.mine]
        if positions is not None:
            weights = weights[torch.from_numpy(positions).to(weights.device)]
        batch.keep(positions, weights)
        if first:
            batch.count(None)
            self._tell_scorer(batch, len(batch.ids))
        return weights, finite

    def _weigh_all(self, everyone: Everyone, losses: Floats, scratch: dict[Any, Any], *, counts: bool) -> Tensor:
        """The weights (N,) of the global batch; remembered, and learned from, if it ``counts``."""
        values = torch.from_numpy(losses).to(self._device)
        finite = np.isfinite(losses)
        everywhere = bool(finite.all())
        signals = self._global_signals(everyone, finite, values if everywhere else values[_on(finite, values)], scratch)
        if everywhere:
            weights, host = self._weights(signals) if len(signals) else (torch.zeros_like(values), NO_FLOATS)
        else:
            weights = torch.zeros_like(values)
            if len(signals):
                weights[_on(finite, values)] = self._weights(signals)[0]
            host = host_array(weights)
        if counts:
            self._record(everyone, losses, host)
            super()._learn(signals)
        return weights

    def _record(self, everyone: Everyone, losses: Floats, weights: Floats | None) -> None:
        """Write the feedback of all ranks down."""
        for onlooker in self.onlookers:
            onlooker.meet(everyone.ids, everyone.step, self._node)
        remembered = weights if self.strategy.remembers else None
        self._node.record(self._talk.number, everyone.ids, losses, remembered, everyone.step)
        if weights is not None:
            for onlooker in self.onlookers:
                onlooker.see(everyone.ids, losses, weights, everyone.step, self._node)

    def _global_signals(
        self, everyone: Everyone, finite: NDArray[np.bool_], losses: Tensor, scratch: dict[Any, Any]
    ) -> Signals:
        ids = everyone.ids if finite.all() else everyone.ids[finite]
        scores = everyone.similarity if finite.all() else everyone.similarity[finite]

        def records(of: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            found = self._node.agreed(of)
            return {**found, "similarity": scores.copy()} if of is ids else found  # whatever this rank knows besides

        return Signals(ids, everyone.step, losses, records, scratch, group_names=self._group_names)

    def _signals(self, batch: Batch, places: Positions, losses: Tensor | None, asked: Positions = None) -> Signals:
        signals = super()._signals(batch, places, losses, asked)
        if self._adds_up and losses is not None:
            signals.add_up = Sums(self._add_up, batch.scratch)
        return signals

    def _add_up(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        packet = self._talk.packet(Kind.ADD)
        packet.numbers = numbers
        packets = self._talk.say(packet)
        self._take_in(packets)
        return total(packets)

    def _count(
        self,
        batch: Batch,
        positions: Positions,
        ids: NDArray[np.int64],
        losses: Floats,
        weights: Floats,
        signals: Signals,
    ) -> None:
        super()._count(batch, positions, ids, losses, weights, signals)
        if self._rows:
            self._open = batch

    def _remember(self, ids: NDArray[np.int64], losses: Floats, weights: Floats, step: int) -> None:
        self._rows.append((ids, losses.copy(), weights.copy()))

    def _remember_passed(self, ids: NDArray[np.int64], step: int) -> None:
        self._talk.pass_over(ids, step)

    def _learn(self, signals: Signals) -> None:
        if self.strategy.local:
            super()._learn(signals)

    def _flush(self) -> None:
        """Send what is not sent, and learn what is under way."""
        if self._open is not None:
            self._send()
        self._catch_up()

    def _send(self, kind: Kind = Kind.FEEDBACK) -> None:
        """Begin to tell the others of the batch that is open; they tell of theirs."""
        batch, rows = self._open, self._rows
        self._open, self._rows = None, []
        assert batch is not None
        assert batch.step is not None
        ids, losses, weights = (np.concatenate(column) for column in zip(*rows, strict=True))
        self._catch_up()
        packet = self._talk.packet(kind, ids, losses, weights, batch.step)
        self._talk.start(packet)

    def _listen(self) -> None:
        """Until all ranks have ended: say nothing, and learn from the others."""
        talk = self._talk
        while True:
            with self._threads:
                talk.start(talk.packet(Kind.ENDED))
                self._catch_up()
                if talk.all_ended:
                    break
        with self._threads:
            for _ in range(2):  # everything is written, and known to be
                talk.say(talk.packet(Kind.ENDED))

    def _enter(self) -> None:
        """Also wait until all ranks have ended the epoch that this one has ended.

        Raises:
            RanksError: if one of them did not come.
        """
        super()._enter()
        listener = self._listener
        if listener is not None:
            try:
                listener.wait()
            finally:
                self._listener = None


def _on(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(like.device)


def _finish(reference: Callable[[], RankedFeedback | None]) -> None:
    """At the end of the program, or of the stream: remember what is under way."""
    feedback = reference()
    if feedback is not None:
        try:
            feedback.close()
        except Exception as error:  # the others may be gone by now: there is nobody to tell, and nothing to do
            del error

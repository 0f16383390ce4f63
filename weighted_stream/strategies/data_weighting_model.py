"""DataWeightingModel: a small network learns how to weigh the samples of a batch against each other."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weighted_stream.errors import StrategyError
from weighted_stream.probes.directional import Derivatives
from weighted_stream.probes.hidden_states import HiddenStateProbe, MaskOf
from weighted_stream.probes.look_ahead import LookAhead
from weighted_stream.probes.model_losses import LossFn, standard_losses
from weighted_stream.probes.target import KeptTarget, target_vectors
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, copied, like_state
from weighted_stream.strategies.meta_learned import LEARNED, MetaLearned, load_psi
from weighted_stream.strategies.options import check_choice, check_integer, check_number
from weighted_stream.strategies.seen import Seen
from weighted_stream.strategies.weighting_files import load_network, save_network
from weighted_stream.strategies.weighting_network import WeightingNetwork, relative, standardised

HEADS = 4
"""Of the network's attention."""

SIZES = ("anchors", "width", "layers")
"""The options that a network's shape depends on."""


class DataWeightingModel(MetaLearned):
    """DWM: a network gives each sample a weight within its batch, and learns it from a target (arXiv 2507.16178).

    ``w = M softmax(network(features))`` over the batch. At times the network (its parameters are psi) is updated so
    that one step of the model on the weighted batch lowers the loss of a target: ``psi`` takes a step of Adam down
    ``L_val(theta - eta P grad mean_i(w_i(psi) l_i(theta)))``. Otherwise it is frozen. Published is this structure: a
    weight from the whole batch (joint effects), the bi-level update through one step, stages that alternate with the
    weighting model first in each of 5, and the transfer of a trained weighting model to other data and models.

    Ours, where the published text does not fix it: the network (`WeightingNetwork`), which begins exactly uniform; its
    features, the cosines of a sample's pooled last hidden state with those of ``anchors`` samples of the target under
    the present model (`relative`, an idea of arXiv 2209.15430) and the loss, standardised over the batch; the gradient
    in its memory-light form (`LookAhead`); psi's Adam; and the stages in batches: stage s begins at batch
    ``s * stage_steps``, psi learns on its first ``updates`` batches while the model trains on (the loop is the usual
    one), and then stays as it is; after the last stage for good.

    Features say nothing of the model's width or the scale of its losses, so a trained network can be taken elsewhere:
    `save` it, and `load` it for another model or other data, with the same samples (in the same order) as target.

    Cost: an update adds, to a step, a forward and backward of the batch and of a target batch, and two forwards of the
    batch: with a target batch of the same size 8/3 of a step. By default 40 of 1,000 batches are learned from: 1.11
    steps a step. The hidden states come from the training forward; anchors cost one forward of the first
    ``anchors`` samples of the target every ``refresh_every`` batches. Updates need the batch itself, from
    ``stream.loader(...)`` (with ``as_dict``, one of its latest 64); frozen use does not. A batch is weighed as a
    whole: with micro-batches, run all forwards, resolve all losses, then use the parts. In DistributedDataParallel
    each rank weighs its own part of the batch, psi's gradient is averaged over the ranks, and psi stays the same on
    all of them.

    Make it before the first call of a model that `torch.compile` compiles. Restrictions: see `HiddenStateProbe` and
    `LookAhead`.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel; to learn, its
            parameters in float32 (autocast is fine).
        target: what the model should become good at: an iterable of batches as ``loss_fn`` takes them; read once,
            under a fixed seed, and kept. Each update takes the next batch; the first samples are the anchors.
        optimizer: of the model, `torch.optim.SGD`, Adam or AdamW: how far a step goes, P included.
        eta: the learning rate of the look-ahead, if not the optimizer's present one.
        loss_fn: ``loss_fn(model, batch)`` gives one loss per sample, (B,); it gets the bare model, and computes without
            autocast (it must not enter it, but with ``derivatives="exact"``). None: `standard_losses`. A ``batch`` is
            what the loader hands over, or one of the target.
        stages: how many stages psi learns in.
        stage_steps: how many batches a stage has; a few hundred batches in all want fewer.
        updates: on how many of them psi learns, from the stage's first on.
        lr: of psi's Adam.
        anchors: how many samples of the target are anchors; it must have so many.
        width: of the network's layers, a multiple of 4.
        layers: how many encoder layers it has.
        refresh_every: how many batches the anchors' hidden states last.
        derivatives: see `LookAhead`.
        frozen: psi never learns; neither optimizer nor eta is needed.
        seed: of psi's first values.
        head: the model's output layer, see `HiddenStateProbe`; also for the next two.
        body: in place of ``head``, the module whose output are the last hidden states.
        mask: where the attention mask is.

    Raises:
        StrategyError: for an option outside its range, a target that is none, a head that cannot be found, neither
            optimizer nor eta.

    Example:
        >>> from weighted_stream import WeightedStream, per_sample_cross_entropy
        >>> model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        >>> def loss_fn(model, tokens):
        ...     return per_sample_cross_entropy(model(tokens)[:, :-1], tokens[:, 1:])
        >>> tokens = torch.arange(80).reshape(20, 4) % 9
        >>> dwm = DataWeightingModel(model, [tokens[:4]], optimizer, loss_fn=loss_fn, anchors=4, head="1")
        >>> for batch, weight in WeightedStream(tokens, dwm).loader(batch_size=5):
        ...     (loss_fn(model, batch) * weight).mean().backward()
        ...     optimizer.step()
        >>> dwm.updates_made, weight.tensor().shape
        (4, torch.Size([5]))
    """

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        optimizer: Optimizer | None = None,
        *,
        eta: float | None = None,
        loss_fn: LossFn | None = None,
        stages: int = 5,
        stage_steps: int = 1000,
        updates: int = 40,
        lr: float = 1e-3,
        anchors: int = 32,
        width: int = 64,
        layers: int = 1,
        refresh_every: int = 50,
        derivatives: Derivatives = "difference",
        frozen: bool = False,
        seed: int = 0,
        head: nn.Module | str | None = None,
        body: nn.Module | str | None = None,
        mask: MaskOf | None = None,
    ) -> None:
        who = "DataWeightingModel"
        self.eta = None if eta is None else check_number(who, "eta", eta, above=0)
        self.stages = check_integer(who, "stages", stages, least=1)
        self.stage_steps = check_integer(who, "stage_steps", stage_steps, least=1)
        self.updates = check_integer(who, "updates", updates, least=0)
        self.lr = check_number(who, "lr", lr, above=0)
        self.anchors = check_integer(who, "anchors", anchors, least=1)
        self.width = check_integer(who, "width", width, least=HEADS)
        if self.width % HEADS:
            raise StrategyError(
                "The heads of the network's attention do not share its width.",
                found=f"width={width}",
                expected=f"a multiple of {HEADS}",
                do=f"for example width={-(-width // HEADS) * HEADS}",
            )
        self.layers = check_integer(who, "layers", layers, least=1)
        self.refresh_every = check_integer(who, "refresh_every", refresh_every, least=1)
        self.frozen = bool(frozen)
        check_choice(who, "derivatives", derivatives, ("difference", "exact"))
        network = WeightingNetwork(anchors + 1, width, layers, HEADS, check_integer(who, "seed", seed, least=0))
        probe = HiddenStateProbe(model, head=head, body=body, mask=mask)
        kept, ahead = KeptTarget(target, probe.model), None
        if not frozen:
            ahead = LookAhead(model, kept, optimizer, eta=self.eta, loss_fn=loss_fn, derivatives=derivatives)
        super().__init__(network, ahead, self.lr)
        self._target, self._loss_fn = kept, loss_fn or standard_losses
        self._probe = probe
        self._states: Tensor | None = None
        self._age = 0

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network to a file (npz), for `load`; the old one is replaced only by a whole one.

        Raises:
            OSError: if it cannot be written.
        """
        save_network(path, {name: getattr(self, name) for name in SIZES}, self._psi)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        model: nn.Module,
        target: Any,
        optimizer: Optimizer | None = None,
        *,
        frozen: bool = True,
        **options: Any,
    ) -> DataWeightingModel:
        """The network of a file at work for this model: the one it learned with, or another one, on any data.

        Args:
            path: what `save` wrote.
            model: see `DataWeightingModel`, also for the other arguments.
            target: of the same samples in the same order as where it learned, as this model takes them: a feature is
                the likeness to one of them.
            optimizer: only to learn on.
            frozen: whether psi stays as it is; else it learns on, with a fresh Adam, from stage 0.
            **options: of `DataWeightingModel`, but for ``anchors``, ``width`` and ``layers``, which are the file's.

        Raises:
            StateError: for a file that is not whole, or none of a weighting network.
            StrategyError: for options that cannot be.
            FileNotFoundError: if there is no such file.

        Example:
            >>> import tempfile
            >>> small, wide = (nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in (8, 32))
            >>> target = [(torch.randn(6, 3), torch.randint(2, (6,)))]
            >>> with tempfile.NamedTemporaryFile() as file:
            ...     DataWeightingModel(small, target, eta=0.1, anchors=6, head="1").save(file.name)
            ...     dwm = DataWeightingModel.load(file.name, wide, target, head="1")
            >>> dwm.anchors, dwm.frozen
            (6, True)
        """
        kept, psi = load_network(path)
        check_keys(f"the size of a weighting network in {path}", kept, SIZES)
        sizes: dict[str, Any] = dict(kept)
        strategy = cls(model, target, optimizer, frozen=frozen, **sizes, **options)
        load_psi(strategy._network, psi, cls.__name__)
        return strategy

    def state_dict(self) -> dict[str, Any]:
        """Psi, its Adam's state, how far the stages are, and the anchors' hidden states with their age."""
        return {**super().state_dict(), "anchors": copied(self._states), "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the same weights, and the same updates, as where it was taken.

        Raises:
            StateError: for a state of another kind of strategy, or of a network of another size.
        """
        check_keys("DataWeightingModel's state", state, (*LEARNED, "anchors", "age"))
        super().load_state_dict({name: state[name] for name in LEARNED})
        anchors = state["anchors"]
        self._states = None if anchors is None else like_state("What the anchors showed", anchors, 2)
        self._age = int(state["age"])

    def close(self) -> None:
        """Take the hooks off the model; also done when this is collected."""
        self._probe.close()

    def _is_due(self) -> bool:
        stage, place = divmod(self._batches, self.stage_steps)
        return not self.frozen and stage < self.stages and place < self.updates

    @torch.no_grad()
    def _features(self, signals: Signals) -> Tensor:
        """Cosines with the anchors, and the standardised loss."""
        seen: Seen = signals.scratch.setdefault(self, Seen())
        vectors = seen.of(signals, self._probe)
        new = self._is_new(signals)
        if self._states is None or (new and self._age >= self.refresh_every):
            self._states, self._age = self._anchor_states(), 0
        self._age += new
        alike = relative(vectors, self._states.to(vectors.device))
        return torch.cat([alike, standardised(self.losses(signals).to(vectors.device)).unsqueeze(1)], 1)

    def _anchor_states(self) -> Tensor:
        """The anchors as the model sees them now, (K, H)."""
        found = target_vectors(self._probe, self._target.batches, self._loss_fn, self.anchors)
        if len(found) < self.anchors:
            raise StrategyError(
                "The target has fewer samples than there shall be anchors.",
                found=f"{len(found)} samples, anchors={self.anchors}",
                expected="as many samples as anchors, or more",
                do=f"a larger target, or anchors={len(found)}",
            )
        return found

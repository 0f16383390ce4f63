"""MetaWeightNet: a small network learns, from a clean target, which loss deserves which weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weighted_stream.probes.directional import Derivatives
from weighted_stream.probes.look_ahead import LookAhead
from weighted_stream.probes.model_losses import LossFn
from weighted_stream.signals import Signals
from weighted_stream.strategies.gate import Normalize, normalized
from weighted_stream.strategies.meta_learned import MetaLearned
from weighted_stream.strategies.options import check_choice, check_integer, check_number


class LossNetwork(nn.Module):
    """``w = sigmoid(MLP(l))`` with one hidden layer of 100 and ReLU; arXiv 1902.07379.

    Args:
        normalize: ``"mean"``: divided by their sum, times M; ``"none"``: as they are.
        seed: of the first values; torch's own random state is left alone.

    Example:
        >>> LossNetwork()(torch.rand(5, 1)).mean().item() - 1 < 1e-6
        True
    """

    def __init__(self, normalize: Normalize = "mean", seed: int = 0) -> None:
        super().__init__()
        self.normalize = normalize
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.mlp = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())

    def forward(self, losses: Tensor) -> Tensor:
        """Weights (M,) of losses (M, 1), float32."""
        return normalized(self.mlp(losses).squeeze(1), self.normalize)


class MetaWeightNet(MetaLearned):
    """Meta-Weight-Net: the weight is a function of the loss, learned from a small clean target (arXiv 1902.07379).

    ``w_i = sigmoid(MLP(l_i))``, 1-100-1, scaled to average 1 over the batch. Before a batch is weighed, psi (the MLP's
    parameters) takes a step of Adam down ``L_val(theta'(psi))``, the loss of a target batch after one step of SGD on
    the weighted batch. As published: the network, Adam with 1e-3 and weight decay 1e-4, an update on every batch, SGD
    as the step. The paper divides the weights by their sum, as is done here; its later code leaves them in (0, 1)
    (``normalize="none"``).

    Ours: the gradient in its memory-light form (`LookAhead`: no graph through the step), losses of evaluation mode in
    it, psi's Adam with an eps of 1e-15, and any step the optimizer makes (pass SGD, or ``eta`` alone, for the
    published one; with Adam the step is Adam's).

    Each update costs 8/3 of a step more: a forward and backward of the batch and of a target batch (of the same size),
    and two forwards of the batch; ``every=10`` makes it a quarter. The batch must come from ``stream.loader(...)``,
    as the update runs the model on it again; it must be weighed as a whole. In DistributedDataParallel psi's
    gradient, like the look-ahead, is averaged over the ranks, and psi stays the same on all of them. Losses of the
    update are computed without autocast; ``loss_fn`` must not enter it, but with ``derivatives="exact"``.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel, its parameters in
            float32 (autocast is fine).
        target: clean data like that the model should become good at: an iterable of batches as ``loss_fn`` takes them;
            read once, under a fixed seed, and kept. Each update takes the next batch.
        optimizer: of the model, `torch.optim.SGD`, Adam or AdamW: how far a step goes.
        eta: the learning rate of the look-ahead, if not the optimizer's present one.
        loss_fn: ``loss_fn(model, batch)`` gives one loss per sample, (B,); it gets the bare model. None:
            `standard_losses`. A ``batch`` is what the loader hands over, or one of the target.
        lr: of psi's Adam.
        weight_decay: of psi's Adam.
        every: psi is updated on one batch of so many.
        normalize: ``"mean"`` or ``"none"``, see above.
        derivatives: see `LookAhead`.
        seed: of psi's first values.

    Raises:
        StrategyError: for an option outside its range, a target that is none, neither optimizer nor eta.

    Example:
        >>> from weighted_stream import WeightedStream, per_sample_cross_entropy
        >>> model, data = nn.Linear(2, 2), [(torch.randn(2), i % 2) for i in range(8)]
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> target = torch.utils.data.DataLoader(data[:4], batch_size=2)
        >>> for (x, y), weight in WeightedStream(data, MetaWeightNet(model, target, optimizer)).loader(batch_size=4):
        ...     losses = per_sample_cross_entropy(model(x), y)
        ...     (losses * weight).mean().backward()
        >>> weight.tensor().shape
        torch.Size([4])
    """

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        optimizer: Optimizer | None = None,
        *,
        eta: float | None = None,
        loss_fn: LossFn | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        every: int = 1,
        normalize: Normalize = "mean",
        derivatives: Derivatives = "difference",
        seed: int = 0,
    ) -> None:
        who = "MetaWeightNet"
        self.eta = None if eta is None else check_number(who, "eta", eta, above=0)
        self.lr = check_number(who, "lr", lr, above=0)
        self.weight_decay = 0.0 if weight_decay == 0 else check_number(who, "weight_decay", weight_decay, above=0)
        self.every = check_integer(who, "every", every, least=1)
        self.normalize = check_choice(who, "normalize", normalize, ("mean", "none"))
        check_choice(who, "derivatives", derivatives, ("difference", "exact"))
        ahead = LookAhead(model, target, optimizer, eta=self.eta, loss_fn=loss_fn, derivatives=derivatives)
        network = LossNetwork(normalize, check_integer(who, "seed", seed, least=0))
        super().__init__(network, ahead, self.lr, self.weight_decay)

    def _features(self, signals: Signals) -> Tensor:
        return self.losses(signals).unsqueeze(1)

    def _is_due(self) -> bool:
        return self._batches % self.every == 0

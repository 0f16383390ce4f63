"""The network of `DataWeightingModel`: what it sees of a batch, and how it weighs the samples against each other.

The structure is that of arXiv 2507.16178; this network and its features are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def relative(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Cosines with each anchor, seen from the anchors' mean: (B, K).

    Relative representations (arXiv 2209.15430; the centring is ours): they do not change if all vectors are rotated or
    scaled, so samples look alike to models of other widths that find the same samples alike.

    Args:
        vectors: (B, H) of the samples.
        anchors: (K, H), of the same model.

    Example:
        >>> relative(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]]))
        tensor([[ 0.7071, -0.7071,  0.0000]])
    """
    middle = anchors.mean(0)
    return F.normalize(vectors - middle, dim=1) @ F.normalize(anchors - middle, dim=1).T


def standardised(losses: Tensor) -> Tensor:
    """Losses (B,) with mean 0 and standard deviation 1; equal ones are 0.

    Example:
        >>> standardised(torch.tensor([1.0, 3.0])), standardised(torch.tensor([0.3, 0.3, 0.3]))
        (tensor([-1.,  1.]), tensor([0., 0., 0.]))
    """
    centred = losses - losses.mean()
    scale = centred.square().mean().sqrt()
    rounding = 1e-5 * losses.abs().mean() + 1e-12
    return torch.where(scale > rounding, centred / scale.clamp_min(1e-12), 0.0)


def softmax_weights(scores: Tensor) -> Tensor:
    """``M softmax(s)``: weights (M,) that average 1; exactly 1 for equal scores.

    Example:
        >>> softmax_weights(torch.tensor([0.0, 0.0, 0.0]))
        tensor([1., 1., 1.])
    """
    raised = (scores - scores.max()).exp()
    return raised / raised.mean()


class WeightingNetwork(nn.Module):
    """Features of the samples of a batch in, their weights out; whoever is first in the batch does not matter.

    Linear, layer norm, transformer encoder layers across the batch (pre-norm, no positions, no dropout), layer norm, a
    scalar for each sample, softmax. The last layer begins at zero: the first weights are exactly 1.

    Args:
        features: F, how many features a sample has.
        width: of the layers, a multiple of ``heads``.
        layers: how many encoder layers.
        heads: of their attention.
        seed: of the first values; torch's own random state is left alone.

    Example:
        >>> network = WeightingNetwork(3, width=8, layers=1, heads=2)
        >>> network(torch.randn(4, 3)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, features: int, width: int = 64, layers: int = 1, heads: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.embed = nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width))
            self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
            self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        last = self.score[1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Weights (M,) of features (M, F), float32."""
        hidden = self.embed(features)
        for layer in self.layers:
            hidden = layer(hidden)
        scores: Tensor = self.score(hidden)
        return softmax_weights(scores.squeeze(1))


class EncoderLayer(nn.Module):
    """A pre-norm transformer encoder layer over the samples of one batch: (M, D) -> (M, D).

    Not `torch.nn.TransformerEncoderLayer`, which computes in another way where no gradient is asked for, and so gives
    other weights in learning than in use.

    Example:
        >>> EncoderLayer(8, 2)(torch.zeros(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(M, D)."""
        size, width = hidden.shape
        parts = self.mix(self.before(hidden)).view(size, 3, self.heads, width // self.heads).permute(1, 2, 0, 3)
        query, key, value = parts.unsqueeze(1).unbind(0)  # (1, heads, M, D / heads) each
        mixed = F.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.merge(mixed[0].transpose(0, 1).reshape(size, width))
        result: Tensor = hidden + self.think(hidden)
        return result

"""A small GPT in one file: what the demo and the benchmarks train, on a CPU, in about a minute.

A usual small transformer trained at a high rate is bistable: from some seeds it learns to look at the
previous token within 200 steps and from others it does not, which hides any effect of the weights. Four
things cure it, so that the final losses of different seeds differ by a few hundredths:

- the output bias starts at the log-frequencies of the tokens, so nothing has to learn those;
- what a layer adds to the residual stream starts at zero;
- queries and keys are normalised;
- each layer sees a learned mix of a token and the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """The size of a `GPT`. The defaults make about 330,000 parameters.

    Attributes:
        vocab: number of tokens V.
        context: the longest sequence, in tokens.
        layers: number of layers.
        width: size H of the hidden states.
        heads: attention heads per layer; must divide the width.
    """

    vocab: int = 512
    context: int = 64
    layers: int = 2
    width: int = 96
    heads: int = 3


class Shift(nn.Module):
    """A learned mix, per channel, of each token with the one before: (B, T, H) -> (B, T, H)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` moved towards the previous position by ``amount``; the first position has zeros before it."""
        return x.lerp(F.pad(x[:, :-1], (0, 0, 1, 0)), self.amount)


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys: (B, T, H) -> (B, T, H)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.sharpness = nn.Parameter(torch.full((config.heads, 1, 1), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        """Each token's mixture of the tokens up to it."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3 * self.heads, -1).transpose(1, 2).chunk(3, dim=1)
        # Without learned scales, layer_norm gives length sqrt(size): a dot product is cosine * size.
        size = q.shape[-1]
        q, k = F.layer_norm(q, (size,)) * self.sharpness, F.layer_norm(k, (size,))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / size)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class Block(nn.Module):
    """Attention and a two-layer network, each added to the residual stream: (B, T, H) -> (B, T, H)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = nn.Sequential(nn.LayerNorm(width), Shift(width), Attention(config))
        self.up = nn.Sequential(nn.LayerNorm(width), Shift(width), nn.Linear(width, 4 * width))
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after this layer."""
        x = x + self.attention(x)
        added: Tensor = self.down(F.gelu(self.up(x)))
        return x + added


class GPT(nn.Module):
    """A causal language model.

    Args:
        config: its size.
        frequencies: (V,), how often each token occurs in the training text (counts); where the output bias
            starts. None: all tokens alike.
        seed: of the initial weights. The global random state is left as it was.

    Example:
        >>> model = GPT(GPTConfig(vocab=10, context=8, width=12))
        >>> model(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 8, 10])
    """

    def __init__(self, config: GPTConfig, *, frequencies: Tensor | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token = nn.Embedding(config.vocab, config.width)
            self.position = nn.Parameter(torch.zeros(config.context, config.width))
            self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
            self.norm = nn.LayerNorm(config.width)
            self.head = nn.Linear(config.width, config.vocab)
            self._initialise(torch.ones(config.vocab) if frequencies is None else frequencies)

    @torch.no_grad()
    def _initialise(self, frequencies: Tensor) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5)
                if module.bias is not None:
                    module.bias.zero_()
            if name.endswith((".attention.2.out", ".down")):
                module.weight.zero_()
        self.head.weight.mul_(0.2)
        # One more of each, so that a token that does not occur has a probability too.
        shares = (frequencies + 1) / (frequencies + 1).sum()
        self.head.bias.copy_(shares.log())

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token at each position: (B, T) int64 -> (B, T, V)."""
        x = self.token(tokens) + self.position[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

"""The small GPT: causal, reproducible, and starting where it should."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from weighted_stream.demo.model import GPT, GPTConfig

SMALL = GPTConfig(vocab=20, context=16, layers=2, width=24, heads=3)


def tokens(seed: int, rows: int = 4) -> torch.Tensor:
    return torch.randint(0, 20, (rows, 16), generator=torch.Generator().manual_seed(seed))


def shaken(seed: int = 0) -> GPT:
    """A model whose zero-initialised parts are not zero."""
    model = GPT(SMALL, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.full_like(parameter, 0.02).normal_(0, 0.3, generator=torch.Generator().manual_seed(1)))
    return model


def test_same_seed_same_weights_and_the_global_state_untouched() -> None:
    before = torch.get_rng_state()
    first, second, other = GPT(SMALL, seed=3), GPT(SMALL, seed=3), GPT(SMALL, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.token.weight, other.token.weight)


def test_a_position_sees_nothing_that_comes_later() -> None:
    model, x = shaken(), tokens(0)
    changed = x.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 20
    torch.testing.assert_close(model(x)[:, :9], model(changed)[:, :9])
    assert not torch.allclose(model(x)[:, 9:], model(changed)[:, 9:])


def test_a_position_sees_what_comes_before() -> None:
    model, x = shaken(), tokens(0)
    changed = x.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 20
    assert not torch.allclose(model(x)[:, 15], model(changed)[:, 15], atol=1e-4)


def test_starts_near_the_unigram_frequencies() -> None:
    counts = torch.arange(20) ** 2
    model = GPT(SMALL, frequencies=counts)
    x = torch.multinomial(counts.float(), 4096, True, generator=torch.Generator().manual_seed(0)).view(256, 16)
    shares = (counts + 1) / (counts + 1).sum()
    entropy = -(shares * shares.log()).sum().item()
    loss = F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()).item()
    assert abs(loss - entropy) < 0.1


def test_layers_add_nothing_at_first() -> None:
    model, x = GPT(SMALL), torch.randn(2, 16, 24)
    assert torch.equal(model.blocks(x), x)


def test_learns_to_copy_the_previous_token() -> None:
    model = GPT(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = tokens(5, rows=32).repeat_interleave(2, dim=1)[:, :16]
    for _ in range(60):
        loss = F.cross_entropy(model(x)[:, ::2].flatten(0, 1), x[:, 1::2].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_default_size() -> None:
    assert 300_000 < sum(p.numel() for p in GPT(GPTConfig()).parameters()) < 400_000

"""Weighted training in a plain PyTorch loop, from the data to the question which samples mattered.

    python examples/plain_pytorch.py

Half of this data set are copies of a few samples, as web text has them. LinUpper plays down what the model has already
learned, so the copies stop eating the steps. The only lines that are not plain PyTorch are marked with (*).
"""

import torch
from torch import nn

from weighted_stream import LinUpper, Uniform, WeightedStream, per_sample_cross_entropy

DISTINCT, COPIES, CLASSES = 2000, 2000, 8


def make_data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points in 16 dimensions, their class decided by a random network; half of the training set repeats 40 points."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(16, 64, generator=generator), torch.randn(64, CLASSES, generator=generator)
    points = torch.randn(DISTINCT + 2000, 16, generator=generator)
    labels = ((points @ first).tanh() @ second).argmax(1)
    repeats = torch.randint(0, 40, (COPIES,), generator=generator)
    train = torch.cat([torch.arange(DISTINCT), repeats])
    return points[train], labels[train], points[DISTINCT:], labels[DISTINCT:]


def train(strategy, store=None) -> tuple[float, WeightedStream]:
    """Train for 10 epochs; the loss on fresh points, and the stream with all it has seen."""
    x_train, y_train, x_test, y_test = make_data()
    dataset = torch.utils.data.TensorDataset(x_train, y_train)
    stream = WeightedStream(dataset, strategy, store=store)  # (*) any dataset or DataLoader
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = stream.loader(batch_size=64, shuffle=True)  # (*) DataLoader's own arguments
    for _ in range(10):
        for (x, y), weight in loader:
            losses = per_sample_cross_entropy(model(x), y)  # (64,): one loss per sample
            optimizer.zero_grad()
            (losses * weight).mean().backward()  # (*) the product is the feedback
            optimizer.step()
    with torch.no_grad():
        return per_sample_cross_entropy(model(x_test), y_test).mean().item(), stream


def main() -> None:
    uniform, _ = train(Uniform())
    weighted, stream = train(LinUpper(r=0.4))
    print(f"loss on fresh points: uniform {uniform:.3f}, LinUpper {weighted:.3f}")

    records = stream.store.get(range(DISTINCT + COPIES))
    print(f"mean weight of the distinct half: {records['weight'][:DISTINCT].mean():.2f}")
    print(f"mean weight of the copies:        {records['weight'][DISTINCT:].mean():.2f}")
    stats = stream.stats()
    print(f"effective sample size: {stats['ess']:.0%} of a batch; coefficient of variation {stats['weight_cv']:.2f}")
    hardest = records["loss"].argsort()[-3:][::-1]
    print("hardest samples:", ", ".join(f"{i} (loss {records['loss'][i]:.1f})" for i in hardest))


if __name__ == "__main__":
    main()

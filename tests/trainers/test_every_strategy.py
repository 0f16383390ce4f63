"""Every strategy under every trainer: it trains, or says why it cannot. The table in docs/trainers.md is this one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighted_stream as ws
from weighted_stream import LinUpper, Similarity, WeightedStream, WeightedStreamError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:A weight of .* passes the 2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:lr_scheduler.step"),
]

ROWS, BATCH, PART = 24, 8, 4
X = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))
DATA = [{"x": x, "labels": torch.tensor(at % 3)} for at, x in enumerate(X)]
KINDS = ["maths" if at % 2 else "prose" for at in range(ROWS)]
TABLE = Path(__file__).parent.parent.parent / "docs" / "trainers.md"


def each_loss(model: Any, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"], reduction="none")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


TARGET = [{"x": X[:8], "labels": torch.arange(8) % 3}]
STRATEGIES: dict[str, Callable[[Any], Any]] = {
    "Uniform": lambda net: ws.Uniform(),
    'LinUpper, window="batch"': lambda net: LinUpper(),
    'LinUpper, window="running"': lambda net: LinUpper(window="running"),
    "Quadratic": lambda net: ws.Quadratic(),
    "Extremes": lambda net: ws.Extremes(),
    "Dro": lambda net: ws.Dro(),
    "SmallLoss": lambda net: ws.SmallLoss(),
    'Similarity, window="batch"': lambda net: Similarity(),
    'Similarity, window="running"': lambda net: Similarity(window="running"),
    "AdaptBM25": lambda net: ws.AdaptBM25(),
    "Adapt": lambda net: ws.Adapt(net, [X[:4]], head="2"),
    "InfoBatch": lambda net: ws.InfoBatch(),
    "InfoBatch, prune=True": lambda net: ws.InfoBatch(prune=True),
    "Kakurenbo": lambda net: ws.Kakurenbo(epochs=3),
    "RhoLoss": lambda net: ws.RhoLoss(net, network(), each_loss, budget=0.5),
    "Resampled(Similarity)": lambda net: ws.Resampled(Similarity(), budget=0.5),
    "FilterThenWeight": lambda net: ws.FilterThenWeight(net, None, TARGET, 0.5, loss_fn=each_loss, precondition="none"),
    "Greats": lambda net: ws.Greats(net, TARGET, loss_fn=each_loss, eta=0.1),
    "DataWeightingModel": lambda net: ws.DataWeightingModel(
        net, TARGET, eta=0.1, loss_fn=each_loss, anchors=4, head="2", width=8
    ),
    "MetaWeightNet": lambda net: ws.MetaWeightNet(net, TARGET, eta=0.1, loss_fn=each_loss),
    "DoReMi": lambda net: ws.DoReMi(network(), each_loss),
    "OnlineDataMixing": lambda net: ws.OnlineDataMixing(),
    "Frozen": lambda net: ws.Frozen(),
    "Shuffled(LinUpper)": lambda net: ws.Shuffled(LinUpper()),
    "Clip(LinUpper)": lambda net: ws.Clip(LinUpper()),
    "LinUpper * Similarity": lambda net: LinUpper() * Similarity(),
}


def prepared(stream: WeightedStream, groups: bool = True) -> None:
    """Scores, weights and domains in the store, for strategies that go by them."""
    ids = np.arange(ROWS)
    stream.store.update(ids, similarity=np.linspace(-1, 1, ROWS), weight=np.linspace(0.5, 1.5, ROWS))
    if groups:
        stream.store.set_groups(ids, KINDS)


def composer(make: Any, folder: Path, parts: bool, extra_forward: bool) -> WeightedStream:
    from composer import Trainer
    from composer.models import ComposerModel

    class Model(ComposerModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, batch: Any) -> Any:
            return self.net(batch["x"])

        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return F.cross_entropy(outputs, batch["labels"], reduction="none")

    model = Model()
    stream = WeightedStream(DATA, make(model.net))
    prepared(stream)
    weights = ws.ComposerWeights(stream, extra_forward=extra_forward)
    Trainer(
        model=model,
        train_dataloader=weights.loader(batch_size=BATCH, shuffle=True),
        algorithms=weights,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        device_train_microbatch_size=PART if parts else BATCH,
        max_duration="2ep",
        progress_bar=False,
        device="cpu",
    ).fit()
    return stream


def hugging_face(make: Any, folder: Path, parts: bool, extra_forward: bool) -> WeightedStream:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Any, labels: Any = None) -> Any:
            return {"logits": self.net(x)}

    class Weighted(ws.WeightedTrainerMixin, Trainer):
        pass

    model = Model()
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=PART if parts else BATCH,
        gradient_accumulation_steps=BATCH // PART if parts else 1,
        num_train_epochs=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    rows = [{**row, "kind": kind} for row, kind in zip(DATA, KINDS, strict=True)]
    more = {"strategy": make(model.net), "group_fn": "kind", "extra_forward": extra_forward}
    trainer = Weighted(model, args, train_dataset=rows, **more)
    trainer.remove_callback(PrinterCallback)
    prepared(trainer.stream, groups=False)
    trainer.train()
    return trainer.stream


def lightning(make: Any, folder: Path, parts: bool, extra_forward: bool) -> WeightedStream:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            batch, weight = batch
            losses = each_loss(self.net, batch)
            return (losses * weight).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    stream = WeightedStream(DATA, make(module.net))
    prepared(stream)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=2 if parts else 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=ws.LightningWeights(stream),
    )
    trainer.fit(module, stream.loader(batch_size=BATCH, shuffle=True))
    return stream


TRAINERS = {"composer": composer, "transformers": hugging_face, "lightning": lightning}
YES, EXTRA, NO = "yes", "`extra_forward`", "no"


def tried(train: Any, make: Any, folder: Path, parts: bool, extra_forward: bool = False) -> str:
    """What comes of it."""
    try:
        stream = train(make, folder, parts, extra_forward)
    except WeightedStreamError as error:
        refused = error
    else:
        assert stream.stats()["step"] >= 6 or stream.strategy.budget is not None
        assert stream.stats()["visits"] > 0
        stream.close()
        return YES
    assert refused.found, "an error says what was found"
    assert refused.do, "and what to do"
    if isinstance(refused, ws.WindowError) and "extra_forward=True" in refused.do and not extra_forward:
        return EXTRA if tried(train, make, folder, parts, extra_forward=True) == YES else NO
    return NO


def table() -> dict[str, list[str]]:
    """What the docs say: the cells after each strategy."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {first.strip(" `"): [cell.strip() for cell in cells] for first, *cells in lines}


COLUMNS = {"composer": (0, 1), "transformers": (2, 3), "lightning": (4, 5)}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_table_is_true(name: str, trainer: str, tmp_path: Path) -> None:
    if find_spec(trainer) is None:
        pytest.skip(f"needs {trainer}")
    said = table()[name]
    found = [tried(TRAINERS[trainer], STRATEGIES[name], tmp_path, parts) for parts in (False, True)]
    assert found == [said[column] for column in COLUMNS[trainer]]


def test_the_table_is_whole() -> None:
    kinds = {name.split(",")[0].split("(")[0].split(" ")[0] for name in STRATEGIES}
    public = {name for name in ws.__all__ if isinstance(getattr(ws, name), type)}
    ours = {name for name in public if issubclass(getattr(ws, name), ws.Strategy)}
    assert ours - kinds == {"Strategy", "Selecting", "Product"}
    assert set(STRATEGIES) <= set(table())

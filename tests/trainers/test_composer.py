"""ComposerWeights in Composer's own Trainer."""

from __future__ import annotations

import sys
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("composer")

from composer import Trainer
from composer.core import Algorithm, Event
from composer.loggers import InMemoryLogger
from composer.models import ComposerClassifier, HuggingFaceModel
from pinning import pinning
from resuming import assert_same_store

from weighted_stream import (
    ComposerWeights,
    InfoBatch,
    LinUpper,
    LossError,
    Selecting,
    SourceError,
    StateError,
    Strategy,
    Uniform,
    WeightedStream,
    WindowError,
    causal_lm_losses,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:composer"),
    pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning"),
]

SAMPLES, BATCH = 40, 8
each_loss = partial(F.cross_entropy, reduction="none")
running = partial(LinUpper, window="running")


def data() -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.randint(0, 4, (SAMPLES,), generator=generator))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 4))


class Run:
    """One training by Composer."""

    def __init__(
        self,
        strategy: Strategy,
        micro: int = BATCH,
        *,
        model: Any = None,
        dropout: float = 0.0,
        store: Path | None = None,
        dataset: Any = None,
        weights: dict[str, Any] | None = None,
        loader: dict[str, Any] | None = None,
        algorithms: list[Algorithm] | None = None,
        **trainer: Any,
    ) -> None:
        module = network(dropout)
        self.model = ComposerClassifier(module, num_classes=4, loss_fn=each_loss) if model is None else model
        self.stream = WeightedStream(data() if dataset is None else dataset, strategy, store=store)
        self.weights = ComposerWeights(self.stream, **(weights or {}))
        self.log = InMemoryLogger()
        options = {"batch_size": BATCH, "shuffle": True} | (loader or {})
        self.trainer = Trainer(
            model=self.model,
            train_dataloader=self.weights.loader(seed=5, **options),
            algorithms=[self.weights, *(algorithms or [])],
            loggers=self.log,
            **{
                "optimizers": torch.optim.SGD(self.model.parameters(), lr=0.2),
                "max_duration": "2ep",
                "device_train_microbatch_size": micro,
                "seed": 1,
                "progress_bar": False,
                "device": "cpu",
                **trainer,
            },
        )

    def fit(self, **arguments: Any) -> Run:
        self.trainer.fit(**arguments)
        return self

    def losses(self) -> list[float]:
        return [float(value) for _, value in self.log.data["loss/train/total"]]

    def parameters(self) -> torch.Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()


def plain(strategy: Strategy, micro: int = BATCH, epochs: int = 2) -> tuple[list[float], torch.Tensor, WeightedStream]:
    """The same training in a plain loop."""
    stream, model = WeightedStream(data(), strategy), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    loader = stream.loader(batch_size=BATCH, shuffle=True, seed=5)
    losses = []
    for _ in range(epochs):
        for (x, y), weight in loader:
            optimizer.zero_grad()
            total = 0.0
            for part, inputs, labels in zip(weight.split(micro), x.split(micro), y.split(micro), strict=True):
                loss = (each_loss(model(inputs), labels) * part).sum() / len(x)
                loss.backward()
                total += float(loss)
            optimizer.step()
            losses.append(total)
    return losses, nn.utils.parameters_to_vector(model.parameters()).detach(), stream


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_memory_changes_nothing(workers: int) -> None:
    made = Run(running(), 4, loader={"num_workers": workers}).fit()
    with pinning() as pinned:
        other = Run(running(), 4, loader={"num_workers": workers, "pin_memory": True}).fit()
    assert len(pinned) >= 2 * 2 * SAMPLES // BATCH
    assert other.losses() == made.losses()
    assert torch.equal(other.parameters(), made.parameters())
    assert_same_store(other.stream, made.stream)


@pytest.mark.parametrize("micro", [1, 2, 3, BATCH])
def test_ten_steps_equal_the_plain_loop(micro: int) -> None:
    losses, parameters, stream = plain(running(), micro)
    run = Run(running(), micro).fit()
    assert len(run.losses()) == 10
    np.testing.assert_allclose(run.losses(), losses, atol=1e-5)
    torch.testing.assert_close(run.parameters(), parameters, atol=1e-5, rtol=0)
    ours, theirs = (s.store.get(np.arange(SAMPLES)) for s in (run.stream, stream))
    np.testing.assert_allclose(ours["weight"], theirs["weight"], atol=1e-5)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], atol=1e-5)
    np.testing.assert_array_equal(ours["visits"], 2)


def test_uniform_weights_equal_training_without_us() -> None:
    run = Run(Uniform(), micro=2).fit()
    module = network()
    bare = ComposerClassifier(module, num_classes=4, loss_fn=F.cross_entropy)
    loader = WeightedStream(data(), Uniform()).loader(batch_size=BATCH, shuffle=True, seed=5)
    trainer = Trainer(
        model=bare,
        train_dataloader=Bare(loader),
        optimizers=torch.optim.SGD(bare.parameters(), lr=0.2),
        max_duration="2ep",
        device_train_microbatch_size=2,
        seed=1,
        progress_bar=False,
        device="cpu",
    )
    trainer.fit()
    without = nn.utils.parameters_to_vector(bare.parameters()).detach()
    torch.testing.assert_close(run.parameters(), without, atol=1e-6, rtol=0)


class Bare:
    """The batches of a stream, without their weights."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.batch_size = loader, BATCH

    def __iter__(self) -> Any:
        return (batch for batch, _ in self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def test_a_joint_strategy_wants_the_whole_batch_or_an_extra_forward_pass() -> None:
    with pytest.raises(WindowError, match="extra_forward=True"):
        Run(LinUpper(), 2).fit()
    whole = Run(LinUpper()).fit()
    parts = Run(LinUpper(), 2, weights={"extra_forward": True}).fit()
    np.testing.assert_allclose(parts.losses(), whole.losses(), atol=1e-6)
    torch.testing.assert_close(parts.parameters(), whole.parameters(), atol=1e-6, rtol=0)
    losses, _, _ = plain(LinUpper())
    np.testing.assert_allclose(whole.losses(), losses, atol=1e-5)


def test_the_extra_forward_pass_leaves_the_random_state_alone() -> None:
    one = Run(LinUpper(r=1e9), 2, dropout=0.5, weights={"extra_forward": True}).fit()
    other = Run(Uniform(), 2, dropout=0.5).fit()
    torch.testing.assert_close(one.parameters(), other.parameters(), atol=1e-5, rtol=0)


class Crops(Algorithm):
    """As a warm-up of sequence lengths: the batch that is trained on is not the one that was read."""

    def match(self, event: Event, state: Any) -> bool:
        return event == Event.AFTER_DATALOADER

    def apply(self, event: Event, state: Any, logger: Any) -> None:
        state.batch = (state.batch[0] * 0.5, state.batch[1])


def test_the_extra_forward_pass_is_of_the_batch_that_is_trained_on() -> None:
    whole = Run(LinUpper(), algorithms=[Crops()]).fit()
    parts = Run(LinUpper(), 2, algorithms=[Crops()], weights={"extra_forward": True}).fit()
    np.testing.assert_allclose(parts.losses(), whole.losses(), atol=1e-6)
    torch.testing.assert_close(parts.parameters(), whole.parameters(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("micro", [BATCH, 2])
def test_losses_are_made_in_the_trainers_precision(monkeypatch: pytest.MonkeyPatch, micro: int) -> None:
    """Of which there is only one on a processor: autocast stands in for it."""

    def autocast(*_: Any, **__: Any) -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr("composer.trainer.trainer.get_precision_context", autocast)
    monkeypatch.setattr("weighted_stream.trainers.composer.get_precision_context", autocast)
    seen = []

    def losses(outputs: Any, batch: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return each_loss(outputs, batch[1])

    Run(LinUpper(), micro, weights={"losses": losses, "extra_forward": True}, max_duration="2ba").fit()
    assert len(seen) == 2 * (1 if micro == BATCH else 8)
    assert all(seen)


class Shared(torch.utils.data.IterableDataset[Any]):
    """Says how many samples its workers have together, each of which has a smaller last batch."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Any:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, (x, y) in list(enumerate(data()))[first::step]:
            yield {"id": number, "x": x, "y": y}


class OfRows(ComposerClassifier):
    def forward(self, batch: Any) -> Any:
        return self.module(batch["x"])

    def loss(self, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        return each_loss(outputs, batch["y"])

    def get_metrics(self, is_train: bool = False) -> dict[str, Any]:
        return {}


@pytest.mark.filterwarnings("ignore:.*worker processes in total:UserWarning")
def test_more_batches_than_a_length_says_end_with_the_epoch(tmp_path: Path) -> None:
    def run(**options: Any) -> Run:
        made = Run.__new__(Run)
        made.model = OfRows(network(), num_classes=4, loss_fn=each_loss)
        made.stream = WeightedStream(Shared(), running(), id_fn="id")
        made.weights, made.log = ComposerWeights(made.stream), InMemoryLogger()
        made.trainer = Trainer(
            model=made.model,
            train_dataloader=made.weights.loader(batch_size=BATCH, num_workers=3),
            algorithms=made.weights,
            loggers=made.log,
            optimizers=torch.optim.SGD(made.model.parameters(), lr=0.2),
            max_duration="3ep",
            progress_bar=False,
            device="cpu",
            seed=1,
            **options,
        )
        return made.fit()

    whole = run(save_folder=str(tmp_path), save_interval="1ep")
    assert len(whole.losses()) == 15
    again = run(load_path=str(tmp_path / "ep1-ba5-rank0.pt"))
    assert again.losses() == whole.losses()[5:]
    assert torch.equal(again.parameters(), whole.parameters())


class RunsOutOfMemory(Algorithm):
    """Fails like a GPU without memory, in the second micro-batch of some batches."""

    def __init__(self, batches: set[int]) -> None:
        self.batches, self.failed, self.forwards = batches, 0, 0

    def match(self, event: Event, state: Any) -> bool:
        return event in (Event.BEFORE_TRAIN_BATCH, Event.AFTER_LOSS)

    def apply(self, event: Event, state: Any, logger: Any) -> None:
        self.forwards = 0 if event == Event.BEFORE_TRAIN_BATCH else self.forwards + 1
        if self.forwards == 2 and int(state.timestamp.batch) in self.batches:
            self.batches.remove(int(state.timestamp.batch))
            self.failed += 1
            raise RuntimeError("CUDA out of memory.")


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_runs_out_of_memory_is_counted_once() -> None:
    fails = RunsOutOfMemory({1, 6})
    run = Run(running(), 4, algorithms=[fails])
    run.trainer.state.auto_microbatching = True
    run.fit()
    assert fails.failed == 2
    assert run.trainer.state.device_train_microbatch_size == 1
    calm = Run(running(), 4).fit()
    np.testing.assert_array_equal(run.stream.store.get(np.arange(SAMPLES))["visits"], 2)
    assert run.stream.stats()["step"] == calm.stream.stats()["step"] == 10
    np.testing.assert_allclose(run.losses(), calm.losses(), atol=1e-5)
    torch.testing.assert_close(run.parameters(), calm.parameters(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (5, 0), (7, 0), (10, 0), (7, 2)])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, stop: int, workers: int) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "loader": {"num_workers": workers}, "max_duration": "3ep"}
    whole = Run(LinUpper(), store=tmp_path / "whole", **options).fit()
    saving = {"save_folder": str(tmp_path / "saved"), "save_interval": "1ba", "run_name": "run"}
    stopped = Run(LinUpper(), store=tmp_path / "store", **options, **saving, save_num_checkpoints_to_keep=-1)
    stopped.fit(duration=f"{stop}ba")
    # What comes after the checkpoint must not count.
    stopped.fit(duration="2ba")
    assert stopped.losses() == whole.losses()[: stop + 2]
    stopped.stream.close()
    (checkpoint,) = (tmp_path / "saved").glob(f"*-ba{stop}-rank0.pt")
    again = Run(LinUpper(), store=tmp_path / "store", **options, load_path=str(checkpoint)).fit()
    assert again.losses() == whole.losses()[stop:]
    assert torch.equal(again.parameters(), whole.parameters())
    assert_same_store(again.stream, whole.stream)


def test_an_epoch_checkpoint_begins_the_next_epoch(tmp_path: Path) -> None:
    whole = Run(running(), max_duration="3ep").fit()
    saving = {"save_folder": str(tmp_path), "save_interval": "1ep", "run_name": "run"}
    Run(running(), max_duration="3ep", **saving, save_num_checkpoints_to_keep=-1).fit()
    (checkpoint,) = tmp_path.glob("ep2-*-rank0.pt")
    again = Run(running(), max_duration="3ep", load_path=str(checkpoint)).fit()
    assert again.losses() == whole.losses()[10:]
    assert_same_store(again.stream, whole.stream)


def test_a_checkpoint_without_the_stream_is_refused_within_an_epoch(tmp_path: Path) -> None:
    bare = ComposerClassifier(network(), num_classes=4)
    loader = torch.utils.data.DataLoader(data(), batch_size=BATCH)
    options = {"max_duration": "3ba", "progress_bar": False, "device": "cpu"}
    Trainer(model=bare, train_dataloader=loader, save_folder=str(tmp_path), run_name="run", **options).fit()
    (checkpoint,) = tmp_path.glob("*-ba3-rank0.pt")
    with pytest.raises(StateError, match="load_weights_only=True"):
        Run(running(), load_path=str(checkpoint)).fit()
    Run(running(), load_path=str(checkpoint), load_weights_only=True).fit()


def test_figures_reach_the_loggers() -> None:
    run = Run(running()).fit()
    assert len(run.log.data["weights/ess"]) == 10
    assert float(run.log.data["weights/step"][-1][1]) == 10
    assert max(float(value) for _, value in run.log.data["weights/weight_cv"]) > 0


def test_samples_are_counted_as_without_us() -> None:
    run = Run(running(), 2).fit(duration="3ba")
    assert int(run.trainer.state.timestamp.sample) == 24


def test_a_mean_over_the_batch_is_refused() -> None:
    model = ComposerClassifier(network(), num_classes=4)
    with pytest.raises(LossError, match=r"loss_fn=partial\(cross_entropy, reduction='none'\)"):
        Run(running(), model=model).fit()


def test_another_loader_is_refused() -> None:
    stream = WeightedStream(data(), running())
    model = ComposerClassifier(network(), num_classes=4, loss_fn=each_loss)
    options = {"max_duration": "3ba", "progress_bar": False, "device": "cpu"}
    loader = torch.utils.data.DataLoader(data(), batch_size=BATCH)
    trainer = Trainer(model=model, train_dataloader=loader, algorithms=ComposerWeights(stream), **options)
    with pytest.raises(SourceError, match="does not read the stream"):
        trainer.fit()
    with pytest.raises(SourceError, match="leave as_dict out"):
        ComposerWeights(WeightedStream([{"x": 1.0}], Uniform(), as_dict=True))
    with pytest.raises(SourceError, match="train_subset_num_batches=2"):
        Run(running(), train_subset_num_batches=2).fit()


class DropsSamples(Algorithm):
    def match(self, event: Event, state: Any) -> bool:
        return event == Event.AFTER_DATALOADER

    def apply(self, event: Event, state: Any, logger: Any) -> None:
        state.batch = tuple(part[:-1] for part in state.batch)


def test_samples_that_get_lost_on_the_way_are_noticed() -> None:
    with pytest.raises(LossError, match="do not hold the samples of their batch"):
        Run(running(), 4, algorithms=[DropsSamples()]).fit()


class Halves(Selecting):
    """Chooses the first half of the candidates."""

    def __init__(self) -> None:
        self.budget = 0.5

    def choose(self, candidates: Any) -> Any:
        from weighted_stream import Choice

        return Choice(np.arange(candidates.count), torch.full((candidates.count,), 0.5))


@pytest.mark.parametrize("strategy", [Halves, InfoBatch])
def test_strategies_that_select_and_that_know_epochs(strategy: Any) -> None:
    run = Run(strategy(), micro=2).fit()
    assert run.stream.stats()["step"] == len(run.losses())
    assert run.stream.epoch == 1


def language_model() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


class Texts(torch.utils.data.Dataset):
    """Dicts of tokens, all as long as one another, or not."""

    def __init__(self, uneven: bool = False) -> None:
        self.tokens = torch.randint(0, 64, (SAMPLES, 12), generator=torch.Generator().manual_seed(1))
        self.uneven = uneven

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = self.tokens[index].clone()
        if self.uneven:
            labels[6 + index % 6 :] = -100
        return {"input_ids": self.tokens[index], "attention_mask": torch.ones(12, dtype=torch.long), "labels": labels}


def test_a_hugging_face_model() -> None:
    model = HuggingFaceModel(language_model(), shift_labels=True)
    run = Run(running(), 3, model=model, dataset=Texts(uneven=True), weights={"losses": causal_lm_losses}).fit()

    stream, module = WeightedStream(Texts(uneven=True), running()), language_model()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    losses = []
    for _ in range(2):
        for batch, weight in stream.loader(batch_size=BATCH, shuffle=True, seed=5):
            logits = module(batch["input_ids"]).logits
            token = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
            each = token.sum(1) / (batch["labels"][:, 1:] != -100).sum(1)
            loss = torch.stack(
                [(e * w).sum() for e, w in zip(each.split(3), weight.split(3), strict=True)]
            ).sum() / len(each)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(run.losses(), losses, atol=1e-5)
    np.testing.assert_allclose(
        run.stream.store.get(range(SAMPLES))["weight"], stream.store.get(range(SAMPLES))["weight"], atol=1e-5
    )


def test_a_hugging_face_model_with_its_own_loss_is_refused() -> None:
    model = HuggingFaceModel(language_model(), shift_labels=True)
    with pytest.raises(LossError, match="losses=causal_lm_losses"):
        Run(running(), model=model, dataset=Texts()).fit()


def test_uniform_weights_equal_a_hugging_face_model_without_us() -> None:
    ours = HuggingFaceModel(language_model(), shift_labels=True)
    run = Run(Uniform(), 2, model=ours, dataset=Texts(), weights={"losses": causal_lm_losses}).fit()
    bare = HuggingFaceModel(language_model(), shift_labels=True)
    loader = WeightedStream(Texts(), Uniform()).loader(batch_size=BATCH, shuffle=True, seed=5)
    options = {"max_duration": "2ep", "progress_bar": False, "device": "cpu", "device_train_microbatch_size": 2}
    Trainer(
        model=bare, train_dataloader=Bare(loader), optimizers=torch.optim.SGD(bare.parameters(), lr=0.2), **options
    ).fit()
    without = nn.utils.parameters_to_vector(bare.parameters()).detach()
    torch.testing.assert_close(run.parameters(), without, atol=1e-6, rtol=0)


def without_logits() -> Any:
    """A model whose fused loss gives no logits in training."""
    model = language_model()
    own = model.forward

    @wraps(own)  # Composer looks at its arguments
    def fused(*args: Any, labels: Any = None, **kwargs: Any) -> Any:
        outputs = own(*args, labels=labels, **kwargs)
        if labels is not None and model.training:
            outputs["logits"] = None
        return outputs

    model.forward = fused
    return HuggingFaceModel(model, shift_labels=True)


@pytest.mark.parametrize("more", [{}, {"extra_forward": True}], ids=["parts", "extra forward"])
def test_chunks_in_place_of_logits(more: dict[str, Any]) -> None:
    strategy = LinUpper if more else running
    with pytest.raises(LossError, match="chunk_size=1024"):
        Run(strategy(), 3, model=without_logits(), dataset=Texts(), weights={"losses": causal_lm_losses, **more}).fit()
    model, texts = HuggingFaceModel(language_model(), shift_labels=True), Texts(uneven=True)
    whole = Run(strategy(), 3, model=model, dataset=texts, weights={"losses": causal_lm_losses, **more}).fit()
    chunked = without_logits()
    forward = chunked.model.forward
    run = Run(strategy(), 3, model=chunked, dataset=texts, weights={"chunk_size": 5, **more}).fit()
    np.testing.assert_allclose(run.losses(), whole.losses(), atol=1e-5)
    torch.testing.assert_close(run.parameters(), whole.parameters(), atol=1e-5, rtol=0)
    assert chunked.model.forward is forward


def test_chunks_of_what_is_no_language_model_are_refused() -> None:
    with pytest.raises(LossError, match="chunk_size="):
        Run(running(), weights={"chunk_size": 5}).fit()
    with pytest.raises(LossError, match="one of them"):
        Run(running(), weights={"chunk_size": 5, "losses": causal_lm_losses})


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_mosaicml_streaming_and_its_loader_resume(tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    columns = {"input_ids": "ndarray:int64:12", "labels": "ndarray:int64:12"}
    with streaming.MDSWriter(out=str(tmp_path / "shards"), columns=columns, size_limit=2000) as writer:
        for tokens in Texts().tokens.numpy():
            writer.write({"input_ids": tokens, "labels": tokens})

    def run(**trainer: Any) -> Run:
        dataset = streaming.StreamingDataset(local=str(tmp_path / "shards"), batch_size=BATCH, shuffle=True)
        return Run(
            LinUpper(),
            model=HuggingFaceModel(language_model(), shift_labels=True),
            dataset=streaming.StreamingDataLoader(dataset, batch_size=BATCH),
            weights={"losses": causal_lm_losses},
            loader={"shuffle": False},
            **trainer,
        )

    whole = run().fit()
    run(save_folder=str(tmp_path / "saved"), save_interval="1ba", run_name="run", save_num_checkpoints_to_keep=-1).fit()
    for stop in (4, 7):
        (checkpoint,) = (tmp_path / "saved").glob(f"*-ba{stop}-rank0.pt")
        again = run(load_path=str(checkpoint)).fit()
        assert again.losses() == whole.losses()[stop:]
        assert torch.equal(again.parameters(), whole.parameters())
        assert_same_store(again.stream, whole.stream)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import weighted_stream

    monkeypatch.setitem(sys.modules, "composer.core", None)
    monkeypatch.delitem(sys.modules, "weighted_stream.trainers.composer")
    with pytest.raises(weighted_stream.MissingExtraError, match=r"weighted-stream\[composer\]"):
        _ = weighted_stream.ComposerWeights

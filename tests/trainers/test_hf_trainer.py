"""WeightedTrainerMixin in Hugging Face's own trainers."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("transformers")
pytest.importorskip("datasets")

import datasets
import transformers
from pinning import pinning
from resuming import assert_same_store
from transformers import Trainer, TrainingArguments

from weighted_stream import (
    InfoBatch,
    LinUpper,
    LossError,
    MissingExtraError,
    RhoLoss,
    SourceError,
    StateError,
    Strategy,
    StrategyError,
    Uniform,
    WeightedTrainerMixin,
    WindowError,
    label_losses,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

SAMPLES, TOKENS, VOCABULARY = 88, 12, 64
running = partial(LinUpper, window="running", memory=64)


class WeightedTrainer(WeightedTrainerMixin, Trainer):
    """What a user writes, and a diary of the ids of each optimizer step."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        if not hasattr(self, "diary"):
            self.diary: list[list[list[int]]] = []
        if batches:  # 4.57 asks again at the end of an epoch that was gone on with
            self.diary.append([batch["sample_id"].tolist() for batch in batches])
        return batches, items


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1))


def labels() -> torch.Tensor:
    """Between 3 and 11 labelled tokens a sample."""
    made = tokens()
    for row in range(SAMPLES):
        made[row, 4 + row % 9 :] = -100
    return made


def texts() -> Any:
    return datasets.Dataset.from_dict(
        {"input_ids": tokens().tolist(), "labels": labels().tolist(), "kind": ["text"] * SAMPLES}
    )


def language_model(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        vocab_size=VOCABULARY,
        n_positions=16,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return transformers.GPT2LMHeadModel(config)


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "max_steps": 10,
            "learning_rate": 0.2,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
            "seed": 3,
            **more,
        }
    )


OURS = ("store", "losses", "chunk_size", "extra_forward", "data_collator")


def trainer(folder: Path, strategy: Strategy, *, model: Any = None, dataset: Any = None, **more: Any) -> Any:
    ours = {name: more.pop(name) for name in OURS if name in more}
    made = WeightedTrainer(
        language_model() if model is None else model,
        arguments(folder, **more),
        train_dataset=texts() if dataset is None else dataset,
        strategy=strategy,
        **ours,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def bare(folder: Path, model: Any = None, dataset: Any = None, **more: Any) -> Trainer:
    made = Trainer(
        language_model() if model is None else model,
        arguments(folder, **more),
        train_dataset=texts() if dataset is None else dataset,
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def logged(made: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


def parameters(made: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach()


def plain(strategy: Strategy, diary: list[list[list[int]]], whole: bool = False) -> tuple[list[float], Any, Any]:
    """The same training in a plain loop: the mean over labelled tokens, each times the weight of its sample."""
    from weighted_stream import WeightedStream

    stream, model = WeightedStream(list(range(SAMPLES)), strategy), language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x, y = tokens(), labels()
    losses = []
    for step in diary:
        weight = stream.weight([number for part in step for number in part])
        items = sum(int((y[part][:, COUNTED:] != -100).sum()) for part in step)

        def each(part: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
            logits = model(x[part]).logits
            token = F.cross_entropy(logits[:, :-1].transpose(1, 2), y[part][:, 1:], reduction="none")
            counts = (y[part][:, 1:] != -100).sum(1)
            return token.sum(1) / counts, counts

        if whole:
            with torch.no_grad():
                weight.resolve(torch.cat([each(part)[0] for part in step]))
        optimizer.zero_grad()
        total, at = 0.0, 0
        for part in step:
            loss, counts = each(part)
            loss = (loss * weight[at : at + len(part)] * counts).sum() / items
            loss.backward()
            total, at = total + float(loss.detach()), at + len(part)
        optimizer.step()
        losses.append(total)
    return losses, nn.utils.parameters_to_vector(model.parameters()).detach(), stream


COUNTED = 0
"""The first label that this version of the Trainer counts, for a GPT2LMHeadModel."""


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_memory_changes_nothing(tmp_path: Path, workers: int) -> None:
    made = trainer(tmp_path / "one", running(), dataloader_num_workers=workers)
    made.train()
    with pinning() as pinned:
        other = trainer(tmp_path / "two", running(), dataloader_num_workers=workers)
        other.args.dataloader_pin_memory = True  # on a CPU the arguments themselves say no
        other.train()
    assert len(pinned) >= 10 * 4 * 3  # input_ids, labels and ids of each part
    assert other.diary == made.diary
    assert torch.equal(parameters(other), parameters(made))
    assert_same_store(other.stream, made.stream)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ten_steps_equal_the_plain_loop(tmp_path: Path, size: int) -> None:
    made = trainer(tmp_path, running(), per_device_train_batch_size=size)
    made.train()
    losses, expected, stream = plain(running(), made.diary)
    assert len(logged(made)) == 10
    np.testing.assert_allclose(logged(made), losses, atol=1e-4)  # the Trainer rounds what it logs
    torch.testing.assert_close(parameters(made), expected, atol=1e-5, rtol=0)
    ids = np.arange(SAMPLES)
    np.testing.assert_allclose(made.stream.store.get(ids)["weight"], stream.store.get(ids)["weight"], atol=1e-5)
    np.testing.assert_allclose(made.stream.store.get(ids)["loss"], stream.store.get(ids)["loss"], atol=1e-5)
    assert made.stream.stats()["step"] == 10


@pytest.mark.parametrize(
    "more", [{}, {"chunk_size": 8}, {"extra_forward": True, "per_device_train_batch_size": 4}, {"max_grad_norm": 1.0}]
)
def test_samples_without_a_label_have_no_say(tmp_path: Path, more: dict[str, Any]) -> None:
    """A prompt that leaves no room for its answer has loss 0, and is not the easiest sample of its batch."""
    made = labels()
    unlabelled = np.arange(0, SAMPLES, 4)
    made[unlabelled] = -100
    dataset = datasets.Dataset.from_dict({"input_ids": tokens().tolist(), "labels": made.tolist()})
    strategy = LinUpper() if "extra_forward" in more else running()
    run = trainer(tmp_path, strategy, dataset=dataset, max_steps=-1, num_train_epochs=1, **more)
    run.train()
    fields = run.stream.store.get(np.arange(SAMPLES))
    assert np.isnan(fields["loss"][unlabelled]).all()
    assert not fields["weight"][unlabelled].any()
    assert not fields["visits"][unlabelled].any()
    rest = np.delete(np.arange(SAMPLES), unlabelled)
    np.testing.assert_array_equal(fields["visits"][rest], 1)
    assert fields["weight"][rest].mean() == pytest.approx(1, abs=0.15)
    assert run.stream.stats()["nonfinite"] == len(unlabelled)
    assert np.isfinite(logged(run)).all()
    assert parameters(run).isfinite().all()


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 1}, {"dataloader_num_workers": 2}])
def test_uniform_weights_equal_training_without_us(tmp_path: Path, more: dict[str, Any]) -> None:
    made, without = trainer(tmp_path, Uniform(), **more), bare(tmp_path, **more)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    np.testing.assert_allclose(logged(made), logged(without), atol=1e-4)


def test_uniform_weights_over_epochs_with_a_smaller_last_step(tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3}
    made, without = trainer(tmp_path, Uniform(), **more), bare(tmp_path, **more)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    np.testing.assert_array_equal(made.stream.store.get(np.arange(SAMPLES))["visits"], 2)
    assert made.stream.epoch == 1


def test_a_joint_strategy_wants_one_part_or_an_extra_forward_pass(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match="extra_forward=True"):
        trainer(tmp_path, LinUpper()).train()
    made = trainer(tmp_path, LinUpper(), extra_forward=True)
    made.train()
    losses, expected, _ = plain(LinUpper(), made.diary, whole=True)
    np.testing.assert_allclose(logged(made), losses, atol=1e-4)
    torch.testing.assert_close(parameters(made), expected, atol=1e-5, rtol=0)
    one = trainer(tmp_path, LinUpper(), per_device_train_batch_size=8, gradient_accumulation_steps=1)
    one.train()
    assert made.diary[0][0] == one.diary[0][0][:2]
    torch.testing.assert_close(parameters(made), parameters(one), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop", [4, 11, 13])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    more: dict[str, Any] = {
        "max_steps": 22,
        "save_strategy": "steps",
        "save_steps": stop,
        "extra_forward": True,
        "dataloader_num_workers": 2 if stop == 4 else 0,
    }

    def made(name: str, store: str) -> Any:
        return trainer(tmp_path / name, LinUpper(), model=language_model(0.2), store=tmp_path / store, **more)

    whole = made("run", "store")
    whole.train()
    reference = made("other", "reference")
    reference.train()
    whole.stream.close()
    again = made("run", "store")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    assert logged(again)[stop:] == logged(whole)[stop:]
    assert torch.equal(parameters(again), parameters(whole))
    assert again.diary == whole.diary[stop:]
    assert_same_store(again.stream, reference.stream)


@pytest.mark.parametrize("stop", [15, 22])
def test_what_a_strategy_decided_for_an_epoch_is_kept(tmp_path: Path, stop: int) -> None:
    more: dict[str, Any] = {"max_steps": 30, "save_strategy": "steps", "save_steps": stop}
    whole = trainer(tmp_path, InfoBatch(), **more)
    whole.train()
    again = trainer(tmp_path, InfoBatch(), **more)
    again.train(str(tmp_path / f"checkpoint-{stop}"))
    assert torch.equal(parameters(again), parameters(whole))
    assert_same_store(again.stream, whole.stream)
    assert again.stream.stats()["weight_cv"] > 0


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path: Path) -> None:
    bare(tmp_path, save_strategy="steps", save_steps=5, max_steps=5).train()
    with pytest.raises(StateError, match="no state of the stream"):
        trainer(tmp_path, Uniform()).train(resume_from_checkpoint=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, Uniform(), save_strategy="steps", save_steps=5, max_steps=5).train()
    (file,) = tmp_path.glob("checkpoint-5/weighted_stream_*.pt")
    whole = file.read_bytes()
    for bytes_ in b"", b"\x80\x02.", whole[: len(whole) // 2]:
        file.write_bytes(bytes_)
        with pytest.raises(StateError, match="Cannot read"):
            trainer(tmp_path, Uniform()).train(resume_from_checkpoint=True)


def test_figures_are_in_the_logs(tmp_path: Path) -> None:
    made = trainer(tmp_path, running())
    made.train()
    assert len(logged(made, "weights/ess")) == 10
    assert logged(made, "weights/step") == list(range(1, 11))
    assert max(logged(made, "weights/weight_cv")) > 0
    assert set(logged(made, "weights/window")) == {8}  # of one step each, with all its micro-batches


def test_evaluation_is_as_without_us(tmp_path: Path) -> None:
    made, without = trainer(tmp_path, running()), bare(tmp_path)
    made.train()
    without.model = made.model
    step = made.stream.stats()["step"]
    assert made.evaluate(texts())["eval_loss"] == pytest.approx(without.evaluate(texts())["eval_loss"], abs=1e-7)
    assert made.stream.stats()["step"] == step


IN_ONE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
"""As large a step without accumulation: some models take ``num_items_in_batch`` and ignore it: nobody divides then."""


def classifier() -> Any:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, hidden_dim=32, n_layers=1, n_heads=2, dropout=0.0, attention_dropout=0.0
    )
    config.seq_classif_dropout = 0.0
    return transformers.DistilBertForSequenceClassification(config)


def test_labels_are_shifted_as_the_model_of_the_moment_wants_it(tmp_path: Path) -> None:
    made = trainer(tmp_path, Uniform())
    assert made._shifts()
    made.model = classifier()  # as model_init may do
    assert not made._shifts()
    made.model = language_model()
    assert made._shifts()


def labelled() -> Any:
    return datasets.Dataset.from_dict(
        {"input_ids": tokens().tolist(), "label": (tokens()[:, 0] % 2).tolist(), "url": ["x"] * SAMPLES}
    )


@pytest.mark.parametrize("losses", [None, label_losses])
def test_a_classifier(tmp_path: Path, losses: Any) -> None:
    made = trainer(tmp_path, Uniform(), model=classifier(), dataset=labelled(), losses=losses)
    without = bare(tmp_path, classifier(), labelled(), **IN_ONE)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    weighted = trainer(tmp_path, running(), model=classifier(), dataset=labelled(), losses=losses)
    weighted.train()
    assert weighted.stream.stats()["weight_cv"] > 0


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("chunked", [False, True])
def test_sequence_to_sequence(tmp_path: Path, given: bool, chunked: bool) -> None:
    def model() -> Any:
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
        )
        return transformers.T5ForConditionalGeneration(config)

    class Weighted(WeightedTrainerMixin, transformers.Seq2SeqTrainer):
        pass

    def args(folder: Path, **more: Any) -> Any:
        return transformers.Seq2SeqTrainingArguments(**arguments(folder).to_dict() | more)

    # The Trainer pops the labels, of which the model would make the decoder's input.
    rows = [{"input_ids": x.tolist(), "labels": y.tolist()} for x, y in zip(tokens(), labels(), strict=True)]
    if given:
        rows = [{**row, "decoder_input_ids": [0, *(max(0, y) for y in row["labels"][:-1])]} for row in rows]
    more: dict[str, Any] = {"chunk_size": 7} if chunked else {}
    made = Weighted(model(), args(tmp_path), train_dataset=rows, strategy=Uniform(), **more)
    without = transformers.Seq2SeqTrainer(model(), args(tmp_path, **IN_ONE), train_dataset=rows)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-5 if chunked else 1e-6, rtol=0)


def test_runs_of_many_are_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, running())
    with pytest.raises(StrategyError, match="found:    hyperparameter_search"):
        made.train(trial=object())
    made.args._n_gpu = 2
    with pytest.raises(StrategyError, match="DataParallel") as caught:
        made.train()
    assert "torchrun" in str(caught.value)


def test_samples_of_similar_length_by_their_column(tmp_path: Path) -> None:
    size = len(tokens())
    rows = datasets.Dataset.from_dict(
        {"input_ids": tokens().tolist(), "labels": labels().tolist(), "length": list(range(1, size + 1))}
    )
    more: dict[str, Any] = {"remove_unused_columns": False, "length_column_name": "length"}
    more |= (
        {"group_by_length": True}
        if hasattr(arguments(tmp_path), "group_by_length")
        else {"train_sampling_strategy": "group_by_length"}
    )
    made, without = trainer(tmp_path, running(), dataset=rows, **more), bare(tmp_path / "bare", dataset=rows, **more)
    found, expected = (one.get_train_dataloader().base_dataloader.batch_sampler.sampler for one in (made, without))
    assert type(found) is type(expected)
    assert found.lengths == expected.lengths == list(range(1, size + 1))


def test_an_evaluation_set_with_ids(tmp_path: Path) -> None:
    """As one that was packed along with the training set: the model gets none of them, as without us."""
    made = trainer(tmp_path, running())
    made.train()
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": tokens().tolist(),
            "labels": labels().tolist(),
            "sample_id": [[1] * tokens().shape[1]] * len(tokens()),
        }
    )
    assert made.evaluate(rows)["eval_loss"] > 0


def test_rows_in_a_list(tmp_path: Path) -> None:
    rows = [{"input_ids": x, "labels": y, "more": 1} for x, y in zip(tokens(), labels(), strict=True)]
    made = trainer(tmp_path, running(), dataset=rows)
    made.train()
    assert made.stream.stats()["step"] == 10


def streamed() -> Any:
    """Read in order, in another order each epoch; which one, the dataset is told by `set_epoch`."""

    def generate() -> Any:
        for at, (x, y) in enumerate(zip(tokens(), labels(), strict=True)):
            yield {"input_ids": x, "labels": y, "url": f"row-{at}"}

    return datasets.IterableDataset.from_generator(generate).shuffle(seed=7, buffer_size=50)


class WeightedByUrl(WeightedTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, id_fn="url", **kwargs)
        self.remove_callback(transformers.PrinterCallback)


def test_a_dataset_that_is_read_in_order(tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 25, "save_strategy": "steps", "save_steps": 8}
    model = language_model
    made = WeightedByUrl(model(), arguments(tmp_path, **more), train_dataset=streamed(), strategy=Uniform())
    without = bare(tmp_path / "bare", dataset=streamed(), max_steps=25)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    assert made.stream.epoch == 2

    weighted = WeightedByUrl(model(), arguments(tmp_path, **more), train_dataset=streamed(), strategy=running())
    weighted.train()
    again = WeightedByUrl(model(), arguments(tmp_path, **more), train_dataset=streamed(), strategy=running())
    again.train(str(tmp_path / "checkpoint-8"))
    assert again.diary == weighted.diary[8:]
    assert torch.equal(parameters(again), parameters(weighted))
    assert_same_store(again.stream, weighted.stream)
    again = WeightedByUrl(model(), arguments(tmp_path, **more), train_dataset=streamed(), strategy=running())
    with pytest.raises(StateError, match="cannot find its place in a dataset without a length"):
        again.train(str(tmp_path / "checkpoint-16"))  # in the second epoch: the Trainer takes all for one


class Rows(torch.utils.data.IterableDataset):
    """Has a length, and another order in each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Any:
        for at in torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.epoch)).tolist():
            yield {"input_ids": tokens()[at], "labels": labels()[at], "url": at}


def test_going_on_in_a_later_epoch_of_a_dataset_that_is_read_in_order(tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 25, "save_strategy": "steps", "save_steps": 16}
    whole = WeightedByUrl(language_model(), arguments(tmp_path, **more), train_dataset=Rows(), strategy=running())
    whole.train()
    again = WeightedByUrl(language_model(), arguments(tmp_path, **more), train_dataset=Rows(), strategy=running())
    again.train(str(tmp_path / "checkpoint-16"))
    assert again.diary == whole.diary[16:]
    assert whole.diary[0] != whole.diary[11]
    assert torch.equal(parameters(again), parameters(whole))
    assert_same_store(again.stream, whole.stream)


def flat_rows() -> list[dict[str, Any]]:
    return [
        {"input_ids": x[: 5 + n % 7].tolist(), "labels": y[: 5 + n % 7].tolist()}
        for n, (x, y) in enumerate(zip(tokens(), labels(), strict=True))
    ]


def test_a_batch_that_is_one_long_row(tmp_path: Path) -> None:
    """A weight for each sample in it, for all of its tokens."""

    def model() -> Any:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=1, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0
        )
        config.attn_pdrop, config.use_cache = 0.0, False  # with a cache, samples would see those before them
        return transformers.GPT2LMHeadModel(config)

    flat = transformers.DataCollatorWithFlattening(return_position_ids=True)
    made = trainer(tmp_path, Uniform(), model=model(), dataset=flat_rows(), data_collator=flat)
    without = Trainer(model(), arguments(tmp_path), train_dataset=flat_rows(), data_collator=flat)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)

    # One batch by hand.
    weighted = trainer(
        tmp_path, LinUpper(), model=model(), dataset=flat_rows(), data_collator=flat, gradient_accumulation_steps=1
    )
    weighted.args.max_steps = 1
    weighted.train()
    (ids,) = weighted.diary[0]
    batch = flat([flat_rows()[number] for number in ids])
    with torch.no_grad():
        logits = model()(batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
    token = F.cross_entropy(logits[:-1], batch["labels"][0, 1:], reduction="none")
    lengths = [len(flat_rows()[number]["input_ids"]) for number in ids]
    sums = [part.sum() for part in torch.cat([token, token.new_zeros(1)]).split(lengths)]
    counts = [(part != -100).sum() for part in torch.cat([batch["labels"][0, 1:], torch.tensor([-100])]).split(lengths)]
    expected = torch.stack([s / c for s, c in zip(sums, counts, strict=True)])
    records = weighted.stream.store.get(ids)
    np.testing.assert_allclose(records["loss"], expected, atol=1e-5)


def test_what_hides_the_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="label_smoothing_factor"):
        trainer(tmp_path, Uniform(), label_smoothing_factor=0.1)
    with pytest.raises(LossError, match="compute_loss_func"):
        WeightedTrainer(
            language_model(), arguments(tmp_path), train_dataset=texts(), strategy=Uniform(), compute_loss_func=print
        )
    with pytest.raises(StrategyError, match=r"stream\.loader"):
        trainer(tmp_path, RhoLoss(language_model(), language_model(), label_losses))

    class Fused(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return model(**inputs).loss

    class WeightedFused(WeightedTrainerMixin, Fused):
        pass

    made = WeightedFused(language_model(), arguments(tmp_path), train_dataset=texts(), strategy=Uniform())
    with pytest.raises(LossError, match="Fused hides what each sample contributes"):
        made.train()


class NoLogits(nn.Module):
    """A model whose fused loss never makes logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(VOCABULARY, 1)

    def forward(self, input_ids: Any = None, labels: Any = None) -> Any:
        return {"loss": self.layer(input_ids).mean()}


def test_a_model_without_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="chunk_size=1024 of WeightedTrainerMixin"):
        trainer(tmp_path, Uniform(), model=NoLogits()).train()


def test_ids_that_get_lost(tmp_path: Path) -> None:
    class OwnLoader(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(
                texts().with_format("torch").remove_columns("kind"), batch_size=2, shuffle=False
            )

    class Weighted(WeightedTrainerMixin, OwnLoader):
        pass

    made = Weighted(language_model(), arguments(tmp_path), train_dataset=texts(), strategy=Uniform())
    with pytest.raises(SourceError, match="get_train_dataloader"):
        made.train()

    class OwnColumns(Trainer):
        def _get_collator_with_removed_columns(self, collator: Any, description: Any = None) -> Any:
            return lambda samples: collator([{"input_ids": s["input_ids"], "labels": s["labels"]} for s in samples])

    class WeightedColumns(WeightedTrainerMixin, OwnColumns):
        pass

    made = WeightedColumns(language_model(), arguments(tmp_path), train_dataset=texts(), strategy=Uniform())
    with pytest.raises(SourceError, match="remove_unused_columns=False"):
        made.train()

    def pairs(samples: list[Any]) -> Any:
        return transformers.default_data_collator([*samples, *samples])

    with pytest.raises(SourceError, match="4 rows"):
        trainer(tmp_path, Uniform(), data_collator=pairs, remove_unused_columns=False, dataset=flat_even()).train()


def flat_even() -> list[dict[str, Any]]:
    return [{"input_ids": x, "labels": x} for x in tokens()]


@pytest.mark.parametrize("remove", [True, False])
def test_unused_columns(tmp_path: Path, remove: bool) -> None:
    dataset = texts() if remove else texts().remove_columns("kind")
    made = trainer(tmp_path, running(), dataset=dataset, remove_unused_columns=remove)
    made.train()
    assert made.stream.stats()["samples"] == 80


def test_dispatched_batches(tmp_path: Path) -> None:
    more = {"accelerator_config": {"dispatch_batches": True, "split_batches": False}}
    made, without = trainer(tmp_path, Uniform(), **more), bare(tmp_path, **more)
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)
    assert made.stream.stats()["samples"] == 80


@pytest.mark.parametrize("more", [{}, {"chunk_size": 16}], ids=["logits", "chunks"])
def test_torch_compile(tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # torch_compile=True sets it for all that come later
    compiled = trainer(tmp_path, running(), torch_compile=True, torch_compile_backend="aot_eager", max_steps=3, **more)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    eager = trainer(tmp_path, running(), max_steps=3)
    compiled.train()
    eager.train()
    torch.testing.assert_close(parameters(compiled), parameters(eager), atol=1e-5, rtol=0)
    assert compiled.evaluate(texts())["eval_loss"] == pytest.approx(eager.evaluate(texts())["eval_loss"], abs=1e-4)


def test_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def model() -> Any:
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
        return peft.get_peft_model(language_model(), config)

    made, without = trainer(tmp_path, Uniform(), model=model()), bare(tmp_path, model())
    made.train()
    without.train()
    torch.testing.assert_close(parameters(made), parameters(without), atol=1e-6, rtol=0)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import weighted_stream

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "weighted_stream.trainers.huggingface")
    with pytest.raises(MissingExtraError, match=r"weighted-stream\[hf\]"):
        _ = weighted_stream.WeightedTrainerMixin

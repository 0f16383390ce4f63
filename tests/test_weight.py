"""Weight: the product is the feedback, once per batch, exact, with clear errors."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from weighted_stream import (
    Clip,
    Frozen,
    InfoBatch,
    LinUpper,
    LossError,
    SampleIdError,
    Shuffled,
    Signals,
    Similarity,
    StoreError,
    Strategy,
    StrategyError,
    UnboundError,
    Uniform,
    Weight,
    WeightedStream,
    WindowError,
)
from weighted_stream.strategies.lin_upper import lin_upper

LOSSES = [1.0, 2.0, 3.0, 5.0]
EXPECTED = 4 * torch.softmax(torch.tensor([0, 0.5, 1, 1]) / 0.4, 0)  # methods.md: 0.1386 0.4838 1.6888 1.6888


def one_batch(strategy: Strategy | None = None, size: int = 4) -> tuple[WeightedStream, Weight]:
    stream = WeightedStream(list(range(10, 10 + size)), strategy or LinUpper(r=0.4))
    ((_, weight),) = stream.loader(batch_size=size)
    return stream, weight


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=0, check_dtype=False)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda losses, weight: losses * weight,
        lambda losses, weight: weight * losses,
        lambda losses, weight: torch.mul(losses, weight),
        lambda losses, weight: torch.multiply(weight, losses),
        lambda losses, weight: losses.mul(weight),
        lambda losses, weight: losses * weight.resolve(losses),
    ],
)
def test_every_way_to_multiply(multiply) -> None:
    stream, weight = one_batch()
    losses = torch.tensor(LOSSES, requires_grad=True)
    product = multiply(losses, weight)
    close(product, EXPECTED * losses.detach())
    product.sum().backward()
    close(losses.grad, EXPECTED)
    record = stream.store.get([0, 1, 2, 3])
    assert record["last_loss"].tolist() == LOSSES
    close(torch.from_numpy(record["weight"]), EXPECTED)
    assert record["visits"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_weights_are_float32_whatever_the_losses(dtype, result) -> None:
    _, weight = one_batch()
    losses = torch.tensor(LOSSES, dtype=dtype)
    product = losses * weight
    assert product.dtype == result
    close(product, EXPECTED * torch.tensor(LOSSES))
    assert weight.resolve(losses).dtype == torch.float32


def test_autocast() -> None:
    model = torch.nn.Linear(3, 1)
    _, weight = one_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.ones(4, 3)).squeeze(1).square()
        assert losses.dtype == torch.bfloat16
        (losses * weight).mean().backward()
    assert torch.isfinite(model.weight.grad).all()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_torch_compile(backend: str) -> None:
    torch._dynamo.reset()
    stream = WeightedStream(list(range(64)), LinUpper(r=0.4))

    def step(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        losses = torch.tanh(x * x) + 1
        return (losses * weight).mean() * 2

    compiled = torch.compile(step, backend=backend)
    for batch, weight in stream.loader(batch_size=16):
        x = batch.float().div(20).requires_grad_()
        loss = compiled(x, weight)
        loss.backward()
        plain = x.detach().clone().requires_grad_()
        losses = torch.tanh(plain * plain) + 1
        expected = (losses * lin_upper(losses.detach(), 0.4)).mean() * 2
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(x.grad, plain.grad)
    assert stream.store.get(list(range(64)))["visits"].tolist() == [1] * 64


def test_only_the_product_is_allowed() -> None:
    _, weight = one_batch()
    losses = torch.tensor(LOSSES)
    for wrong in (
        lambda: torch.dot(losses, weight),
        lambda: torch.stack([weight, weight]),
        lambda: torch.mul(losses, weight, out=torch.empty(4)),
        lambda: losses.mul_(weight),
    ):
        with pytest.raises(TypeError, match="losses \\* weight"):
            wrong()
    with pytest.raises(TypeError):
        losses + weight
    for other in (2.0, np.array(LOSSES), LOSSES):
        with pytest.raises(LossError, match="float losses of shape"):
            other * weight


@pytest.mark.parametrize(
    ("losses", "hint"),
    [
        (torch.tensor(2.0), "reduction='none'"),
        (torch.ones(4, 7), "per_sample_cross_entropy"),
        (torch.ones(4, 1), "per_sample_cross_entropy"),
        (torch.ones(4, 2, 2), "reduce all but the first"),
        (torch.ones(3), "the weight that came with this batch"),
        (torch.ones(8), "the weight that came with this batch"),
        (torch.ones(4, dtype=torch.int64), "by the losses of its batch"),
        (3.0, "by the losses of its batch"),
    ],
)
def test_wrong_losses(losses, hint: str) -> None:
    stream, weight = one_batch()
    with pytest.raises(LossError) as error:
        losses * weight
    assert hint in str(error.value)
    assert "(4,)" in str(error.value)
    assert len(stream.store) == 0  # nothing of it was counted


def test_losses_of_another_batch() -> None:
    stream = WeightedStream(list(range(8)), LinUpper())
    (_, first), (_, second) = stream.loader(batch_size=4)
    losses = torch.tensor(LOSSES)
    losses * first
    with pytest.raises(LossError, match="another batch"):
        losses * second
    with pytest.raises(LossError, match="another batch") as error:
        second.resolve(torch.rand(4), ids=first.ids)
    assert "[0, 1, 2, 3]" in str(error.value)
    assert "[4, 5, 6, 7]" in str(error.value)
    second.resolve(torch.rand(4), ids=second.ids)
    assert stream.store.get(list(range(8)))["visits"].tolist() == [1] * 8


def test_a_batch_run_again_is_counted_once() -> None:
    """As after an out-of-memory error: the losses differ a little, the weights are theirs, the first are stored."""
    stream, weight = one_batch()
    first, again = torch.tensor(LOSSES), torch.tensor([1.1, 2.0, 3.0, 5.0])
    first * weight
    close(again * weight, again * lin_upper(again, 0.4))
    again * weight
    record = stream.store.get([0, 1, 2, 3])
    assert record["visits"].tolist() == [1] * 4
    assert record["last_loss"].tolist() == LOSSES
    assert stream.stats()["step"] == 1


def test_the_same_ids_seen_twice_as_dict_batch_count_once_per_losses() -> None:
    stream = WeightedStream([{"x": i} for i in range(4)], LinUpper(), as_dict=True)
    (batch,) = stream.loader(batch_size=4)
    losses = torch.tensor(LOSSES)
    losses * stream.weight(batch["sample_id"])
    losses * stream.weight(batch["sample_id"])
    assert stream.store.get([0])["visits"].tolist() == [1]


def test_parts_need_the_whole_batch_first_if_the_window_is_the_batch() -> None:
    stream, weight = one_batch()
    losses = torch.tensor(LOSSES)
    with pytest.raises(WindowError, match="running") as error:
        losses[:2] * weight[:2]
    assert "all 4 losses" in str(error.value)
    assert len(stream.store) == 0
    whole = losses * weight
    parts = [part * piece for part, piece in zip(losses.split(3), weight.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert stream.store.get([0, 1, 2, 3])["visits"].tolist() == [1] * 4


@pytest.mark.parametrize("wrap", [Shuffled, Clip, lambda s: s * Uniform()])
def test_wrapped_joint_strategies_refuse_parts_too(wrap) -> None:
    _, weight = one_batch(wrap(LinUpper()))
    with pytest.raises(WindowError):
        torch.ones(2) * weight[:2]


def test_parts_of_a_running_window_equal_the_whole_in_weights_and_store() -> None:
    torch.manual_seed(0)
    data = list(range(48))
    whole = WeightedStream(data, LinUpper(r=0.4, window="running"))
    parts = WeightedStream(data, LinUpper(r=0.4, window="running"))
    for _ in range(4):
        for (_, one), (_, many) in zip(whole.loader(batch_size=12), parts.loader(batch_size=12), strict=True):
            losses = torch.rand(12)
            expected = losses * one
            got = torch.cat([part * piece for part, piece in zip(losses.split(5), many.split(5), strict=True)])
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
            torch.testing.assert_close(many.tensor(), one.tensor(), rtol=0, atol=0)
    for field, values in whole.store.get(data).items():
        np.testing.assert_array_equal(values, parts.store.get(data)[field], err_msg=field)
    assert parts.stats()["step"] == 16


def test_a_part_run_again_in_other_pieces_is_counted_once() -> None:
    """Composer halves the micro-batch after an out-of-memory error."""
    stream, weight = one_batch(LinUpper(window="running"), size=8)
    torch.rand(4) * weight[:4]
    for piece in weight.split(2):
        torch.rand(2) * piece
    assert stream.store.get(list(range(8)))["visits"].tolist() == [1] * 8


def test_slicing() -> None:
    _, weight = one_batch(size=6)
    assert len(weight) == 6
    assert weight.ids.dtype == torch.int64
    assert weight[1:3].ids.tolist() == [1, 2]
    assert weight[-1].ids.tolist() == [5]
    assert weight[torch.tensor([4, 0])].ids.tolist() == [4, 0]
    assert weight[torch.tensor([True, False] * 3)].ids.tolist() == [0, 2, 4]
    assert weight[1:][1:][[0, 2]].ids.tolist() == [2, 4]
    assert [len(part) for part in weight.split(4)] == [4, 2]
    assert [part.ids.item() for part in weight] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(IndexError):
        weight[6]
    assert "6 samples" in repr(weight)


def test_to_and_pin_memory_are_harmless() -> None:
    _, weight = one_batch()
    assert weight.to("cpu", non_blocking=True) is weight
    assert weight.pin_memory() is weight


def test_tensor_without_losses() -> None:
    stream, weight = one_batch()
    with pytest.raises(LossError, match="no losses yet"):
        weight.tensor()
    weight.resolve(torch.tensor(LOSSES))
    close(weight.tensor(), EXPECTED)
    close(weight[1:3].tensor(), EXPECTED[1:3])
    stream.store.update([2, 3], weight=[0.5, 3.0])
    frozen = WeightedStream(list(range(4)), Frozen(), store=stream.store)
    ((_, known),) = frozen.loader(batch_size=4)
    close(known.tensor(), torch.tensor([0.1386, 0.4838, 0.5, 3.0]))
    close(known[2:].tensor(), torch.tensor([0.5, 3.0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_gets_zero_and_is_counted(bad: float) -> None:
    stream, weight = one_batch(LinUpper(r=1.0), size=5)
    losses = torch.tensor([1.0, bad, 2.0, 3.0, 5.0], requires_grad=True)
    product = losses * weight
    others = lin_upper(torch.tensor(LOSSES), 1.0)  # as if it were not there
    close(weight.tensor(), torch.tensor([others[0], 0, others[1], others[2], others[3]]))
    assert product[1].item() == 0
    product.sum().backward()
    assert losses.grad[1].item() == 0
    assert torch.isfinite(losses.grad).all()
    record = stream.store.get([0, 1, 2, 3, 4])
    assert record["visits"].tolist() == [1, 0, 1, 1, 1]
    assert np.isnan(record["loss"][1])
    assert stream.stats()["nonfinite"] == 1


@pytest.mark.parametrize("strategy", [LinUpper(), LinUpper(window="running"), Uniform(), LinUpper(quantile=0.1)])
def test_a_batch_of_nothing_finite(strategy: Strategy) -> None:
    stream, weight = one_batch(strategy)
    losses = torch.tensor([math.nan, math.inf, -math.inf, math.nan], requires_grad=True)
    loss = (losses * weight).mean()
    loss.backward()
    assert loss.item() == 0
    assert losses.grad.tolist() == [0] * 4
    assert weight.tensor().tolist() == [0] * 4
    assert stream.stats()["nonfinite"] == 4
    assert stream.store.get([0, 1, 2, 3])["visits"].tolist() == [0] * 4


def test_one_sample_and_none() -> None:
    _, weight = one_batch(size=1)
    assert (torch.tensor([3.0]) * weight).tolist() == [3.0]
    _, weight = one_batch(size=3)
    with pytest.raises(WindowError):
        torch.empty(0) * weight[:0]
    _, weight = one_batch(LinUpper(window="running"), size=3)
    assert (torch.empty(0) * weight[:0]).shape == (0,)


def test_a_pickled_weight_finds_its_stream_again() -> None:
    stream, weight = one_batch()
    again = pickle.loads(pickle.dumps(weight[1:]))
    assert again.ids.tolist() == [1, 2, 3]
    close(again.resolve(torch.tensor([1.0, 2.0, 3.0])), lin_upper(torch.tensor([1.0, 2.0, 3.0]), 0.4))
    assert stream.store.get([3])["last_loss"].tolist() == [3.0]


def test_a_weight_without_its_stream() -> None:
    stream, weight = one_batch()
    alone = pickle.dumps(weight)
    del stream, weight
    with pytest.raises(UnboundError, match="keep the stream"):
        torch.tensor(LOSSES) * pickle.loads(alone)


class Fixed(Strategy):
    def __init__(self, value: object) -> None:
        self.value = value

    def weights(self, signals: Signals) -> torch.Tensor:
        return self.value  # type: ignore[return-value]


@pytest.mark.parametrize(
    "value", [torch.ones(3), torch.ones(4, 1), 1.0, torch.tensor([1.0, -1, 1, 1]), torch.full((4,), math.nan)]
)
def test_a_strategy_that_returns_no_weights(value: object) -> None:
    _, weight = one_batch(Fixed(value))
    with pytest.raises(StrategyError, match="Fixed"):
        torch.rand(4) * weight


def test_weights_are_detached() -> None:
    _, weight = one_batch(Fixed(torch.ones(4, requires_grad=True) * 2))
    assert not weight.resolve(torch.rand(4)).requires_grad


def test_a_weight_beyond_the_theory_warns_once() -> None:
    stream = WeightedStream(list(range(64)), LinUpper(r=0.2))
    losses = torch.cat([torch.zeros(31), torch.ones(1)])
    (_, first), (_, second) = stream.loader(batch_size=32)
    with pytest.warns(RuntimeWarning, match="passes the 2"):
        losses * first
    losses.clone() * second  # warnings are errors: silent


def test_weights_that_never_vary_are_reported() -> None:
    stream = WeightedStream(list(range(4)), LinUpper())
    with pytest.warns(RuntimeWarning, match="have not varied"):
        train(stream)
    train(WeightedStream(list(range(4)), Uniform()))  # warnings are errors: silent


class Nothing(Strategy):
    """Weights of 0; the store has its own, or none."""

    def __init__(self, remembers: bool) -> None:
        self.remembers = remembers

    def weights(self, signals: Signals) -> torch.Tensor:
        return torch.zeros(len(signals))


@pytest.mark.parametrize("remembers", [True, False])
def test_weights_that_are_all_0_are_reported(remembers: bool) -> None:
    with pytest.warns(RuntimeWarning, match="have all been 0 in 200 batches: nothing is trained"):
        train(WeightedStream(list(range(4)), Nothing(remembers)))


def test_weights_that_nobody_uses_are_reported_once() -> None:
    stream = WeightedStream(list(range(8)), LinUpper())
    loader = stream.loader(batch_size=4)
    list(loader)
    list(loader)  # they may be used later: silent
    with pytest.warns(RuntimeWarning, match="No weight of epoch 1 was used: LinUpper"):
        list(loader)
    list(loader)  # warnings are errors: silent
    stream = WeightedStream([{"x": 1}] * 8, LinUpper(), as_dict=True)
    list(stream.loader(batch_size=4))
    with pytest.warns(RuntimeWarning, match="No weight of epoch 0 was used"):
        stream.close()


def test_weights_that_somebody_uses() -> None:
    stream = WeightedStream(list(range(8)), LinUpper())
    loader = stream.loader(batch_size=4)
    for _, weight in loader:
        torch.rand(4) * weight
        break
    for _, weight in list(loader):
        torch.rand(4) * weight
    ahead = list(loader)
    for (_, weight), _ in zip(ahead, loader, strict=True):  # used an epoch later
        torch.rand(4) * weight
    for batch, weight in loader:
        if batch[0] == 0:
            weight.resolve(torch.rand(4))
    stream.close()  # warnings are errors: silent
    with WeightedStream(list(range(8)), Uniform()) as uniform:
        list(uniform.loader(batch_size=4))


def train(stream: WeightedStream) -> None:
    for _ in range(201):
        for _, weight in stream.loader(batch_size=4):
            torch.ones(4) * weight


def test_frozen_weights_stay_whatever_they_are_combined_with() -> None:
    losses = torch.tensor(LOSSES)
    for strategy in (Frozen(), LinUpper(r=1.0) * Frozen(), Shuffled(Frozen()), Clip(Frozen(), high=1.5)):
        stream = WeightedStream(list(range(4)), strategy)
        stream.store.update(list(range(4)), weight=[0.5, 1.0, 2.0, 1.0])
        first = None
        for _ in range(3):
            ((_, weight),) = stream.loader(batch_size=4)
            weights = weight.resolve(torch.tensor([1.0, math.inf, 3.0, 5.0]))
            again = weight.resolve(losses + 1)
            assert stream.store.get(list(range(4)))["weight"].tolist() == [0.5, 1.0, 2.0, 1.0]
            assert weight.resolve(losses + 1).tolist() == again.tolist()
            first = weights if first is None else first
            if not isinstance(strategy, Shuffled):
                assert weights.tolist() == first.tolist()


def test_a_product_that_failed_is_not_counted_and_fails_again() -> None:
    stream, weight = one_batch(Fixed(torch.tensor([1.0, -1, 1, 1])))
    for _ in range(2):
        with pytest.raises(StrategyError):
            torch.tensor(LOSSES) * weight
    stream, weight = one_batch()
    stream.store.close()
    for _ in range(2):
        with pytest.raises(StoreError):
            torch.tensor(LOSSES) * weight


def test_one_losses_tensor_in_two_streams_is_counted_by_both() -> None:
    losses = torch.tensor(LOSSES)
    for same_ids in (True, False):
        (one, w1), (two, w2) = one_batch(LinUpper(r=1.0)), one_batch(Uniform(), size=4 if same_ids else 8)
        w2 = w2 if same_ids else two.weight([4, 5, 6, 7])
        first = w1.resolve(losses)
        assert w2.resolve(losses).tolist() == [1.0] * 4
        assert w1.tensor().tolist() == first.tolist()
        assert one.stats()["visits"] == two.stats()["visits"] == 4


def test_a_reused_buffer_is_new_losses() -> None:
    stream = WeightedStream(list(range(8)), LinUpper(r=1.0))
    buffer = torch.empty(4)
    for epoch in range(2):
        for number, (_, weight) in enumerate(stream.loader(batch_size=4)):
            buffer.copy_(torch.tensor(LOSSES) + 10 * epoch + number)
            buffer * weight
    assert stream.store.get(list(range(8)))["visits"].tolist() == [2] * 8
    assert stream.store.get([0, 4])["last_loss"].tolist() == [11.0, 12.0]


def test_losses_can_be_saved_and_the_batch_is_not_kept_alive(tmp_path) -> None:
    _, weight = one_batch()
    losses = torch.tensor(LOSSES)
    losses * weight
    torch.save(losses, tmp_path / "losses.pt")
    assert torch.load(tmp_path / "losses.pt").tolist() == LOSSES


def test_what_is_handed_out_is_the_callers() -> None:
    _, weight = one_batch()
    losses = torch.tensor(LOSSES)
    weight.resolve(losses).zero_()
    weight.ids.fill_(77)
    close(weight.tensor(), EXPECTED)
    assert weight.ids.tolist() == [0, 1, 2, 3]


def test_clip_holds_when_losses_are_not_finite() -> None:
    _, weight = one_batch(Clip(LinUpper(r=0.4), high=1.2))
    assert weight.resolve(torch.tensor([1.0, math.nan, math.nan, 5.0])).max() <= 1.2
    _stream, weight = one_batch()
    weight.resolve(torch.tensor(LOSSES))
    assert weight[:2].resolve(torch.tensor([math.nan, 2.0]))[0] == 0


def test_copies_of_a_weight_are_the_same_batch() -> None:
    stream, weight = one_batch()
    for one in (weight, copy.copy(weight), copy.deepcopy([weight])[0]):
        torch.tensor(LOSSES) * one
    assert stream.store.get([0])["visits"].tolist() == [1]
    assert copy.deepcopy(stream) is stream


def test_threads_may_share_a_batch() -> None:
    for _ in range(30):
        stream, weight = one_batch(LinUpper(window="running"), size=64)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda part: part.resolve(torch.rand(8)), weight.split(8)))
        assert not weight.tensor().isnan().any()
        assert stream.store.get(list(range(64)))["visits"].tolist() == [1] * 64


def test_repeated_positions_are_a_part() -> None:
    _stream, weight = one_batch()
    with pytest.raises(WindowError):
        weight[[0, 0, 1, 1]].resolve(torch.rand(4))
    close(weight[[3, 2, 1, 0]].resolve(torch.tensor(LOSSES[::-1])), EXPECTED.flip(0))
    close(weight.tensor(), EXPECTED)


def test_a_part_between_forward_and_backward() -> None:
    _, weight = one_batch(LinUpper(window="running"))
    losses = torch.tensor(LOSSES, requires_grad=True)
    loss = (losses * weight).mean()
    losses[:2] * weight[:2]
    loss.backward()
    assert losses.grad.tolist() == [0.25] * 4


def test_inference_mode_then_training() -> None:
    _stream, weight = one_batch(LinUpper(window="running"), size=64)
    with torch.inference_mode():
        torch.rand(32) * weight[:32]
    losses = torch.rand(32, requires_grad=True)
    (losses * weight[32:]).sum().backward()
    assert losses.grad.shape == (32,)


@pytest.mark.filterwarnings("ignore:A weight of:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype(dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        for strategy in (LinUpper(window="running"), Uniform(), Frozen(), LinUpper(r=0.4)):
            _, weight = one_batch(strategy, size=8)
            parts = [weight] if strategy.joint else weight.split(4)
            for part in parts:
                assert part.resolve(torch.rand(len(part), dtype=torch.float32)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_indices_that_are_none() -> None:
    _, weight = one_batch()
    for wrong in (None, [[0, 1]], True):
        with pytest.raises(IndexError, match="one dimension"):
            weight[wrong]
    assert [len(part) for part in weight.split([1, 3])] == [1, 3]
    with pytest.raises(RuntimeError):
        weight.split(-1)


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_torch_compile_compiles_around_the_product() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = torch.nn.Linear(4, 1)

    def step(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        losses = model(x).squeeze(1).square()
        return (losses * weight).mean()

    def resolved(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        losses = model(x).squeeze(1).square()
        return (losses * weight.resolve(losses)).mean()

    for function in (step, resolved):
        counter.clear()
        _, weight = one_batch()
        x = torch.rand(4, 4)
        torch.testing.assert_close(torch.compile(function, backend=counter)(x, weight), function(x, weight))
        assert counter.frame_count >= 1  # the model; not so if the losses have no name of their own


def test_ids_for_a_check_may_be_a_list_or_wrong() -> None:
    _, weight = one_batch()
    weight.resolve(torch.tensor(LOSSES), ids=[0, 1, 2, 3])
    with pytest.raises(SampleIdError):
        weight.resolve(torch.tensor(LOSSES), ids="abcd")


@pytest.mark.parametrize("make", [Similarity, lambda: Shuffled(Frozen()), lambda: Similarity() * Frozen()])
def test_a_part_asked_before_the_losses_is_a_part_of_the_whole(make: Callable[[], Strategy]) -> None:
    stream, weight = one_batch(make(), size=8)
    stream.store.update(range(8), similarity=np.linspace(0, 1, 8), weight=np.linspace(0.5, 1.5, 8))
    parts = [part.tensor() for part in weight.split(3)]
    assert torch.cat(parts).tolist() == weight.tensor().tolist()
    assert weight[[5]].tensor().tolist() == [weight.tensor()[5].item()]
    assert weight.resolve(torch.rand(8)).tolist() == torch.cat(parts).tolist()


def test_a_part_that_needs_losses_has_none_yet() -> None:
    _, weight = one_batch(LinUpper())
    with pytest.raises(LossError, match="no losses yet"):
        weight[:2].tensor()


def test_what_info_batch_says_before_the_losses_holds() -> None:
    stream = WeightedStream(list(range(64)), InfoBatch(epochs=10))
    for _, weight in stream.loader(batch_size=32):
        weight.resolve(torch.rand(32))
    batches = list(stream.loader(batch_size=32))
    said = [weight.tensor() for _, weight in batches]
    assert {0.0, 2.0} <= set(torch.cat(said).tolist())
    for (_, weight), before in zip(batches, said, strict=True):
        assert weight.resolve(torch.rand(32)).tolist() == before.tolist()


def test_losses_weighed_in_another_order_and_then_by_their_ids() -> None:
    stream = WeightedStream(list(range(8)), Frozen())
    stream.store.update(range(8), weight=np.linspace(0.5, 1.5, 8))
    ((_, weight),) = stream.loader(batch_size=8)
    part = weight[[3, 1, 7, 0, 2, 6, 5, 4]]
    losses = torch.rand(8)
    first = part.resolve(losses)
    again = stream.weight(part.ids).resolve(losses)
    assert first.tolist() == again.tolist() == stream.store.get(part.ids)["weight"].tolist()
    assert weight.tensor().tolist() == stream.store.get(range(8))["weight"].tolist()
    assert stream.store.get(range(8))["visits"].tolist() == [1] * 8


@pytest.mark.parametrize("wrap", [lambda s: s, Clip, Shuffled])
def test_a_warm_up_is_no_constancy(wrap: Callable[[Strategy], Strategy]) -> None:
    stream = WeightedStream(list(range(4)), wrap(LinUpper(warmup_steps=210)))
    for step in range(260):
        for _, weight in stream.loader(batch_size=4):
            (torch.tensor(LOSSES) if step >= 210 else torch.tensor([1.0, 1.001, 1.0, 1.0])) * weight


@pytest.mark.parametrize("make", [Frozen, lambda: Clip(Frozen()), lambda: Shuffled(Frozen())])
def test_frozen_weights_that_were_never_made_are_reported(make: Callable[[], Strategy]) -> None:
    with pytest.warns(RuntimeWarning, match="have not varied in 200 batches"):
        train(WeightedStream(list(range(4)), make()))
    stream = WeightedStream(list(range(4)), make())
    stream.store.update(range(4), weight=[0.5, 1.0, 1.5, 1.0])
    train(stream)  # warnings are errors: silent

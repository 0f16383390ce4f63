"""Both per-sample losses against torch's cross-entropy, sample by sample, in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from weighted_stream import LinUpper, WeightedStream
from weighted_stream.errors import LossError
from weighted_stream.losses import chunked_cross_entropy, per_sample_cross_entropy


class Case:
    """Hidden states, output layer, labels and per-sample weights drawn from a seed."""

    def __init__(
        self,
        batch: int,
        tokens: int,
        vocab: int,
        seed: int,
        *,
        ignored: float = 0.3,
        dtype: torch.dtype = torch.float64,
        ignore_index: int = -100,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        width = 5
        self.hidden = torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64).to(dtype)
        self.weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64).to(dtype)
        self.bias = torch.randn(vocab, generator=generator, dtype=torch.float64).to(dtype)
        self.labels = torch.randint(0, vocab, (batch, tokens), generator=generator)
        self.ignore_index = ignore_index
        mask = torch.rand(batch, tokens, generator=generator) < ignored
        self.labels[mask] = ignore_index
        self.upstream = torch.rand(batch, generator=generator, dtype=torch.float64)

    def logits(self) -> Tensor:
        return self.hidden @ self.weight.T + self.bias


def reference(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """torch's own mean over the labelled tokens, one sample at a time; 0 where it would divide by zero."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        if (label == ignore_index).all():
            losses.append(row.sum() * 0)
        else:
            losses.append(F.cross_entropy(row, label, ignore_index=ignore_index))
    return torch.stack(losses)


def gradients(loss: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    losses = loss(*leaves)
    grads = torch.autograd.grad((losses * upstream.to(losses.dtype)).sum(), leaves, allow_unused=True)
    return losses.detach(), [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]


shapes = st.builds(
    Case,
    batch=st.integers(1, 5),
    tokens=st.integers(1, 7),
    vocab=st.integers(2, 11),
    seed=st.integers(0, 2**31),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    ignore_index=st.sampled_from([-100, -1, 0]),
)


@settings(max_examples=60, deadline=None)
@given(case=shapes)
def test_logits_form_equals_torch(case: Case) -> None:
    expected = gradients(lambda x: reference(x, case.labels, case.ignore_index), [case.logits()], case.upstream)
    found = gradients(
        lambda x: per_sample_cross_entropy(x, case.labels, case.ignore_index), [case.logits()], case.upstream
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(case=shapes, chunk_size=st.sampled_from([1, 2, 3, 1024]), with_bias=st.booleans())
def test_chunked_form_equals_torch(case: Case, chunk_size: int, with_bias: bool) -> None:
    inputs = [case.hidden, case.weight] + ([case.bias] if with_bias else [])

    def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return reference(F.linear(hidden, weight, bias), case.labels, case.ignore_index)

    def chunked(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return chunked_cross_entropy(
            hidden, weight, case.labels, bias=bias, ignore_index=case.ignore_index, chunk_size=chunk_size
        )

    expected = gradients(whole, inputs, case.upstream)
    torch.testing.assert_close(gradients(chunked, inputs, case.upstream), expected, rtol=1e-10, atol=1e-12)


def test_numerical_gradients() -> None:
    case = Case(3, 4, 6, seed=0)
    inputs = [x.requires_grad_() for x in (case.hidden, case.weight, case.bias)]

    def chunked(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return chunked_cross_entropy(hidden, weight, case.labels, bias=bias, chunk_size=5)

    assert torch.autograd.gradcheck(chunked, inputs)
    logits = case.logits().detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: per_sample_cross_entropy(x, case.labels), [logits])
    assert torch.autograd.gradgradcheck(lambda x: per_sample_cross_entropy(x, case.labels), [logits])


def test_one_label_per_sample() -> None:
    case = Case(6, 1, 9, seed=1)
    hidden, labels = case.hidden[:, 0], case.labels[:, 0]
    expected = F.cross_entropy(hidden @ case.weight.T, labels, reduction="none")
    torch.testing.assert_close(per_sample_cross_entropy(hidden @ case.weight.T, labels), expected)
    torch.testing.assert_close(chunked_cross_entropy(hidden, case.weight, labels), expected)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_sample_without_labels_can_be_left_out_of_the_weights(chunked: bool) -> None:
    torch.manual_seed(0)
    hidden, output, labels = torch.randn(4, 3, 8, requires_grad=True), torch.randn(5, 8), torch.randint(0, 5, (4, 3))
    labels[1] = -100

    def losses(rows: list[int], unlabelled: float) -> Tensor:
        if chunked:
            return chunked_cross_entropy(hidden[rows], output, labels[rows], unlabelled=unlabelled)
        return per_sample_cross_entropy(hidden[rows] @ output.T, labels[rows], unlabelled=unlabelled)

    found = losses([0, 1, 2, 3], math.nan)
    assert found.isnan().tolist() == [False, True, False, False]
    assert torch.equal(found.nan_to_num(), losses([0, 1, 2, 3], 0.0))
    ((_, whole),) = WeightedStream(list(range(4)), LinUpper()).loader(batch_size=4)
    ((_, labelled),) = WeightedStream(list(range(3)), LinUpper()).loader(batch_size=4)
    weights = whole.resolve(found)
    assert weights[1] == 0
    assert torch.equal(weights[[0, 2, 3]], labelled.resolve(losses([0, 2, 3], 0.0)))
    (found * whole).mean().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[1].any()


def test_mean_over_labelled_tokens_of_one_sample() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 0, 1] = 5.0
    losses = per_sample_cross_entropy(logits, torch.tensor([[1, -100, 2], [-100, -100, -100]]))
    first = math.log(math.exp(5) + 3) - 5
    assert losses.tolist() == pytest.approx([(first + math.log(4)) / 2, 0.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    case = Case(4, 6, 50, seed=2, dtype=dtype)
    logits = case.logits()
    losses, (grad,) = gradients(lambda x: per_sample_cross_entropy(x, case.labels), [logits], case.upstream)
    expected, (expected_grad,) = gradients(lambda x: reference(x, case.labels), [logits.float()], case.upstream)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, expected_grad.to(dtype))

    inputs = [case.hidden, case.weight]
    chunked, grads = gradients(
        lambda h, w: chunked_cross_entropy(h, w, case.labels, chunk_size=5), inputs, case.upstream
    )
    whole, whole_grads = gradients(lambda h, w: reference((h @ w.T).float(), case.labels), inputs, case.upstream)
    assert chunked.dtype == torch.float32
    assert [g.dtype for g in grads] == [dtype, dtype]
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads, whole_grads, rtol=0.03, atol=0.01)


def test_autocast_gives_float32_losses_and_gradients_in_the_own_dtype() -> None:
    case = Case(4, 6, 50, seed=3, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (case.hidden, case.weight, case.bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = chunked_cross_entropy(leaves[0], leaves[1], case.labels, bias=leaves[2], chunk_size=4)
        whole = per_sample_cross_entropy(F.linear(*leaves), case.labels)
    assert losses.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)
    upstream = case.upstream.float()
    found = torch.autograd.grad((losses * upstream).sum(), leaves)
    expected = torch.autograd.grad((whole * upstream).sum(), leaves)
    assert all(g.dtype == torch.float32 for g in found)
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_some_inputs_need_gradients(needs: tuple[bool, bool, bool]) -> None:
    case = Case(3, 4, 7, seed=4)
    inputs = [x.requires_grad_(n) for x, n in zip((case.hidden, case.weight, case.bias), needs, strict=True)]
    losses = chunked_cross_entropy(inputs[0], inputs[1], case.labels, bias=inputs[2], chunk_size=3)
    losses.mean().backward()
    assert [x.grad is not None for x in inputs] == list(needs)
    with torch.no_grad():
        assert not chunked_cross_entropy(inputs[0], inputs[1], case.labels).requires_grad


def test_labels_of_other_integer_dtypes() -> None:
    case = Case(3, 4, 7, seed=5)
    expected = per_sample_cross_entropy(case.logits(), case.labels)
    torch.testing.assert_close(per_sample_cross_entropy(case.logits(), case.labels.int()), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_sample_stays_alone(bad: float) -> None:
    case = Case(4, 5, 7, seed=6, ignored=0.0)
    good = [0, 2, 3]
    upstream = case.upstream.clone()
    upstream[1] = 0.0  # the weight of a sample whose loss is not finite
    expected = gradients(
        lambda h, w: per_sample_cross_entropy(h @ w.T, case.labels[good]),
        [case.hidden[good], case.weight],
        case.upstream[good],
    )

    logits = case.hidden @ case.weight.T
    logits[1, 2, 3] = bad
    losses, (grad,) = gradients(lambda x: per_sample_cross_entropy(x, case.labels), [logits], upstream)
    assert losses.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(losses[good], expected[0])
    assert grad.isfinite().all()
    assert (grad[1] == 0).all()

    case.hidden[1, 2] = bad
    losses, (grad_hidden, grad_weight) = gradients(
        lambda h, w: chunked_cross_entropy(h, w, case.labels, chunk_size=4),
        [case.hidden, case.weight],
        upstream,
    )
    assert losses.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(losses[good], expected[0])
    torch.testing.assert_close(grad_hidden[good], expected[1][0])
    torch.testing.assert_close(grad_weight, expected[1][1])
    assert (grad_hidden[1] == 0).all()


def test_nan_at_an_ignored_token_does_not_count() -> None:
    case = Case(2, 3, 5, seed=7, ignored=0.0)
    case.labels[0, 1] = -100
    logits = case.logits()
    expected = gradients(lambda x: per_sample_cross_entropy(x, case.labels), [logits], case.upstream)
    logits[0, 1] = math.nan
    found = gradients(lambda x: per_sample_cross_entropy(x, case.labels), [logits], case.upstream)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("masked", "ignored"), [(4, 0.0), (0, 0.0), (0, 0.5)])
def test_masked_vocabulary_is_allowed(masked: int, ignored: float) -> None:
    case = Case(2, 3, 5, seed=8, ignored=ignored)
    case.labels[case.labels == masked] = 2
    case.bias[masked] = -math.inf
    expected = gradients(lambda x: reference(x, case.labels), [case.logits()], case.upstream)
    found = gradients(lambda x: per_sample_cross_entropy(x, case.labels), [case.logits()], case.upstream)
    torch.testing.assert_close(found, expected)
    losses = chunked_cross_entropy(case.hidden, case.weight, case.labels, bias=case.bias)
    torch.testing.assert_close(losses, expected[0])


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_the_whole_logits_never_exist() -> None:
    batch, tokens, vocab, chunk = 4, 64, 500, 16
    case = Case(batch, tokens, vocab, seed=9, ignored=0.1, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (case.hidden, case.weight)]
    with LargestTensor() as seen:
        losses = chunked_cross_entropy(*leaves, case.labels, chunk_size=chunk)
        (losses * case.upstream.float()).mean().backward()
    assert chunk * vocab <= seen.largest < 2 * chunk * vocab
    with LargestTensor() as seen:
        per_sample_cross_entropy(F.linear(*leaves), case.labels).mean().backward()
    assert seen.largest == batch * tokens * vocab  # the check above can fail


def test_samples_of_weight_zero_and_ignored_tokens_cost_nothing() -> None:
    case = Case(8, 16, 500, seed=10, ignored=0.0, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (case.hidden, case.weight)]
    losses = chunked_cross_entropy(*leaves, case.labels)
    upstream = torch.tensor([1.0] + [0.0] * 7)
    with LargestTensor() as seen:
        (losses * upstream).sum().backward()
    assert seen.largest == 16 * 500


def test_compiled() -> None:
    case = Case(3, 4, 7, seed=11)
    compiled = torch.compile(per_sample_cross_entropy, backend="aot_eager", fullgraph=True)
    expected = gradients(lambda x: reference(x, case.labels), [case.logits()], case.upstream)
    found = gradients(lambda x: compiled(x, case.labels), [case.logits()], case.upstream)
    torch.testing.assert_close(found, expected)


def test_empty_batches() -> None:
    labels = torch.zeros(0, 4, dtype=torch.int64)
    assert per_sample_cross_entropy(torch.zeros(0, 4, 5), labels).shape == (0,)
    assert chunked_cross_entropy(torch.zeros(0, 4, 3), torch.zeros(5, 3), labels).shape == (0,)
    none = per_sample_cross_entropy(torch.zeros(2, 0, 5), torch.zeros(2, 0, dtype=torch.int64))
    assert none.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64), "(2, 2)"),
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), "(2, 3)"),
        (torch.zeros(4), torch.zeros((), dtype=torch.int64), "(4,)"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 4), torch.zeros(2), "torch.float32"),
        (torch.zeros(2, 4), torch.tensor([True, False]), "torch.bool"),
        (torch.zeros(2, 4), torch.tensor([1, 4]), "label 4"),
        (torch.zeros(2, 4), torch.tensor([1, -1]), "label -1"),
        (torch.zeros(2, 0), torch.tensor([0, 0]), "label 0"),
    ],
)
def test_bad_input(logits: Tensor, labels: Tensor, says: str) -> None:
    with pytest.raises(LossError) as error:
        per_sample_cross_entropy(logits, labels)
    assert says in str(error.value)
    assert "to do:" in str(error.value)


def test_bad_input_of_the_chunked_form() -> None:
    hidden, weight, labels = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(LossError, match=r"output_weight \(5, 3\)"):
        chunked_cross_entropy(hidden, weight[:, :3], labels)
    with pytest.raises(LossError, match=r"bias \(4,\)"):
        chunked_cross_entropy(hidden, weight, labels, bias=torch.zeros(4))
    with pytest.raises(LossError, match=r"torch.float32, torch.float64"):
        chunked_cross_entropy(hidden, weight.double(), labels)
    with pytest.raises(LossError, match="chunk_size=0"):
        chunked_cross_entropy(hidden, weight, labels, chunk_size=0)
    with pytest.raises(LossError, match="label 5"):
        chunked_cross_entropy(hidden, weight, labels + 5)
    with pytest.raises(LossError, match=r"\(2, 2\)"):
        chunked_cross_entropy(hidden, weight, labels[:, :2])

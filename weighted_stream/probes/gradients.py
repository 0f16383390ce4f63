"""What a model shows of its samples without being changed: inner products of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError
from weighted_stream.probes import gradient_products as products
from weighted_stream.probes.factors import Factors, Losses, send_factors
from weighted_stream.probes.gradient_layers import Layers, choose_layers
from weighted_stream.probes.projection import KroneckerProjection
from weighted_stream.probes.running import unwrapped

Directions: TypeAlias = Mapping[str, Tensor] | Callable[[str], Tensor]
"""One tensor for each parameter, in its shape: a dict by name, or a function of the name."""


@dataclass(frozen=True)
class Products:
    """Inner products of the per-sample gradients of one batch, summed over the parameters that are looked at.

    Attributes:
        losses: (B,), detached.
        gram: ``<g_i, g_j>``, (B, B), symmetric, float32 (float64 of float64 gradients); None if not asked for.
        along: ``<g_i, D>``, (B,); None if not asked for.
    """

    losses: Tensor
    gram: Tensor | None
    along: Tensor | None


class GradientProbe:
    """Inner products of per-sample gradients, exact, from one forward and backward; the gradients are never stored.

    Hooks on the chosen layers see what the gradients are products of: the layer's input ``a`` and its output's gradient
    ``b``, ``g_i = sum_t b_it a_it^T`` (arXiv 2604.00001, structure). While the backward runs, the products of each
    layer are added to one matrix (B, B), in the cheaper order by shape, and its factors are freed. Biases count;
    a weight that several layers share, or a layer that is called several times, has the sum of all gradients. Positions
    without gradient (padding) add nothing.

    The gradients are those of evaluation mode: without dropout, BatchNorm by its running statistics, so that samples
    do not touch one another; a model whose samples do (contrastive losses, in-batch negatives) has no per-sample
    gradients. The first dimension must be the batch's everywhere. Not looked at are frozen parameters, those of norms
    and convolutions, and embeddings that are neither named nor share a chosen weight.

    Nothing of the model changes: ``.grad`` is not touched, no gradient of a parameter is computed, training flags and
    random states are restored.

    Memory, beyond a forward in evaluation mode that keeps its graph: the (B, B) matrix, and one layer's worth: its
    output's gradient, a float32 copy of its input where that is in 16 bits, and ``workspace`` bytes (more if a single
    row of one parameter's gradients of all samples, ``4 B C`` bytes, needs it). Factors of shared weights wait for
    each other: with tied embeddings, the gradient of the logits is kept until the backward ends. `gradient` makes a
    float32 (float64) copy of the parameters looked at.

    Args:
        model: bare, or inside `torch.compile` or DistributedDataParallel; losses must be computed by what is inside
            (the probe's ``model``).
        layers: ``"all"`` linear layers (and transformers' Conv1D), ``"lora"`` adapters, the ``"head"`` alone (of a
            tied head only what it does as a head), or modules or their names; see `choose_layers`.
        workspace: bytes for intermediate results.
        projection: (rows, columns), to look at randomly projected gradients, see `KroneckerProjection`; then products
            take ``4 rows columns`` bytes a sample, whatever the context's length.
        order: ``"positions"`` or ``"parameters"``, how pairs are multiplied; None: the cheaper, layer by layer.

    Raises:
        StrategyError: if there are no such layers, or one cannot be treated.

    Example:
        >>> from weighted_stream import per_sample_cross_entropy
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        >>> tokens = torch.arange(12).reshape(3, 4) % 9
        >>> probe = GradientProbe(model)
        >>> seen = probe.products(lambda: per_sample_cross_entropy(model(tokens)[:, :-1], tokens[:, 1:]))
        >>> seen.gram.shape
        torch.Size([3, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "all",
        *,
        workspace: int = products.WORKSPACE,
        projection: tuple[int, int] | None = None,
        order: products.Order | None = None,
    ) -> None:
        self.model = unwrapped(model)
        self.layers = choose_layers(self.model, layers)
        self.workspace = workspace
        self.projection = None if projection is None else KroneckerProjection(*projection)
        self.order = order
        self._whole = layers != "head"
        self._transposed = {layer.weight for layer in self.layers if layer.kind == "transposed"}
        names = {name for layer in self.layers for name in (layer.weight, layer.bias) if name is not None}
        self.parameters = {name: p for name, p in self.model.named_parameters() if name in names}
        """Those that are looked at, by name."""

    def products(
        self,
        losses: Losses,
        direction: Directions | None = None,
        *,
        pairs: bool = True,
        scale: Directions | None = None,
    ) -> Products:
        """One forward and backward, and the products of these samples' gradients.

        Args:
            losses: runs the model and returns one loss per sample, (B,).
            direction: D, for ``<g_i, D>``; e.g. what `gradient` returns.
            pairs: whether to make ``<g_i, g_j>``.
            scale: s, by element: makes pairs ``<s g_i, s g_j>``. These need the gradients themselves (some at a time),
                and so cannot be had with a projection. The direction is not scaled.

        Raises:
            LossError: if ``losses`` does not return one loss per sample.
            StrategyError: if samples or a parameter's uses cannot be told apart, or for a scale with a projection.
        """
        if scale is not None and self.projection is not None:
            raise StrategyError(
                "A projection mixes the elements of a gradient, so they cannot be scaled one by one.",
                found="scale (precondition='both') with a projection",
                expected="one of them",
                do="precondition the target only, or look at the gradients themselves",
            )
        waiting: dict[str, list[Factors]] = {}
        grams: list[Tensor] = []
        alongs: list[Tensor] = []

        def receive(name: str, part: Factors, calls: int) -> None:
            if self.projection is not None:
                part = self.projection.factors(name, part, self._rows(name))
            waiting.setdefault(name, []).append(part)
            if len(waiting[name]) == calls:
                add(name)

        def add(name: str) -> None:
            gram, along = self._multiply(name, waiting.pop(name), direction, pairs, scale)
            for sums, new in (grams, gram), (alongs, along):
                if new is not None:
                    sums[:] = [sums[0].add_(new)] if sums else [new]

        values = send_factors(self.model, self.layers, losses, receive, self._whole)
        for name in list(waiting):  # some of their calls have no part in the losses
            add(name)
        count = len(values)
        zeros = values.new_zeros(count, count, dtype=torch.promote_types(values.dtype, torch.float32))
        return Products(
            values,
            (grams[0] if grams else zeros) if pairs else None,
            (alongs[0] if alongs else zeros[0].clone()) if direction is not None else None,
        )

    def gradient(self, losses: Losses, into: dict[str, Tensor] | None = None) -> tuple[dict[str, Tensor], int]:
        """The sum of these samples' gradients, of the same uses of the parameters that `products` sees.

        Args:
            losses: runs the model and returns one loss per sample, (B,).
            into: where to add; None: zeros.

        Returns:
            Gradients by name, each in the shape of its parameter, float32 at least, and the number of samples.
        """
        if into is None:
            into = {
                name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
                for name, p in self.parameters.items()
            }
        sums = into

        def receive(name: str, part: Factors, calls: int) -> None:
            products.summed(part, self._as_matrix(name, sums[name]))

        return sums, len(send_factors(self.model, self.layers, losses, receive, self._whole))

    def sketches(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """The projected gradients of these samples, one row each; samples of several forwards can be multiplied.

        Inner products of rows, and of rows with a `sketch`, are what `products` gives.

        Args:
            losses: runs the model and returns one loss per sample, (B,).

        Returns:
            The losses (B,), detached, and (B, W) float32 at least: ``rows columns`` numbers for each weight (less, if
            it is smaller), and one for each element of a bias.

        Raises:
            StrategyError: without a projection.
        """
        projection = self._projection()
        rows: dict[str, Tensor] = {}

        def receive(name: str, part: Factors, calls: int) -> None:
            part = projection.factors(name, part, self._rows(name))
            made = (part.rows.mT @ part.cols.to(part.rows.dtype)).flatten(1)
            rows[name] = rows[name] + made if name in rows else made

        values = send_factors(self.model, self.layers, losses, receive, self._whole)
        for name, p in self.parameters.items():
            if name not in rows:  # a layer that was not called
                size = projection.matrix(name, self._as_matrix(name, p.detach())).numel()
                rows[name] = values.new_zeros(len(values), size, dtype=torch.promote_types(p.dtype, torch.float32))
        return values, torch.cat([rows[name] for name in self.parameters], dim=1)

    def sketch(self, direction: Directions) -> Tensor:
        """A direction, projected as `sketches` are: (W,).

        Raises:
            StrategyError: without a projection.
        """
        projection = self._projection()
        parts = []
        for name in self.parameters:
            matrix = self._matrix_of(direction, name)
            assert matrix is not None
            parts.append(projection.matrix(name, matrix).flatten())
        return torch.cat(parts)

    def _projection(self) -> KroneckerProjection:
        if self.projection is None:
            raise StrategyError(
                "Gradients are not kept, only projections of them.",
                found="a probe without a projection",
                expected="GradientProbe(..., projection=(rows, columns))",
                do="pass a projection, or ask for products",
            )
        return self.projection

    def _multiply(
        self,
        name: str,
        parts: list[Factors],
        direction: Directions | None,
        pairs: bool,
        scale: Directions | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The share of one parameter in gram and along."""
        along_what, by = self._matrix_of(direction, name), self._matrix_of(scale, name)
        rows = self._rows(name)
        if self.projection is not None:
            rows = parts[0].rows.shape[2]
            along_what = None if along_what is None else self.projection.matrix(name, along_what)
        elif all(part.one_hot for part in parts):
            parts, which = products.compact(parts)
            rows = len(which)
            along_what = None if along_what is None else along_what[which]
            by = None if by is None else by[which]
        gram, along = None, None
        if pairs:
            order = "parameters" if by is not None else self.order or products.cheaper_order(parts, rows)
            if order == "parameters":
                return products.gram_by_parameters(parts, rows, along_what, by, self.workspace)
            gram = products.gram_by_positions(parts, self.workspace)
        if along_what is not None:
            along = products.products_along(parts, rows, along_what, self.workspace)
        return gram, along

    def _rows(self, name: str) -> int:
        return self._as_matrix(name, self.parameters[name]).shape[0]

    def _matrix_of(self, tensors: Directions | None, name: str) -> Tensor | None:
        """The tensor of a parameter as (R, C)."""
        if tensors is None:
            return None
        tensor: Any = tensors[name] if isinstance(tensors, Mapping) else tensors(name)
        return self._as_matrix(name, tensor)

    def _as_matrix(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim == 1:
            return tensor.unsqueeze(1)
        return tensor.T if name in self._transposed else tensor

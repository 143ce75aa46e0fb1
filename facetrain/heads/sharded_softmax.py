"""The softmax denominator over all classes, from class centres that are sharded over ranks.

The margin touches only the target's logit, so the loss of one sample is
    -log p_y = log(1 + exp(R - z_y)),    R = log sum_{k != y} exp(scale * cosine_k),
and R knows nothing of margins. This file computes the two things that need all the class
centres, R and the target's cosine, together with their exact gradients; whatever a margin, a
weight or a second target does to them is ordinary autograd on (B,) tensors.

With class centres W_k and unit embeddings x_i: cosine_ik = x_i . W_k / |W_k|. Given dL/dcosine,
    dL/dW_k = (sum_i dL/dcosine_ik x_i - b_k W_k / |W_k|) / |W_k|,
    b_k = sum_i dL/dcosine_ik cosine_ik,
so a second (C, D) matrix (of unit centres, or of their gradient) is never needed.

With K sub-centres a class (Deng et al., Sub-center ArcFace, ECCV 2020) cosine_ik is the largest of
K, and only that sub-centre has a gradient. A filter (arcface_torch's inter-class filter) sets the
cosine of a negative above it to 0: most likely it is the image's true class.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facetrain.dist.collectives import all_gather_no_grad, all_reduce_max, all_reduce_sum
from facetrain.dist.mesh import Mesh

NO_CLASS = -1e30
"""Stands for log(0): finite, so that it has gradients, and below every logit."""

LEAST_NORM = 1e-12

_CHUNK_SIZE = 32768
"""Classes at a time where the cosines are kept: few kernels, and small temporaries."""


def sharded_cosines(
    unit_embedding: Tensor,
    class_centre: Tensor,
    local_target: Tensor,
    *,
    scale: float,
    mesh: Mesh,
    filter_above: float | None = None,
    sampled: Tensor | None = None,
    chunk_size: int | None = None,
    gemm_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Each sample's target cosines, and log-sum-exp of its logits over all other classes.

    A collective call. Differentiable once, in `unit_embedding` and `class_centre`. A rank's
    gradient of `class_centre` is that of the sum of all ranks' losses; so is its part of the
    gradient of `unit_embedding`, which `all_gather_rows` sums over ranks in its backward.

    Time is 3 G*C*K*D multiply-adds, 4 with `chunk_size`. Memory beyond the centres and their
    gradient is G*C numbers, or 3 G*K*chunk_size with `chunk_size`.

    Args:
        unit_embedding: (G, D) of all ranks, from `all_gather_rows`.
        class_centre: (C, D) or (C, K, D), the rank's own shard, not normalised; K at most 255.
        local_target: (G, T) int64 row of each target in this shard (in `sampled` when given);
            -1 where another rank holds it or there is none.
        scale: logits per unit of cosine.
        mesh: the ranks that hold the other shards.
        filter_above: a class that is no target and whose cosine is above it counts with cosine 0
            and has no gradient; None for no filter.
        sampled: (S,) ascending rows of `class_centre` that take part; None for all. The gradient
            of `class_centre` is then a sparse tensor of these rows.
        chunk_size: classes at a time, recomputed in backward; None keeps all cosines for it.
        gemm_dtype: precision of the matrix products' inputs; all else keeps `class_centre`'s.

    Returns:
        target_cosine (B, T), 0 for -1, and rest_logsumexp (B,) over the classes that are no
        target of the sample (`NO_CLASS` where none is left), of this rank's own samples.
    """
    target_cosine, rest = _ShardedCosines.apply(
        unit_embedding,
        class_centre,
        local_target,
        sampled,
        scale,
        filter_above,
        chunk_size,
        gemm_dtype or class_centre.dtype,
        mesh,
    )
    return target_cosine, rest


class _ShardedCosines(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor,
        local_target: Tensor,
        sampled: Tensor | None,
        scale: float,
        filter_above: float | None,
        chunk_size: int | None,
        gemm_dtype: torch.dtype,
        mesh: Mesh,
    ) -> tuple[Tensor, Tensor]:
        num_classes = centre.shape[0] if sampled is None else sampled.shape[0]
        num_samples = x.shape[0]
        centres = 1 if centre.ndim == 2 else centre.shape[1]  # K
        inverse_norm = centre.new_empty(num_classes * centres)
        target_cosine = x.new_zeros(local_target.shape)  # (G, T)
        peak = x.new_full((num_samples,), NO_CLASS)  # running maximum of the logits
        total = x.new_zeros(num_samples)  # running sum of exp(logit - peak)
        kept_cosine = x.new_empty((num_samples, num_classes)) if chunk_size is None else None
        kept_which: Tensor | None = None
        if kept_cosine is not None and centres > 1:
            kept_which = torch.empty_like(kept_cosine, dtype=torch.uint8)
        with torch.autocast(x.device.type, enabled=False):
            x_gemm = x.to(gemm_dtype)
            for start, stop in chunks(num_classes, chunk_size):
                # Cosines of a run of classes; of each class its nearest sub-centre's.
                w = _rows(centre, sampled, start, stop)  # (c K, D)
                inverse = inverse_norm[start * centres : stop * centres]
                norm = torch.linalg.vector_norm(w, dim=1).clamp_min_(LEAST_NORM)
                torch.reciprocal(norm, out=inverse)
                cosine = matmul(x_gemm, w.t(), x.dtype).mul_(inverse)  # (G, c K)
                cosine, which = nearest_centre(cosine, centres)  # (G, c)
                # The target's is taken out: its logit is the margin's affair.
                column, inside = _columns(local_target, start, stop)
                target_cosine.add_(cosine.gather(1, column).mul_(inside))
                if kept_cosine is not None:
                    kept_cosine[:, start:stop] = cosine
                if kept_which is not None and which is not None:
                    kept_which[:, start:stop] = which
                if filter_above is not None:
                    cosine.masked_fill_(cosine > filter_above, 0.0)
                logits = cosine.mul_(scale)
                _exclude(logits, column, inside)
                # A running log-sum-exp: what was summed moves to the new maximum.
                new_peak = torch.maximum(peak, logits.amax(1))
                total.mul_((peak - new_peak).exp_())
                total.add_(logits.sub_(new_peak[:, None]).exp_().sum(1))
                peak = new_peak
        # The same over ranks.
        top = all_reduce_max(peak.clone(), mesh)
        # One more collective for both sums: (G, 1 + T).
        shared = torch.cat([(total * (peak - top).exp())[:, None], target_cosine], dim=1)
        all_reduce_sum(shared, mesh)
        rest = (top + shared[:, 0].log()).clamp_min_(NO_CLASS)  # (G,)

        kept = kept_cosine, kept_which
        ctx.save_for_backward(x, centre, local_target, sampled, inverse_norm, rest, *kept)
        ctx.scale, ctx.filter_above, ctx.centres = scale, filter_above, centres
        ctx.chunk_size, ctx.gemm_dtype, ctx.mesh = chunk_size, gemm_dtype, mesh
        own = own_samples(num_samples, mesh)
        return shared[own, 1:].contiguous(), rest[own].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, centre, local_target, sampled, inverse_norm, rest, *kept = ctx.saved_tensors
        kept_cosine, kept_which = kept
        scale, chunk_size, gemm_dtype = ctx.scale, ctx.chunk_size, ctx.gemm_dtype
        centres, filter_above = ctx.centres, ctx.filter_above
        grad_target, grad_rest = grad_outputs
        grads = all_gather_no_grad(torch.cat([grad_target, grad_rest[:, None]], dim=1), ctx.mesh)
        grad_target, grad_rest = grads[:, :-1], grads[:, -1:]  # (G, T), (G, 1)
        wants_x, wants_centre = ctx.needs_input_grad[:2]
        num_classes = inverse_norm.shape[0] // centres
        grad_x = torch.zeros_like(x) if wants_x else None
        grad_centre = None
        if wants_centre:
            grad_centre = centre.new_empty((num_classes, *centre.shape[1:]))
        with torch.autocast(x.device.type, enabled=False):
            x_gemm = x.to(gemm_dtype)
            for start, stop in chunks(num_classes, chunk_size):
                w = _rows(centre, sampled, start, stop)  # (c K, D)
                inverse = inverse_norm[start * centres : stop * centres]
                column, inside = _columns(local_target, start, stop)
                if kept_cosine is None:
                    cosine = matmul(x_gemm, w.t(), x.dtype).mul_(inverse)  # (G, c K)
                    cosine, which = nearest_centre(cosine, centres)  # (G, c)
                else:
                    cosine = kept_cosine[:, start:stop]
                    which = None if kept_which is None else kept_which[:, start:stop]
                # dL/dcosine: softmax over the rest, and what the targets' cosines got.
                grad_cosine = torch.add(-rest[:, None], cosine, alpha=scale)
                if filter_above is not None:
                    grad_cosine.masked_fill_(cosine > filter_above, -torch.inf)
                _exclude(grad_cosine, column, inside)
                grad_cosine.exp_().mul_(grad_rest * scale)  # softmax over the rest
                grad_cosine.scatter_add_(1, column, grad_target * inside)
                # To the centres, b_k first, while the cosines are there; and to the embeddings.
                rows = None if grad_centre is None else grad_centre[start:stop].flatten(0, -2)
                if rows is not None:
                    along = _of_centres(grad_cosine * cosine, which, centres).sum(0)  # b_k
                grad_cosine = _of_centres(grad_cosine, which, centres)  # (G, c K)
                if gemm_dtype == x.dtype:
                    grad_cosine.mul_(inverse)
                    if grad_x is not None:
                        grad_x.addmm_(grad_cosine, w)
                    if rows is not None:
                        torch.mm(grad_cosine.t(), x, out=rows)
                else:
                    # New centres are short: times 1/|W| a gradient may leave float16's range.
                    gradient = grad_cosine.to(gemm_dtype)
                    if grad_x is not None:
                        unit = w.new_empty(w.shape, dtype=gemm_dtype)
                        torch.mul(w, inverse[:, None], out=unit)
                        grad_x.add_(matmul(gradient, unit, x.dtype))
                    if rows is not None:
                        product = matmul(gradient.t(), x_gemm, x.dtype)
                        torch.mul(product, inverse[:, None], out=rows)
                if rows is not None:
                    rows.addcmul_(w, (along * inverse * inverse)[:, None], value=-1.0)
        if grad_centre is not None and sampled is not None:
            grad_centre = torch.sparse_coo_tensor(
                sampled[None], grad_centre, centre.shape, is_coalesced=True, check_invariants=False
            )
        return grad_x, grad_centre, *[None] * 7


def chunks(num_classes: int, chunk_size: int | None) -> list[tuple[int, int]]:
    """[start, stop) of each run of classes."""
    size = chunk_size or _CHUNK_SIZE
    return [(start, min(start + size, num_classes)) for start in range(0, num_classes, size)]


def nearest_centre(cosine: Tensor, centres: int) -> tuple[Tensor, Tensor | None]:
    """(G, c) cosine to each class's nearest sub-centre, and which that is (None with one each).

    Args:
        cosine: (G, c K), those of one class side by side.
        centres: K.
    """
    if centres == 1:
        return cosine, None
    nearest, which = cosine.view(len(cosine), -1, centres).max(2)
    return nearest, which


def _of_centres(value: Tensor, which: Tensor | None, centres: int) -> Tensor:
    """(G, c K): the values (G, c) of classes at their nearest sub-centres, 0 at the others."""
    if which is None:
        return value
    spread = value.new_zeros((*value.shape, centres))
    return spread.scatter_(2, which.long()[:, :, None], value[:, :, None]).flatten(1)


def _rows(centre: Tensor, sampled: Tensor | None, start: int, stop: int) -> Tensor:
    """(c K, D) centres of a run of classes."""
    rows = centre[start:stop] if sampled is None else centre[sampled[start:stop]]
    return rows.flatten(0, -2)


def _columns(local_target: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """(G, T) column of each target in this chunk, and whether it lies in it; no host sync."""
    inside = (local_target >= start) & (local_target < stop)
    return (local_target - start).clamp(0, stop - start - 1), inside


def _exclude(logits: Tensor, column: Tensor, inside: Tensor) -> None:
    """Set the targets' logits to -inf in place. Adding leaves columns of absent targets alone."""
    zero = logits.new_zeros(())
    logits.scatter_add_(1, column, torch.where(inside, zero - torch.inf, zero))


def own_samples(num_samples: int, mesh: Mesh) -> slice:
    """This rank's part of the gathered samples of all ranks."""
    size = num_samples // mesh.world_size
    return slice(mesh.rank * size, (mesh.rank + 1) * size)


def matmul(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Product of a and b in a's dtype, accumulated in `out_dtype` where the device can."""
    b = b.to(a.dtype)
    if a.dtype == out_dtype:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=out_dtype)
    return (a @ b).to(out_dtype)

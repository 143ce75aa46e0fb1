"""Estimated targets by temporal ensembling, of which a sample keeps its K most probable classes.

A dense memory of 5 million samples and 84 thousand classes would be 0.84 TB; with K = 8 it is
240 MB, in files that are mapped into memory. It is exact as long as at most K classes of a sample
ever have weight, its own label among them.
"""

from pathlib import Path

import torch
from torch import Tensor

NO_TARGET = -1


def merge_targets(
    label: Tensor, target: Tensor, new_label: Tensor, new_probability: Tensor, *, memory: float
) -> tuple[Tensor, Tensor]:
    """The K largest of memory * target + (1 - memory) * probability, (B, K) labels and values.

    Temporal ensembling (NAL, section B.4 of its appendix: memory, there alpha, is 0.9), cut to K
    classes and scaled to sum to 1. Slot 0 keeps its label, the given one, however improbable. What
    falls out is forgotten; there is no floor on any class. The authors' code clamps every class
    to 1e-4 without scaling: 8.4 of mass over 84 thousand classes.

    Cost: B * M * (K + M) comparisons.

    Args:
        label: (B, K) int64, those of one row distinct; NO_TARGET (-1) in an empty slot.
        target: (B, K) q, 0 in an empty slot.
        new_label: (B, M) int64 of the most probable classes now, free of margin; NO_TARGET for
            none. A label that comes twice in a row, e.g. once as the given label, counts once.
            Give the row's slots too: a probability that is not given counts as 0.
        new_probability: (B, M) p of the new labels.
        memory: alpha, 0 to 1, of what was.
    """
    assert 0 <= memory <= 1, memory
    num_slots = label.shape[1]
    order = torch.ones(new_label.shape[1], new_label.shape[1], device=label.device).tril(-1).bool()
    repeated = ((new_label[:, :, None] == new_label[:, None, :]) & order).any(2)  # (B, M)
    usable = (new_label >= 0) & ~repeated
    added = torch.where(usable, (1 - memory) * new_probability, 0.0)  # (B, M)
    same = label[:, :, None] == torch.where(usable, new_label, -2)[:, None, :]  # (B, K, M)
    old = memory * target + (same * added[:, None, :]).sum(2)  # (B, K)
    fresh = usable & ~same.any(1)  # (B, M)

    candidate = torch.cat([label[:, 1:], torch.where(fresh, new_label, NO_TARGET)], dim=1)
    value = torch.cat([old[:, 1:], torch.where(fresh, added, 0.0)], dim=1)  # (B, K - 1 + M)
    value, place = value.topk(num_slots - 1, dim=1)
    label = torch.cat([label[:, :1], candidate.gather(1, place)], dim=1)
    target = torch.cat([old[:, :1], value], dim=1)
    label[:, 1:] = torch.where(target[:, 1:] > 0, label[:, 1:], NO_TARGET)
    total = target.sum(1, keepdim=True)
    return label, target / torch.where(total > 0, total, 1.0)


class SparseTargets:
    """Labels (int32) and probabilities of the targets of samples [start, stop), in mapped files.

    Every rank holds its `dist.shard` range; the memory of all samples is the ranks' together. A
    rank may be asked for any sample: `read` gives zeros for those of others, so the sum over ranks
    is the answer, and `update` passes over them, so every rank is given all samples of the batch.

    `label` and `probability` are the mapped tensors: rows of a sharded tensor for a checkpoint,
    which fills them in place when it is read. The files are where they live, not a record: after a
    kill they may be ahead of the checkpoint.

    Args:
        folder: exists; two files are made in it, or written over.
        given_label: (stop - start,) int64, slot 0 for good; -1 for a sample that is left out.
        start: number of the first sample.
        num_targets: K, slot 0 included.
        probability_type: float16 rounds by up to 2^-11 at each update, so with a memory of 0.9
            the average stops some 0.5 % short of where it goes; float32 does not.
    """

    def __init__(
        self,
        folder: Path,
        given_label: Tensor,
        *,
        start: int = 0,
        num_targets: int = 8,
        probability_type: torch.dtype = torch.float16,
    ) -> None:
        assert num_targets >= 2, num_targets
        shape = (len(given_label), num_targets)
        self.start = start
        self.label = _mapped(folder / f"targets-{start}-label.bin", shape, torch.int32)
        self.probability = _mapped(
            folder / f"targets-{start}-probability.bin", shape, probability_type
        )
        self.label.fill_(NO_TARGET)[:, 0] = given_label
        self.probability.zero_()[:, 0] = given_label >= 0

    def read(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(label, target) of samples, (B, K) int64 and float32; zeros for other ranks' samples.

        Args:
            sample: (B,) int64 numbers over all ranks' samples.
        """
        here, row = self._rows(sample)
        label = torch.zeros(len(sample), self.label.shape[1], dtype=torch.int64)
        target = torch.zeros(len(sample), self.label.shape[1])
        label[here] = self.label[row].long()
        target[here] = self.probability[row].float()
        return label.to(sample.device), target.to(sample.device)

    def update(
        self, sample: Tensor, new_label: Tensor, new_probability: Tensor, *, memory: float
    ) -> None:
        """Let the model's present probabilities into the targets (see `merge_targets`).

        Other ranks' samples are passed over. A sample comes at most once in a call.

        Args:
            sample: (B,) int64.
        """
        here, row = self._rows(sample)
        label, target = merge_targets(
            self.label[row].long(),
            self.probability[row].float(),
            new_label.cpu()[here],
            new_probability.cpu().float()[here],
            memory=memory,
        )
        self.label[row] = label.int()
        self.probability[row] = target.to(self.probability.dtype)

    def _rows(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) which samples are held here, and the rows of those."""
        row = sample.cpu() - self.start
        here = (row >= 0) & (row < len(self.label))
        return here, row[here]


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A tensor that lives in a file; zeros where the file is new."""
    size = shape[0] * shape[1]
    if size == 0:  # an empty file cannot be mapped
        return torch.zeros(shape, dtype=dtype)
    path.unlink(missing_ok=True)  # torch would map what an older run left
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)

"""1:N identification: a probe is searched in a gallery; closed-set ranks, open-set TPIR at FPIR.

Definitions: Grother and Ngan, "Face Recognition Vendor Test: Performance of Face Identification
Algorithms", NIST IR 8009, and the IJB protocols. A probe is mated when its subject is in the
gallery. Ties are judged against the system: another subject at the mate's similarity outranks it.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facetrain.metrics.verification import Floats

RANKS = (1, 5, 10)
FPIRS = (1, 2)
"""Exponents: FPIR 1e-1 and 1e-2."""
_PROBES_AT_ONCE = 1024

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Searches:
    """What each probe found."""

    rank: Ints  # (probes,) rank of the best mate from 1 on; 0 for a probe without a mate
    mate_similarity: Floats  # (probes,) of the best mate; -inf for a probe without a mate
    other_similarity: Floats
    """(probes,) of the best template of another subject; -inf where none is."""


def search(
    unit_probe: Floats, probe_subject: Ints, unit_gallery: Floats, gallery_subject: Ints
) -> Searches:
    """Compare every probe with every gallery template; `probes x gallery x D` in time.

    Args:
        unit_probe: (probes, D) with unit rows.
        probe_subject: (probes,).
        unit_gallery: (gallery, D) with unit rows.
        gallery_subject: (gallery,); a subject with several templates is as near as the best.
    """
    num_probes = len(unit_probe)
    rank = np.zeros(num_probes, np.int64)
    mate_similarity = np.full(num_probes, -np.inf)
    other_similarity = np.full(num_probes, -np.inf)
    for start in range(0, num_probes, _PROBES_AT_ONCE):
        block = slice(start, start + _PROBES_AT_ONCE)
        similarity = unit_probe[block] @ unit_gallery.T  # (block, gallery)
        is_mate = probe_subject[block, None] == gallery_subject[None]
        best_mate = np.where(is_mate, similarity, -np.inf).max(axis=1, initial=-np.inf)
        other = np.where(is_mate, -np.inf, similarity)
        other_similarity[block] = other.max(axis=1, initial=-np.inf)
        outranked = (other >= best_mate[:, None]).sum(axis=1)
        rank[block] = np.where(is_mate.any(axis=1), outranked + 1, 0)
        mate_similarity[block] = best_mate
    return Searches(rank, mate_similarity, other_similarity)


def identification(searches: Searches) -> dict[str, Any]:
    """`rank_1`, `rank_5`, `rank_10`, `tpir_at_fpir`, `threshold_at_fpir`, the numbers of probes.

    rank_k: share of mated probes whose mate is among the k most alike templates. TPIR at FPIR:
    the threshold is the lowest at which no more than FPIR x unmated probes find anybody above it;
    TPIR is the share of mated probes whose mate is most alike and above it. A value is None where
    it cannot be measured: no mated probes, or fewer than 1 / FPIR unmated ones.
    """
    mated = searches.rank > 0
    num_mated, num_unmated = int(mated.sum()), int((~mated).sum())
    rank, similarity = searches.rank[mated], searches.mate_similarity[mated]
    alarms = np.sort(searches.other_similarity[~mated])[::-1]  # the most alike first
    numbers: dict[str, Any] = {
        f"rank_{k}": float((rank <= k).mean()) if num_mated else None for k in RANKS
    }
    numbers |= {"tpir_at_fpir": {}, "threshold_at_fpir": {}}
    for exponent in FPIRS:
        allowed = num_unmated // 10**exponent
        value = threshold = None
        if allowed:
            threshold = float(alarms[allowed])
            if num_mated:
                value = float(((rank == 1) & (similarity > threshold)).mean())
        numbers["tpir_at_fpir"][f"1e-{exponent}"] = value
        numbers["threshold_at_fpir"][f"1e-{exponent}"] = threshold
    return numbers | {"num_mated_probes": num_mated, "num_unmated_probes": num_unmated}


def mean_identification(galleries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over galleries of each rate of `identification`; None where one is None."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    numbers: dict[str, Any] = {
        f"rank_{k}": mean([g[f"rank_{k}"] for g in galleries]) for k in RANKS
    }
    names = galleries[0]["tpir_at_fpir"]
    numbers["tpir_at_fpir"] = {n: mean([g["tpir_at_fpir"][n] for g in galleries]) for n in names}
    return numbers

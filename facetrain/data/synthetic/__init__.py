"""Procedural faces: every label, noise flag and variation bin known, nothing to download."""

from facetrain.data.synthetic.dataset import (
    Sample,
    all_samples,
    pair_samples,
    read_labels,
    write_pairs,
    write_synthetic,
)
from facetrain.data.synthetic.nuisance import (
    BLUR_SIGMAS,
    OCCLUSIONS,
    POSE_EDGES,
    Nuisance,
    SyntheticConfig,
    draw_nuisance,
)
from facetrain.data.synthetic.renderer import Labels, render

__all__ = [
    "BLUR_SIGMAS", "OCCLUSIONS", "POSE_EDGES", "Labels", "Nuisance", "Sample", "SyntheticConfig",
    "all_samples", "draw_nuisance", "pair_samples", "read_labels", "render", "write_pairs",
    "write_synthetic",
]  # fmt: skip

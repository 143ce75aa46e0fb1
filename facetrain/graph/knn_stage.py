"""Stage `graph`: embeddings -> their kNN graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.core.artifact import Artifact, fingerprint
from facetrain.core.npy_file import read_npy
from facetrain.core.run_folder import NORM_FILE
from facetrain.dist.mesh import Mesh
from facetrain.dist.stage import run_stage
from facetrain.graph.knn import KnnConfig, knn_graph


def run(
    config: KnnConfig,
    embedding_path: Path,
    out_dir: Path,
    mesh: Mesh,
    *,
    inputs: Mapping[str, str],
) -> Artifact:
    """Build the graph of an `embedding.npy`; continues an interrupted run, at any world size.

    Leaves `neighbours.npy` and `similarity.npy` (see `KnnGraph`) and the manifest with what
    `knn_graph` measured.

    Args:
        inputs: name -> fingerprint of what made the embedding; the file itself is added here.

    Raises:
        DataError: no such `.npy`, or embeddings that `knn_graph` refuses.
        ConfigError: faiss is asked for and not installed.
    """
    again = "run the embed stage first"
    types = (np.float16, np.float32)
    embedding = read_npy(embedding_path, "embeddings", (None, None), types, advice=again)

    def work() -> dict[str, Any]:
        norm = embedding_path.with_name(NORM_FILE)  # the stage embed says which did not decode
        skipped = norm.is_file() and bool(
            (read_npy(norm, "norms", (len(embedding),), np.float32, advice=again) == 0).any()
        )
        return knn_graph(embedding, config, mesh, out_dir, allow_zero=skipped)[1]

    all_inputs = {**inputs, "embedding": fingerprint(embedding_path)}
    return run_stage("graph", config, all_inputs, out_dir, mesh, work)

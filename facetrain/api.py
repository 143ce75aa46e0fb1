"""The Python surface: arrays in, arrays out; no folder, no recipe, no mesh.

Arrays may be NumPy's or torch's, on any device; what comes back is NumPy's.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facetrain.clean import clean
from facetrain.clean.clean import CleanConfig
from facetrain.core import run_folder
from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.batches.loader import OrderedLoader
from facetrain.data.cleaning_result import CleaningResult
from facetrain.data.dataset import FaceDataset
from facetrain.data.features import MOST_LABEL, Features, row_norms, save_features, unit_rows
from facetrain.data.noise.plant import NoiseConfig, PlantedNoise, plant
from facetrain.dist.mesh import Mesh
from facetrain.engine import inference
from facetrain.graph import knn
from facetrain.graph.knn import KnnConfig, KnnGraph
from facetrain.metrics import verification as pairs
from facetrain.metrics.verification import Verification
from facetrain.models.input_format import RGB, BackboneFile, InputFormat
from facetrain.models.weights import EmbeddingModel

Array = NDArray[Any] | Tensor | Sequence[Any]
"""What any function here takes for an array."""


def load_backbone(
    path: Path | str,
    device: torch.device | str = "cpu",
    *,
    input_range: tuple[float, float] | None = None,
    channel_order: Literal["rgb", "bgr"] = "rgb",
) -> EmbeddingModel:
    """A backbone for inference, from any file that facetrain reads.

    What it gives takes RGB in [-1, 1]; what the network itself was trained on is said here.

    Args:
        path: an .onnx, arcface_torch's .pth, a .safetensors, or the folder of a training.
        device: where it runs.
        input_range: what the network takes black and white pixels as, such as (0, 255); None is
            (-1, 1), and for an .onnx what its graph begins with.
        channel_order: of the colours that the network takes; nothing in a file tells.

    Raises:
        CheckpointError: no such file, damaged or hostile content, another network, or one that
            gives ten different faces one embedding.
        ConfigError: a device, range or order that there is not.
    """
    if channel_order not in ("rgb", "bgr"):
        raise ConfigError(f"channel_order must be 'rgb' or 'bgr', got {channel_order!r:.40}")
    if input_range is not None and not _is_range(input_range):
        raise ConfigError(
            "input_range must be what black and white pixels are, two numbers such as (0, 255), "
            f"got {input_range!r:.60}"
        )
    try:
        place = torch.device(device)
        torch.empty(0, device=place)  # this machine has it
    except (RuntimeError, AssertionError) as error:  # the latter: torch built without it
        raise ConfigError(f"device={device!r:.40}: {str(error).splitlines()[0]}") from None
    given, source = InputFormat(input_range, channel_order), Path(path)
    return inference.open_backbone(source if given == RGB else BackboneFile(source, given), place)


def _is_range(value: Any) -> bool:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        return False
    return -np.inf < low < high < np.inf and not isinstance(value, str)


def embed(
    backbone: EmbeddingModel | nn.Module,
    images: FaceDataset | Array,
    *,
    flip: bool = True,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Embeddings (N, D) of aligned faces, as long as the backbone makes them (not normalised).

    Args:
        backbone: what `load_backbone` gives, or a network in eval mode that takes (B, 3, S, S) in
            [-1, 1], RGB.
        images: (N, S, S, 3) uint8 RGB, or a data set, whose images are resized to S.
        flip: sum the embeddings of an image and of its mirror image, as the field evaluates.
        batch_size: images at a time.

    Raises:
        DataError: images of another shape or type, a record that does not decode, or what is no
            backbone.
        ConfigError: no image at a time.
    """
    if not isinstance(backbone, EmbeddingModel | nn.Module):
        raise DataError(
            "a backbone must be what facetrain.load_backbone(file) gives or a torch.nn.Module, "
            f"got {type(backbone).__name__}"
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    size = backbone.image_size if isinstance(backbone, EmbeddingModel) else None
    if isinstance(backbone, EmbeddingModel):
        device = backbone.device
    else:
        device = next((one.device for one in backbone.parameters()), torch.device("cpu"))
        if backbone.training:
            raise DataError("a backbone must be in eval mode to embed; call backbone.eval()")
    parts = [
        inference.embed_images(backbone, batch, device, flip=flip)
        for batch in _batches(images, size, batch_size)
    ]
    return torch.cat(parts).numpy()


def _batches(images: FaceDataset | Array, size: int | None, batch_size: int) -> Iterator[Tensor]:
    """(B, 3, S, S) uint8."""
    if isinstance(images, FaceDataset):
        loader = OrderedLoader(images, size or 112, batch_size, 0, images.num_images, workers=0)
        yield from (batch.image for batch in loader)
        return
    array = _numpy(images)
    side = size or (array.shape[1] if array.ndim == 4 else 0)
    if array.shape[1:] != (side, side, 3) or array.dtype != np.uint8 or len(array) == 0:
        raise DataError(
            f"images must be (N, {size or 'S'}, {size or 'S'}, 3) uint8 RGB with N at least 1, got "
            f"{array.shape} of {array.dtype}{_advice(array)}"
        )
    for start in range(0, len(array), batch_size):
        part = np.ascontiguousarray(array[start : start + batch_size].transpose(0, 3, 1, 2))
        yield torch.from_numpy(part)


def _advice(images: NDArray[Any]) -> str:
    """What makes them images as `embed` takes them, as far as their shape and type tell."""
    shape = images.shape
    if images.dtype != np.uint8:
        return "; give pixels from 0 to 255 as uint8"
    if shape[2:] == (3,):
        return "; give one image as images[None]"
    if len(shape) == 3 or shape[3:] == (1,):
        return "; repeat grey pixels as three channels"
    if shape[3:] == (4,):
        return "; leave the fourth channel out"
    if len(shape) == 4 and shape[1] == 3:
        return "; channels come last: images.transpose(0, 2, 3, 1)"
    return "; align faces to that size" if 0 not in shape else ""


def knn_graph(embedding: Array, num_neighbours: int = 80, **options: Any) -> KnnGraph:
    """The K most similar others of each row, as `neighbours` and `similarity`, both (N, K).

    Args:
        embedding: (N, D), rows of any length but zero.
        num_neighbours: K; N - 1 where there are fewer rows.
        options: further keys of `KnnConfig`, as `index="exact"`.

    Raises:
        DataError: rows without a direction, or an array of another shape or type.
        ConfigError: an option that is none.
    """
    keys = {"num_neighbours": num_neighbours, **options}
    config = parse_config(KnnConfig, keys, "knn_graph")
    with tempfile.TemporaryDirectory() as folder:
        graph, _ = knn.knn_graph(_embedding(embedding), config, Mesh.single(), Path(folder))
        return KnnGraph(np.array(graph.neighbours), np.array(graph.similarity))


def clean_labels(
    embedding: Array,
    label: Array,
    source: Sequence[Array] | Path | str | None = None,
    **options: Any,
) -> CleaningResult:
    """Which images belong to the identity that they are labelled with, and where others belong.

    Args:
        embedding: (N, D) of any network, rows of any length but zero.
        label: (N,) integers from 0 up, gaps allowed.
        source: what to learn noise from: embedding (M, D), label (M,) and is_clean (M,), or a
            features `.npz` with them; None learns from noise planted into the most consistent
            classes of the set itself.
        options: keys of a recipe's section `clean`, as `seed=1`.

    Returns:
        Decisions in the order of the images; labels are the given ones.

    Raises:
        DataError: arrays that do not fit, or too few identities to learn from.
        ConfigError: an option that is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        config = parse_config(CleanConfig, options, "clean_labels")
        save_features(out / "target.npz", _features(embedding, label))
        if source is not None and not isinstance(source, Path | str):
            known = _source(source)
            save_features(out / "source.npz", known)
            source = out / "source.npz"
        if source is not None:
            config = config.model_copy(update={"source": Path(source)})
        clean.run_features(config, out / "target.npz", out / "clean", Mesh.single())
        return CleaningResult.load(out / "clean" / run_folder.CLEAN_FILE)


def verification(first: Array, second: Array, same: Array, num_folds: int = 10) -> Verification:
    """Accuracy, TAR at each FAR, EER and AUC of pairs, as the field's protocols measure them.

    Args:
        first: (P, D) embeddings of one image of each pair, of any length but zero.
        second: (P, D) of the other.
        same: (P,) whether the two show one person.
        num_folds: of the accuracy, cut from the pairs in their order.

    Raises:
        DataError: arrays that do not fit each other, or fewer pairs than folds.
    """
    one, other, label = _embedding(first), _embedding(second), _numpy(same)
    if one.shape != other.shape or label.shape != (len(one),):
        raise DataError(
            "first and second must be (P, D) alike and same (P,), got "
            f"{one.shape}, {other.shape} and {label.shape}"
        )
    if not np.isin(label, (0, 1)).all():
        raise DataError(f"same must hold true and false (or 1 and 0), got {label.dtype}")
    distance = ((unit_rows(one).astype(np.float64) - unit_rows(other)) ** 2).sum(1)
    return pairs.verification(distance, label.astype(np.bool_), num_folds)


def plant_noise(
    label: Array, *, flip: float = 0.0, outlier: float = 0.0, structured: float = 0.0, seed: int = 0
) -> PlantedNoise:
    """Labels with known noise planted, and the truth: `label`, `is_clean`, `kept` and `kind` (N,).

    Args:
        label: (N,) integers, all of them right.
        flip: share of images given to other identities at random.
        outlier: share of images that come from identities held out of the set.
        structured: share given so that one or two people make all of a class's noise.
        seed: of the draw.

    Raises:
        ConfigError: rates that the classes cannot bear; names one they can.
        DataError: labels that are no integers.
    """
    rates = {"flip": flip, "outlier": outlier, "structured": structured, "seed": seed}
    return plant(_labels(label), parse_config(NoiseConfig, rates, "plant_noise"))


def _numpy(value: Array) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    if np.ma.is_masked(value):
        raise DataError("an array must hold every value, but some are masked; leave those rows out")
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise DataError(f"an array must be one block of numbers, got a list: {error}") from None


def _embedding(value: Array) -> NDArray[Any]:
    """(N, D) float16 or float32, every row with a direction."""
    array = _numpy(value)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(
            f"an embedding must be (N, D) of numbers, N and D at least 1, got {array.shape} of "
            f"{array.dtype}"
        )
    if array.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = array.astype(np.float32)
    norm = row_norms(array)
    bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
    if len(bad):
        raise DataError(
            f"no embedding may be zero, infinite or NaN, but {len(bad)} of {len(array)} are, the "
            f"first in row {bad[0]}; embed those images again or leave them out"
        )
    return array


def _features(
    embedding: Array, label: Array, is_clean: NDArray[np.bool_] | None = None
) -> Features:
    rows, of_rows = _embedding(embedding), _labels(label)
    for name, column in (("label", of_rows), ("is_clean", is_clean)):
        if column is not None and column.shape != (len(rows),):
            raise DataError(f"{name} must be ({len(rows)},), one a row, got {column.shape}")
    return Features(rows, of_rows, is_clean)


def _source(given: Sequence[Array]) -> Features:
    if not isinstance(given, tuple | list) or len(given) != 3:
        came = f"{len(given)} arrays" if isinstance(given, tuple | list) else type(given).__name__
        raise DataError(
            f"a source must be (embedding, label, is_clean) or a features .npz, got {came}"
        )
    is_clean = _numpy(given[2])
    if not np.isin(is_clean, (0, 1)).all():
        raise DataError(f"is_clean must hold true and false (or 1 and 0), got {is_clean.dtype}")
    return _features(given[0], given[1], is_clean=is_clean.astype(np.bool_))


def _labels(value: Array) -> NDArray[np.int64]:
    array = _numpy(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"labels must be (N,) integers, got {array.shape} of {array.dtype}; number the names, "
            "e.g. by numpy.unique(names, return_inverse=True)[1]"
        )
    if array.size and not 0 <= array.min() <= array.max() <= MOST_LABEL:
        raise DataError(
            f"labels must be from 0 to {MOST_LABEL}, got {array.min()} to {array.max()}; leave out "
            "images without a label, and number the others by "
            "numpy.unique(label, return_inverse=True)[1]"
        )
    return array.astype(np.int64)

"""The Python surface as docs/python.md shows it: names, signatures, every example run."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import facetrain
from facetrain.core.errors import ConfigError, DataError
from facetrain.data.synthetic import SyntheticConfig, write_synthetic
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.weights import save_backbone

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
SIGNATURES = {
    "clean_labels": "(embedding, label, source=None, **options)",
    "embed": "(backbone, images, *, flip=True, batch_size=64)",
    "knn_graph": "(embedding, num_neighbours=80, **options)",
    "load_backbone": "(path, device='cpu', *, input_range=None, channel_order='rgb')",
    "plant_noise": "(label, *, flip=0.0, outlier=0.0, structured=0.0, seed=0)",
    "verification": "(first, second, same, num_folds=10)",
    "LabelCleaner": "(*, options=None, random_state=0)",
    "MarginHead": "(config, num_classes, embedding_size, mesh=None, seed=0)",
}
CLASSES = ("CleaningResult", "FaceDataset", "HeadConfig", "LabelOverlay")


def plain(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_the_names_and_their_signatures() -> None:
    assert {*SIGNATURES, *CLASSES, "__version__"} == set(facetrain.__all__)
    assert {name: plain(getattr(facetrain, name)) for name in SIGNATURES} == SIGNATURES
    for name in SIGNATURES:
        assert inspect.getdoc(getattr(facetrain, name)), name
        assert f"`{name}" in PAGE.read_text(), name
    for name in CLASSES:
        assert inspect.isclass(getattr(facetrain, name)), name
    with pytest.raises(AttributeError, match="no attribute 'clean_label'"):
        facetrain.clean_label  # noqa: B018


def test_the_import_costs_nothing() -> None:
    script = "import sys, facetrain; print(sorted({'torch', 'numpy', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's examples leave, run from top to bottom."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_pages_cleaning_finds_what_was_planted(page: dict[str, Any]) -> None:
    result, planted, cleaner = page["result"], page["planted"], page["cleaner"]
    assert page["found"].sum() > 0.9 * (~planted.is_clean).sum()
    assert (~result.kept & planted.is_clean).sum() < 0.05 * 720
    assert (result.class_id == np.arange(60)).all()
    home = result.suggested_label >= 0
    assert (result.suggested_label == page["true_label"])[home].mean() > 0.9
    assert (cleaner.label_[cleaner.kept_] == planted.label[cleaner.kept_]).all()
    assert (cleaner.label_ == page["true_label"]).mean() > planted.is_clean.mean() + 0.1
    probability = cleaner.predict_proba(page["embedding"])
    assert (probability.argmax(1) == page["true_label"]).mean() > 0.99
    # the scale is fitted: what it says of the right class is about how often it is right
    right = probability[np.arange(720), page["true_label"]]
    assert right.mean() > 0.9


def test_the_pages_graph_and_pairs(page: dict[str, Any]) -> None:
    embedding, graph = page["embedding"], page["graph"]
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(720)
    assert (
        np.sort(graph.neighbours, 1) == np.sort(np.argsort(-cosine, 1)[:, :11], 1)
    ).mean() > 0.99
    assert np.allclose(graph.similarity, -np.sort(-cosine, 1)[:, :11], atol=2e-3)
    first, second, same = embedding[:600], embedding[page["second"]], page["same"]
    similarity = (unit[:600] * unit[page["second"]]).sum(1)
    best = max(((similarity > cut) == same).mean() for cut in similarity)
    assert abs(page["numbers"].accuracy - best) < 0.02  # of folds, so by a threshold of others
    again = facetrain.verification(torch.from_numpy(first), 3 * second, same.astype(int))
    assert again.accuracy == page["numbers"].accuracy
    assert again.tar_at_far == page["numbers"].tar_at_far


def test_the_pages_backbone_data_set_and_head(page: dict[str, Any]) -> None:
    assert page["of_images"].shape == (12, 32)
    assert page["smaller"].num_images == 11
    assert page["loss"].shape == (12,)
    assert page["head"].weight.grad is not None


def test_embed_takes_files_data_sets_arrays_and_tensors_alike(tmp_path: Path) -> None:
    write_synthetic(
        tmp_path, SyntheticConfig(num_identities=3, min_images=2, max_images=2, size=32), quiet=True
    )
    torch.manual_seed(0)
    config = ModelConfig(name="small", image_size=32, embedding_size=8, width=8)
    network = build_backbone(config).eval()
    save_backbone(network, config, tmp_path / "backbone.safetensors")
    dataset = facetrain.FaceDataset.open(tmp_path)
    images = np.stack([dataset.decode(i, 32) for i in range(6)])
    backbone = facetrain.load_backbone(str(tmp_path / "backbone.safetensors"))
    found = facetrain.embed(backbone, images, flip=False)
    with torch.no_grad():  # by hand
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        assert np.allclose(found, network(x), atol=1e-5)
        assert np.allclose(
            facetrain.embed(backbone, images), network(x) + network(x.flip(3)), atol=1e-5
        )
    for given in (dataset, torch.from_numpy(images), images.tolist()):
        if isinstance(given, list):
            given = np.array(given, np.uint8)
        assert np.allclose(
            facetrain.embed(backbone, given, flip=False, batch_size=4), found, atol=1e-5
        )
    for wrong, advice in (
        (images.astype(np.float32), "pixels from 0 to 255 as uint8"),
        (images[:, :16, :16], "align faces to that size"),
        (images[..., 0], "repeat grey pixels"),
        (images[..., :1], "repeat grey pixels"),
        (images[0], "images[None]"),
        (images.transpose(0, 3, 1, 2), "channels come last"),
        (np.concatenate([images, images[..., :1]], axis=3), "leave the fourth channel out"),
    ):
        with pytest.raises(DataError, match="must be \\(N, 32, 32, 3\\) uint8 RGB") as caught:
            facetrain.embed(backbone, wrong)
        assert advice in str(caught.value)
    with pytest.raises(DataError, match="eval mode"):
        facetrain.embed(network.train(), images)


def test_bad_arrays_are_told() -> None:
    embedding, label = np.ones((6, 3)), np.arange(6)
    with pytest.raises(DataError, match="must be \\(N, D\\) of numbers"):
        facetrain.clean_labels(embedding[0], label)
    with pytest.raises(DataError, match="first in row 2"):
        facetrain.knn_graph(np.where(np.arange(6)[:, None] == 2, np.nan, embedding))
    with pytest.raises(DataError, match="label must be \\(6,\\)"):
        facetrain.clean_labels(embedding, label[:5])
    with pytest.raises(DataError, match="may be zero, infinite or NaN, but 6 of 6 are, the first"):
        facetrain.clean_labels(embedding * 1e200, label)  # float32 cannot hold it
    with pytest.raises(DataError, match="number the names"):
        facetrain.clean_labels(embedding, label.astype(str))
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        facetrain.clean_labels(embedding, label, sed=1)
    with pytest.raises(DataError, match="true and false"):
        facetrain.verification(embedding, embedding, [0, 1, 2, 0, 1, 0])
    with pytest.raises(DataError, match="alike"):
        facetrain.verification(embedding, embedding[:5], label)
    for wrong in (label - 1, label.astype(np.uint64) + 2**63, np.array([0, 1, 2, 3, 4, 2**40])):
        with pytest.raises(DataError, match="labels must be from 0 to 134217728, got"):
            facetrain.clean_labels(embedding, wrong)
        with pytest.raises(DataError, match="labels must be from 0 to"):
            facetrain.plant_noise(wrong, flip=0.1)
    with pytest.raises(DataError, match="some are masked"):
        facetrain.clean_labels(np.ma.array(embedding, mask=np.eye(6, 3)), label)
    for source in ((embedding, label), [embedding, label], embedding, 5):
        with pytest.raises(DataError, match="a source must be \\(embedding, label, is_clean\\)"):
            facetrain.clean_labels(embedding, label, source=source)  # type: ignore[arg-type]
    for kind in (tuple, list):
        with pytest.raises(DataError, match="is_clean must hold true and false"):
            facetrain.clean_labels(embedding, label, source=kind((embedding, label, label)))


def test_bad_backbones_and_images_are_told(tmp_path: Path) -> None:
    config = ModelConfig(name="small", image_size=32, embedding_size=8, width=8)
    network, file = build_backbone(config).eval(), tmp_path / "backbone.safetensors"
    save_backbone(network, config, file)
    with pytest.raises(ConfigError, match="channel_order must be 'rgb' or 'bgr', got 'brg'"):
        facetrain.load_backbone(file, channel_order="brg")  # type: ignore[arg-type]
    for wrong in ((0,), "0,255", (255, 0), (0, float("nan")), 255):
        with pytest.raises(ConfigError, match="input_range must be what black and white"):
            facetrain.load_backbone(file, input_range=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device='cuda:99'"):
        facetrain.load_backbone(file, "cuda:99")
    with pytest.raises(ConfigError, match="device='gpu'"):
        facetrain.load_backbone(file, "gpu")
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(DataError, match=r"a backbone must be .* got str"):
        facetrain.embed(str(file), images)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        facetrain.embed(network, images, batch_size=0)
    with pytest.raises(DataError, match="one block of numbers"):
        facetrain.embed(network, [images[0], images[0, :5]])


def test_what_is_saved_is_named_by_text_or_path(tmp_path: Path) -> None:
    overlay = facetrain.LabelOverlay.make(np.arange(3), np.ones(3, np.bool_))
    overlay.save(str(tmp_path / "overlay.npz"))
    for path in (str(tmp_path), tmp_path / "overlay.npz"):
        assert facetrain.LabelOverlay.load(path).label.tolist() == [0, 1, 2]

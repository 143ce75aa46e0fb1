"""Template benchmarks for tests, and IJB's protocols worked out one template at a time."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from facetrain.data.evaluation.template_benchmark import LooseFace
from facetrain.data.images.align import ARCFACE_POINTS
from facetrain.data.images.landmarks import read_landmarks
from facetrain.data.synthetic import SyntheticConfig, all_samples, draw_nuisance, render

SIZE, D = 16, 12


class Linear:
    """A backbone that multiplies by a fixed matrix, counts images, and may be stopped."""

    image_size, embedding_size = SIZE, D
    source = "linear"

    def __init__(self, stop_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * SIZE * SIZE, D, generator=generator)
        self.num_images, self.stop_at = 0, stop_at

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.num_images += len(image)
        if self.stop_at is not None and self.num_images >= self.stop_at:
            raise KeyboardInterrupt
        return image.flatten(1) @ self.matrix


def random_faces(num_images: int, num_subjects: int, seed: int = 0) -> list[LooseFace]:
    """Noise images, alike within a subject, with points near the template."""
    generator = np.random.default_rng(seed)
    own = generator.integers(0, 256, (num_subjects, 40, 40, 3))
    faces = []
    for _ in range(num_images):
        subject = int(generator.integers(num_subjects))
        noise = generator.integers(0, 256, own[0].shape)
        image = ((own[subject] + noise) // 2).astype(np.uint8)
        points = ARCFACE_POINTS * 40 / 112 + generator.normal(0, 0.7, (5, 2))
        faces.append(LooseFace(subject, cv2.imencode(".png", image)[1].tobytes(), points))
    return faces


def synthetic_faces(config: SyntheticConfig) -> list[LooseFace]:
    """Rendered faces with their exact landmarks."""
    faces = []
    for sample in all_samples(config):
        state = draw_nuisance(config, sample.identity, sample.sample)
        image, labels = render(config, sample.identity, sample.sample, state)
        points = np.asarray(labels.landmarks, np.float64)
        faces.append(
            LooseFace(
                sample.identity - config.first_identity,
                cv2.imencode(".jpg", image[..., ::-1])[1].tobytes(),
                points,
            )
        )
    return faces


def folder_faces(folder: Path, landmarks: Path) -> list[LooseFace]:
    """The images of a folder of folders that have landmarks."""
    points = read_landmarks(landmarks).points
    paths = sorted(path for path in points if (folder / path).is_file())
    people = sorted({Path(path).parent for path in paths})
    return [
        LooseFace(people.index(Path(path).parent), (folder / path).read_bytes(), points[path])
        for path in paths
    ]


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def slow_features(root: Path, protocol: str, *, flip: bool = True) -> np.ndarray:
    """(N, D) embeddings by `Linear`: each image aligned by a least-squares solve of its own."""
    home = root / protocol.upper()
    matrix = Linear().matrix.double().numpy()
    target = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
         [70.7299, 92.2041]]
    ) * SIZE / 112  # fmt: skip
    embeddings = []
    for name, *numbers in _rows(home / "meta" / f"{protocol}_name_5pts_score.txt"):
        points = np.array(numbers[:10], float).reshape(5, 2)
        # x' = a x - b y + c, y' = b x + a y + d, in the least squares over five points.
        system = [[x, -y, 1, 0] for x, y in points] + [[y, x, 0, 1] for x, y in points]
        a, b, c, d = np.linalg.lstsq(np.array(system), target.T.reshape(-1), rcond=None)[0]
        image = cv2.imread(str(home / "loose_crop" / name))[..., ::-1]
        warped = cv2.warpAffine(image, np.array([[a, -b, c], [b, a, d]]), (SIZE, SIZE))
        views = [warped, warped[:, ::-1]] if flip else [warped]
        pixels = [
            view.transpose(2, 0, 1).reshape(-1).astype(np.float64) / 127.5 - 1 for view in views
        ]
        embeddings.append(sum(x @ matrix for x in pixels))
    return np.array(embeddings)


def slow_templates(
    root: Path,
    protocol: str,
    features: np.ndarray,
    *,
    norm_weighting: bool = True,
    detector_score: bool = True,
) -> dict[int, np.ndarray]:
    """Template number -> unit embedding: media averaged, then summed, as the recipe says it."""
    meta = root / protocol.upper() / "meta"
    media: dict[int, dict[int, list[np.ndarray]]] = {}
    lists = zip(
        _rows(meta / f"{protocol}_face_tid_mid.txt"),
        _rows(meta / f"{protocol}_name_5pts_score.txt"),
        np.asarray(features, np.float64),
        strict=True,
    )
    for (_, template, number), marks, feature in lists:
        if not norm_weighting:
            feature = feature / math.sqrt(feature @ feature)
        if detector_score:
            feature = feature * float(marks[-1])
        media.setdefault(int(template), {}).setdefault(int(number), []).append(feature)
    result = {}
    for template, groups in media.items():
        total = sum(sum(group) / len(group) for group in groups.values())
        result[template] = total / math.sqrt(total @ total)
    return result


def slow_verification(root: Path, protocol: str, templates: dict[int, np.ndarray]) -> Any:
    """(similarity, same) of the pair list, and TAR at FAR by trying every threshold."""
    meta = root / protocol.upper() / "meta"
    pairs = [
        (float(templates[int(a)] @ templates[int(b)]), label == "1")
        for a, b, label in _rows(meta / f"{protocol}_template_pair_label.txt")
    ]
    genuine = np.array([s for s, same in pairs if same])
    impostor = np.array([s for s, same in pairs if not same])
    tar: dict[str, float | None] = {}
    for exponent in range(1, 7):
        tar[f"1e-{exponent}"] = None
        if len(impostor) < 10**exponent:
            continue
        # A pair is accepted above the threshold: lower it until the FAR is exceeded.
        for threshold in sorted(impostor, reverse=True):
            if np.sum(impostor > threshold) > len(impostor) * 10**-exponent + 1e-9:
                break
            tar[f"1e-{exponent}"] = float(np.sum(genuine > threshold) / len(genuine))
    similarity, same = np.array([s for s, _ in pairs]), np.array([same for _, same in pairs])
    return similarity, same, tar


def slow_identification(
    root: Path, protocol: str, templates: dict[int, np.ndarray], gallery: str
) -> dict[str, Any]:
    """1:N numbers of one gallery, probe by probe."""
    meta = root / protocol.upper() / "meta"

    def read(name: str) -> list[tuple[int, int]]:
        lines = (meta / f"{protocol}_1N_{name}.csv").read_text().splitlines()[1:]
        return [(int(line.split(",")[0]), int(line.split(",")[1])) for line in lines]

    enrolled = read(f"gallery_{gallery}")
    subjects = {subject for _, subject in enrolled}
    ranks, found, alarms = [], [], []
    for template, subject in read("probe_mixed"):
        candidates = sorted(
            ((float(templates[template] @ templates[t]), s) for t, s in enrolled), reverse=True
        )
        if subject in subjects:
            rank = next(i for i, (_, s) in enumerate(candidates, 1) if s == subject)
            ranks.append(rank)
            found.append(candidates[rank - 1][0])
        else:
            alarms.append(candidates[0][0])
    numbers: dict[str, Any] = {
        f"rank_{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)
    }
    numbers["tpir_at_fpir"] = {}
    for name, fpir in (("1e-1", 0.1), ("1e-2", 0.01)):
        value = None
        if len(alarms) * fpir >= 1:
            threshold = min(
                t for t in alarms if sum(a > t for a in alarms) <= len(alarms) * fpir + 1e-9
            )
            hits = [r == 1 and s > threshold for r, s in zip(ranks, found, strict=True)]
            value = sum(hits) / len(hits)
        numbers["tpir_at_fpir"][name] = value
    return numbers | {"num_mated_probes": len(ranks), "num_unmated_probes": len(alarms)}

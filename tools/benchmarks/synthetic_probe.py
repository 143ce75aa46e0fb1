"""How hard synthetic faces are: pixels, a linear probe, a small network, shuffled labels.

    python -m tools.benchmarks.synthetic_probe --minutes 3 --json probe.json

Renders a training set and pairs of other identities, and prints 10-fold pair accuracies. The
network trains on one thread until it has used the given minutes of processor time.
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from facetrain.data.dataset import FaceDataset
from facetrain.data.evaluation.verification_bin import VerificationSet
from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic
from facetrain.metrics.verification import fold_accuracy, pair_geometry
from tools.benchmarks.common import make_parser, write_report

Floats = NDArray[np.float64]


def accuracy(embedding: Floats, pairs: VerificationSet) -> float:
    """Mean 10-fold accuracy of embeddings (2P, D)."""
    distance, _ = pair_geometry(embedding)
    return round(float(fold_accuracy(distance, pairs.same, 10)[0].mean()), 4)


def pixels(image: NDArray[np.uint8]) -> Floats:
    """Each of (N, H, W, 3) images as a row of zero mean and unit variance."""
    row = image.reshape(len(image), -1).astype(np.float64)
    row -= row.mean(axis=1, keepdims=True)
    return np.asarray(row / row.std(axis=1, keepdims=True))


def linear_probe(train: Floats, label: NDArray[np.int64], test: Floats, num_pca: int) -> Floats:
    """Test rows in the space of PCA, then LDA, fitted on `train`; directions by their power."""
    mean = train.mean(axis=0)
    power, direction = np.linalg.eigh(np.cov((train - mean).T))
    project = direction[:, -num_pca:] / np.sqrt(power[-num_pca:])
    train, test = (train - mean) @ project, (test - mean) @ project
    centre = np.stack([train[label == c].mean(axis=0) for c in range(label.max() + 1)])
    within = np.cov((train - centre[label]).T) + 1e-4 * np.eye(num_pca)  # for few images
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    ratio, rotation = np.linalg.eigh(inverse @ np.cov(centre.T) @ inverse.T)
    return np.asarray(test @ inverse.T @ rotation * np.sqrt(np.maximum(ratio, 0)))


def train_network(image: Tensor, label: Tensor, minutes: float) -> nn.Module:
    """A six-layer network (B, 3, 48, 48) -> (B, 128), CosFace, for `minutes` of processor time."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in (
        (3, 24, 2), (24, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1),
    ):  # fmt: skip
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    layers += [nn.Flatten(), nn.Linear(128 * 36, 128), nn.BatchNorm1d(128)]
    network = nn.Sequential(*layers)
    centre = nn.Parameter(0.05 * torch.randn(int(label.max()) + 1, 128))
    optimizer = torch.optim.AdamW([*network.parameters(), centre], lr=2e-3, weight_decay=0.02)
    started, step, share = time.process_time(), 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, step / 100) * (1 - share) + 1e-5
        row = torch.randint(len(image), (128,))
        batch = image[row].float() / 127.5 - 1
        flip = torch.rand(len(row)) < 0.5
        batch[flip] = batch[flip].flip(3)
        shift = torch.randint(-3, 4, (2,)).tolist()
        batch = torch.roll(batch, (shift[0], shift[1]), (2, 3))
        cosine = functional.linear(
            functional.normalize(network(batch)), functional.normalize(centre)
        )
        margin = 0.2 * min(1.0, step / 500) * functional.one_hot(label[row], len(centre))
        loss = functional.cross_entropy(24 * (cosine - margin), label[row])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        share = (time.process_time() - started) / (60 * minutes)
    return network.eval()


@torch.no_grad()
def embed(network: nn.Module, image: Tensor) -> Floats:
    """Flip-summed embeddings (N, 128) of uint8 images (N, 3, H, W)."""
    batches = [image[at : at + 256].float() / 127.5 - 1 for at in range(0, len(image), 256)]
    return torch.cat([network(b) + network(b.flip(3)) for b in batches]).double().numpy()


def planes(image: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) -> (N, 3, H, W)."""
    return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()


def probe(folder: Path, config: SyntheticConfig, minutes: float) -> dict[str, float]:
    """Render into `folder` and measure."""
    write_synthetic(folder, config)
    others = {"first_identity": config.num_identities, "num_identities": 240}
    path = write_pairs(folder / "pairs.bin", config.model_copy(update=others), 1200)
    data, pairs = FaceDataset.open(folder), VerificationSet.open(path)
    test = range(2 * pairs.num_pairs)
    small = np.stack([data.decode(i, 32) for i in range(data.num_images)])
    small_test = pixels(np.stack([pairs.decode(i, 32) for i in test]))
    result = {"raw": accuracy(small_test - small_test.mean(axis=0), pairs)}
    train = pixels(small)
    for num_pca in (50, 150, 300):
        probed = linear_probe(train, data.label, small_test, num_pca)
        result[f"pca{num_pca}_lda"] = accuracy(probed, pairs)
    image = planes(np.stack([data.decode(i, 48) for i in range(data.num_images)]))
    image_test = planes(np.stack([pairs.decode(i, 48) for i in test]))
    label = torch.from_numpy(data.label)
    result["network"] = accuracy(embed(train_network(image, label, minutes), image_test), pairs)
    shuffled = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    chance = train_network(image, shuffled, minutes / 2)
    result["network_on_shuffled_labels"] = accuracy(embed(chance, image_test), pairs)
    return result


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--identities", type=int, default=400)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = SyntheticConfig(
        num_identities=arguments.identities, min_images=arguments.images,
        max_images=arguments.images, difficulty=arguments.difficulty,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = probe(Path(folder), config, arguments.minutes)
    write_report(result, arguments.json)


if __name__ == "__main__":
    main()

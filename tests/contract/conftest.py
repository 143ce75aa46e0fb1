"""The command line in this process; a tiny set of rendered faces and a recipe for it."""

from pathlib import Path

import pytest
from helpers.cli import Call
from helpers.networks import untrained

from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic

RECIPE = """
seed: 1
data: {{path: {faces}, workers: 0}}
model: {{name: small, image_size: 32, embedding_size: 16, width: 4}}
head: {{scale: 16, cosine_margin: 0.1}}
optimizer: {{learning_rate: 0.1}}
train: {{batch_size: 12, epochs: 2, log_every: 4}}
embed: {{batch_size: 32, workers: 0}}
evaluate: {{bins: [{pairs}], batch_size: 32, workers: 1}}
"""


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight identities with six images each, and forty pairs of others, 32 pixels."""
    folder = tmp_path_factory.mktemp("faces")
    config = SyntheticConfig(num_identities=8, min_images=6, max_images=6, size=32)
    write_synthetic(folder, config, quiet=True)
    others = config.model_copy(update={"first_identity": 8, "num_identities": 20})
    write_pairs(folder / "pairs.bin", others, num_pairs=40, quiet=True)
    return folder


@pytest.fixture(scope="session")
def recipe(faces: Path) -> Path:
    """A recipe for `faces`."""
    path = faces / "recipe.yaml"
    path.write_text(RECIPE.format(faces=faces, pairs=faces / "pairs.bin"))
    return path


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """`facetrain` in this process."""
    return Call(capfd)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file."""
    return untrained(tmp_path_factory.mktemp("backbone"))

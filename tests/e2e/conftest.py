"""A finished run that cleaned its labels, made once for all tests that read it."""

from pathlib import Path

import pytest
from helpers.cleaned_run import EASY, NUM_CLASSES, PER_CLASS, RECIPE
from helpers.cli import command

from facetrain.data.synthetic import SyntheticConfig, write_pairs, write_synthetic


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 identities with eight passport photographs each, a fifth of them under others' labels."""
    folder = tmp_path_factory.mktemp("clean")
    faces, noise = folder / "faces", folder / "noise"
    config = SyntheticConfig(
        num_identities=NUM_CLASSES, min_images=PER_CLASS, max_images=PER_CLASS, size=32, **EASY
    )
    write_synthetic(faces, config, quiet=True)
    others = config.model_copy(update={"first_identity": NUM_CLASSES})
    write_pairs(faces / "pairs.bin", others, num_pairs=40, quiet=True)
    command("corrupt", faces, "--flip", 0.2, "--out", noise)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(faces=faces, noise=noise))
    return path


@pytest.fixture(scope="session")
def finished(recipe: Path) -> Path:
    out = recipe.parent / "finished"
    command("run", recipe, "--out", out)
    return out

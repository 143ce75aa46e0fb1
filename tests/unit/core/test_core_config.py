from pathlib import Path

import pytest
from pydantic import Field

from facetrain.core.config import Config, Paths, config_digest, load_config
from facetrain.core.errors import ConfigError


class Inner(Config):
    learning_rate: float = Field(0.1, gt=0)
    milestones: tuple[int, ...] = ()


class Outer(Config):
    seed: int
    optimizer: Inner = Inner()
    extra: Inner | None = None
    bins: Paths = ()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_values_arrive_typed(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3\noptimizer: {learning_rate: 1e-3, milestones: [4, 8]}\n")
    config = load_config(Outer, path)
    assert config.optimizer == Inner(learning_rate=0.001, milestones=(4, 8))


@pytest.mark.parametrize(
    ("override", "bins"),
    [
        ("bins=a.bin", ("a.bin",)),
        ("bins=a.bin,b.bin", ("a.bin", "b.bin")),
        ("bins=[a.bin, b.bin]", ("a.bin", "b.bin")),
        ("bins=", ()),
    ],
)
def test_a_path_list_needs_no_brackets(
    tmp_path: Path, override: str, bins: tuple[str, ...]
) -> None:
    config = load_config(Outer, write(tmp_path, "seed: 3"), [override])
    assert config.bins == tuple(map(Path, bins))


def test_overrides_reach_nested_keys_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3")
    overrides = ["optimizer.learning_rate=1", "extra.learning_rate=2", "seed=4", "seed=5"]
    config = load_config(Outer, path, overrides)
    assert (config.seed, config.optimizer.learning_rate) == (5, 1.0)
    assert config.extra == Inner(learning_rate=2.0)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("seed: 1\nsede: 2", (), "unknown key 'sede'; did you mean 'seed'?"),
        ("seed: 1\noptimizer: {learnin_rate: 1}", (), "did you mean 'learning_rate'?"),
        ("seed: 1\nextra: {zzz: 1}", (), "known keys: learning_rate, milestones"),
        ("optimizer: {}", (), "'seed' is required"),
        ("seed: one", (), "seed='one'"),
        ("seed: '1'", (), "seed='1'"),
        ("seed: 1", ("optimizer.learning_rate=-1",), "optimizer.learning_rate=-1"),
        ("seed: 1", ("optimizer.learning_rate",), "must look like key.subkey=value"),
        ("seed: 1", ("seed.x=1",), "is a value, not a section"),
        ("- 1", (), "must be a mapping"),
        ("a: [", (), "must be YAML"),
        ("seed: 2020-01-01", (), "must hold plain values"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, text: str, overrides: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path, overrides)
    assert message in str(caught.value)
    if not overrides:
        assert str(path) in str(caught.value)


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, write(tmp_path, "sed: 1\nbin: 2"))
    assert len(str(caught.value).splitlines()) == 3  # two unknown keys and the missing seed


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: must be a YAML recipe"):
        load_config(Outer, Path("nowhere.yaml"))


def test_digest_follows_the_values() -> None:
    assert config_digest(Outer(seed=1)) == config_digest(Outer(seed=1, optimizer=Inner()))
    assert config_digest(Outer(seed=1)) != config_digest(Outer(seed=2))

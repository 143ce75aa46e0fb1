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
        ("seed: 2020-01-01", (), "should be a valid integer"),
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


def test_a_mistake_in_python_is_told_as_in_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        Inner(learning_rate=0, milstones=(4,))  # type: ignore[call-arg]
    assert str(raised.value).splitlines() == [
        "Inner: learning_rate=0: Input should be greater than 0",
        "Inner: unknown key 'milstones'; did you mean 'milestones'?",
    ]
    path = write(tmp_path, "seed: 3\noptimizer: {learning_rate: 0}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: optimizer\.learning_rate=0: Input"):
        load_config(Outer, path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: must be a YAML recipe"):
        load_config(Outer, Path("nowhere.yaml"))


def test_digest_follows_the_values() -> None:
    assert config_digest(Outer(seed=1)) == config_digest(Outer(seed=1, optimizer=Inner()))
    assert config_digest(Outer(seed=1)) != config_digest(Outer(seed=2))


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", ".001", "0.001"])
def test_numbers_as_users_write_them(tmp_path: Path, text: str) -> None:
    config = load_config(Outer, write(tmp_path, f"seed: -3\noptimizer: {{learning_rate: {text}}}"))
    assert (config.seed, config.optimizer.learning_rate) == (-3, 0.001)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases must not unfold"),
        ("seed: &a [*a]", "aliases must not unfold"),
        (MERGES, "aliases must not unfold"),
        ("a: &a {seed: 1}\n<<: *a", "unknown key '<<'"),
        ("seed: " + 50_000 * "[", "nested too deep|expected the node"),
        ("x: " * 100_000, "at most 262,144 characters"),
        ("seed: 1\nseed: 2", "the key 'seed' must come once"),
        (
            "seed: 1\noptimizer: {learning_rate: 1, learning_rate: 2}",
            "'learning_rate' must come once",
        ),
        ("seed: 1:2:3", "seed='1:2:3'"),
        ("seed: 010", "seed='010'"),
        ("seed: 0x10", "seed='0x10'"),
        ("seed: 2024-01-01", "seed='2024-01-01'"),
        ("seed: !!timestamp 2024-01-01", "recipe.yaml: seed: must hold plain values, got a date"),
        ("seed: !!int x", "must be YAML; a value"),
        ("seed: !!float x", "must be YAML; a value"),
        ("seed: !!binary aGk=", "must hold plain values, got a bytes"),
        ("seed: !!set {a}", "must hold plain values, got a set"),
        ("seed: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (
            "seed: 9223372036854775808",
            "yaml: seed: whole numbers must be below 2.63, got one of 64 bits",
        ),
        (f"seed: {5000 * '9'}", "must be YAML; a value"),
        ("1: 2", "keys must be text, got 1"),
        ("[1]: 2", "must be YAML"),
        ("seed: 1\noptimizer: {learning_rate: .inf}", "should be a finite number"),
        ("seed: 1\noptimizer: {learning_rate: .nan}", "should be a finite number"),
        ("seed: \x00", "special characters are not allowed"),
    ],
)
def test_yaml_that_means_mischief_or_nothing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_config(Outer, write(tmp_path, text))
    assert "recipe.yaml" in str(error.value)
    assert len(str(error.value)) < 6000


def test_a_base_is_overridden_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    lowest = "seed: 1\nbins: [a.bin]\noptimizer: {learning_rate: 2, milestones: [3]}\n"
    (tmp_path / "shared" / "lowest.yaml").write_text(lowest)
    (tmp_path / "shared" / "middle.yaml").write_text(
        "base: lowest.yaml\nextra: {learning_rate: 5}\n"
    )
    path = write(
        tmp_path, "base: shared/middle.yaml\noptimizer: {learning_rate: 4}\nbins: [b.bin]\n"
    )
    config = load_config(Outer, path, ["extra.milestones=[7]"])
    assert config == Outer(
        seed=1,
        bins=(Path("b.bin"),),
        optimizer=Inner(learning_rate=4, milestones=(3,)),
        extra=Inner(learning_rate=5, milestones=(7,)),
    )
    (tmp_path / "shared" / "lowest.yaml").write_text("base: ../recipe.yaml\nseed: 1\n")
    with pytest.raises(
        ConfigError, match=r"lowest.yaml|recipe.yaml: .*must not be based on itself"
    ):
        load_config(Outer, path)
    with pytest.raises(
        ConfigError, match=r"none.yaml: must be a YAML recipe, but there is no such"
    ):
        load_config(Outer, write(tmp_path, "base: none.yaml"))
    with pytest.raises(ConfigError, match=r"base must be the path of a recipe, got \['a'\]"):
        load_config(Outer, write(tmp_path, "base: [a]"))

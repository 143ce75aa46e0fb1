"""A recipe's text as plain data: YAML, without the silent conversions of YAML 1.1.

Numbers are decimal: `1e-3` is one, `1:2:3` (sixty seconds to a minute), `0x10` and `010` are none.
Dates are text, `<<` merges nothing. A key that comes twice, aliases that unfold without end and
nesting beyond reason are errors. A recipe may say `base: other.yaml`, and then holds what is
different.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from facetrain.core.errors import ConfigError

_MOST_CHARACTERS = 1 << 18
_MOST_VALUES = 100_000
_MOST_INTEGER = 1 << 63
_TAG = "tag:yaml.org,2002:"
BASE = "base"


class _Loader(yaml.SafeLoader):
    """SafeLoader with plain numbers, no dates, and keys that come once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[:60]!r} must come once", node.start_mark
            )
        return super().construct_mapping(node, deep)


_NOT_TAKEN = ("int", "float", "timestamp", "merge")
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].removeprefix(_TAG) not in _NOT_TAKEN]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in (
    ("int", r"^[-+]?(0|[1-9][0-9]*)$"),
    (
        "float",
        r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$",
    ),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern), list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Plain data: mappings, lists, text, numbers, booleans and nothing.

    Raises:
        ConfigError: no YAML, or one that holds anything else, a key twice, or too much.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(
            f"{where}: must have at most {_MOST_CHARACTERS:,} characters, got {len(text):,}"
        )
    try:
        data = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError(f"{where}: must be YAML, but is nested too deep") from None
    except Exception as error:  # a constructor of PyYAML may raise anything on a bad value
        reason = (
            str(error)
            if isinstance(error, yaml.YAMLError)
            else f"a value is not what it is marked as ({error!s:.80})"
        )
        raise ConfigError(f"{where}: must be YAML; {reason}") from None
    _check_plain(data, where)
    return data


def _check_plain(data: Any, where: str) -> None:
    waiting, seen = [(where, data)], 0
    while waiting:
        place, value = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ConfigError(
                f"{where}: its aliases must not unfold to more than {_MOST_VALUES:,} values, or "
                "without end; write out what is meant"
            )
        if isinstance(value, dict):
            if odd := [key for key in value if not isinstance(key, str)]:
                raise ConfigError(f"{place}: keys must be text, got {odd[0]!r:.40}; quote it")
            # The nearest key alone: the whole way to each of many values could fill the memory.
            waiting.extend((f"{where}: {key[:60]}", one) for key, one in value.items())
        elif isinstance(value, list):
            waiting.extend((place, one) for one in value)
        elif isinstance(value, int) and abs(value) >= _MOST_INTEGER:
            raise ConfigError(
                f"{place}: whole numbers must be below 2^63, got one of {value.bit_length()} bits"
            )
        elif value is not None and not isinstance(value, str | int | float | bool):
            raise ConfigError(
                f"{place}: must hold plain values, got a {type(value).__name__}; quote it"
            )


def read_recipe(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The data of a recipe: its base's, overridden key by key, however deep.

    `base` is a path seen from the recipe's folder; a base may have one in turn.

    Args:
        above: the recipes that this one is the base of.

    Raises:
        ConfigError: a file that is missing, no YAML mapping, or based on itself.
    """
    if not path.is_file():  # also a link to itself, which `resolve` cannot follow
        raise ConfigError(f"{path}: must be a YAML recipe, but there is no such file")
    if path.resolve() in above:
        raise ConfigError(f"{path}: a recipe must not be based on itself; remove a `base`")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: must be a YAML recipe; {error}") from None
    data = parse_yaml(text, str(path))
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, got {data!r:.80}")
    base = data.pop(BASE, None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be the path of a recipe, got {base!r:.80}")
    return _overridden(read_recipe(path.parent / base, (*above, path.resolve())), data)


def _overridden(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in data if isinstance(base.get(key), dict) and isinstance(data[key], dict)}
    return base | {
        key: _overridden(base[key], value) if key in both else value for key, value in data.items()
    }

"""Strict YAML -> typed, frozen configuration.

Each room owns the `Config` classes of what it builds; a recipe composes them. An unknown key, a
wrong type or a missing value names the file, the key and the nearest valid key.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from facetrain.core.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration class: frozen, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _as_paths(value: Any) -> Any:
    """`a`, `a,b` and `[a, b]` all mean a list, so that one path needs no brackets on a shell."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return tuple(value) if isinstance(value, list) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_paths)]

ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number: YAML 1.1, unlike every user, wants `1.0e-3`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: must be YAML; {error}") from None


def _set_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: must look like key.subkey=value")
    node = data
    *parents, last = key.split(".")
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
    node[last] = _parse_yaml(text, f"override {override!r}")


def _valid_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Field names at `location` (the last part being the offending key) inside `model`."""
    for part in location[:-1]:
        annotation: Any = model.model_fields[str(part)].annotation
        candidates = [annotation, *get_args(annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    lines = []
    for item in error.errors():
        location = item["loc"]
        key = ".".join(str(part) for part in location) or "(top level)"
        if item["type"] == "extra_forbidden":
            known = _valid_keys(model, location)
            near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"{source}: unknown key {key!r}; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{source}: {key!r} is required and has no default; set it")
        else:
            came = item.get("input")
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: {key}={came!r}: {message}")
    return "\n".join(lines)


def parse_config(model: type[ConfigT], data: Any, source: str) -> ConfigT:
    """Validate plain data (from YAML or JSON) against `model`; `source` names it in errors.

    Raises:
        ConfigError: one line per problem.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: must be a mapping of keys to values, got {data!r:.80}")
    try:
        # Through JSON, because pydantic's strict mode then still takes lists for tuples and
        # strings for paths, and nothing else.
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, source)) from None
    except TypeError as error:
        raise ConfigError(f"{source}: must hold plain values; {error}") from None


def load_config(model: type[ConfigT], path: Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML recipe and apply `key.subkey=value` overrides in order.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, wrong type or missing value.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: must be a YAML recipe, but there is no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: must be a YAML recipe; {error}") from None
    data = _parse_yaml(text, str(path))
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, got {data!r:.80}")
    for override in overrides:
        _set_override(data, override)
    return parse_config(model, data, str(path))


def config_digest(config: Config) -> str:
    """SHA-256 (hex) of the configuration's canonical JSON: equal configs, equal digests."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

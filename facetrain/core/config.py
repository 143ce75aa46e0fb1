"""Strict YAML -> typed, frozen configuration.

Each room owns the `Config` classes of what it builds; a recipe composes them. An unknown key, a
wrong type or a missing value names the file, the key and the nearest valid key.
"""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from facetrain.core.errors import ConfigError
from facetrain.core.option_of import check_options
from facetrain.core.recipe_file import parse_yaml, read_recipe


class Config(BaseModel):
    """Base of every configuration class: frozen, and strict about keys, types and finite numbers.

    A field that counts only beside another is marked `Of` it, and refused without.

    A docstring below a field is its meaning, for `facetrain config`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def __init__(self, /, **values: Any) -> None:
        """Raises ConfigError, one line a problem, as a recipe does."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            name = type(self).__name__
            raise ConfigError(_explain(error, type(self), name)) from None

    # Tells pydantic that this only changes the error: sections are not built through it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _nothing_asked_in_vain(self) -> Self:
        check_options(self)
        return self


def _as_paths(value: Any) -> Any:
    """`a`, `a,b` and `[a, b]` all mean a list, so that one path needs no brackets on a shell."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    return tuple(value) if isinstance(value, list) else value


_PATHS_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_paths), WithJsonSchema(_PATHS_SCHEMA)]

ConfigT = TypeVar("ConfigT", bound=Config)


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
    node[last] = parse_yaml(text, f"override {override!r}")


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes that a field's type names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in sections(part)]


def _models_at(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The classes that the section at `location` inside `model` may be of."""
    models = [model]
    for part in location:
        fields = [one.model_fields[str(part)] for one in models if str(part) in one.model_fields]
        if fields:
            models = [inner for field in fields for inner in sections(field.annotation)]
        else:  # the number of an item, or the name that chooses one of several classes
            named = [
                one
                for one in models
                if "name" in one.model_fields
                and part in get_args(one.model_fields["name"].annotation)
            ]
            models = named or models
    return models


def _explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    lines = []
    for item in error.errors():
        location = item["loc"]
        key = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            models = _models_at(model, location[:-1])
            known = list(dict.fromkeys(name for one in models for name in one.model_fields))
            near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"{source}: unknown key {key!r}; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{source}: {key!r} is required and has no default; set it")
        elif item["type"] == "union_tag_not_found":
            fields = [one.model_fields["name"] for one in _models_at(model, location)]
            names = [str(name) for field in fields for name in get_args(field.annotation)]
            lines.append(f"{source}: {key} needs a name, one of {', '.join(names)}; set {key}.name")
        else:
            came = item.get("input")
            message = item["msg"].removeprefix("Value error, ")
            # What is wrong with a whole section names its keys by itself.
            where = key if isinstance(came, dict) else f"{key}={came!r:.80}"
            lines.append(": ".join(part for part in (source, where, message) if part))
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
    """Read a YAML recipe, with the one it is based on, and apply `key.subkey=value` in order.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, wrong type or missing value.
    """
    data = read_recipe(path)
    for override in overrides:
        _set_override(data, override)
    return parse_config(model, data, str(path))


def config_digest(config: Config) -> str:
    """SHA-256 (hex) of the configuration's canonical JSON: equal configs, equal digests."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

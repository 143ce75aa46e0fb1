"""What a configuration class takes: every key with its type, default and meaning, and a schema."""

import enum
import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from facetrain.core.config import Paths, sections

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_BOUNDS = {
    "ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}",
    "multiple_of": "a multiple of {}",
}  # fmt: skip


class Key(NamedTuple):
    """One key of a recipe."""

    name: str  # with the sections that it is in, `train.batch_size`
    kind: str  # what it takes, in words; `section` for a section
    default: str  # as YAML; `required` where there is none
    meaning: str  # one paragraph


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of `model`, the sections' own below them."""
    for name, field in model.model_fields.items():
        inner = sections(field.annotation)
        listed = get_origin(field.annotation) is tuple
        meaning = " ".join((field.description or "").split())
        if not meaning and inner:
            meaning = (inner[0].__doc__ or "").partition("\n")[0]
        kind = "list of sections" if listed else "section"
        yield Key(prefix + name, kind if inner else _kind(field), _default(field), meaning)
        for one in inner:
            below = f"{prefix}{name}{'[]' if listed else ''}."
            for key in keys(one, below):
                if len(inner) > 1 and key.name != f"{below}name":
                    key = key._replace(kind=f"{key.kind}; of {_chooses(one)}")
                if key.name != f"{below}name" or one is inner[0]:
                    yield key._replace(kind=_choices(inner)) if key.name == f"{below}name" else key


def _chooses(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["name"].annotation)[0])


def _choices(models: Sequence[type[BaseModel]]) -> str:
    names = [n for one in models for n in get_args(one.model_fields["name"].annotation)]
    return " or ".join(map(str, names)) if names else "text"


def _kind(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    if field.annotation == get_args(Paths)[0] and field.metadata:
        return "path or list of paths"
    bounds = [
        words.format(getattr(bound, name))
        for bound in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return " ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in parts if part is not type(None))
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {_words(parts[0])}s"
    if origin is tuple:
        return f"list of {len(parts)} {_words(parts[0])}s"
    if hasattr(annotation, "__metadata__"):
        return _words(parts[0])
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(str(one.value) for one in annotation)
    return _WORDS.get(annotation, "value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""  # its keys have theirs
    return "none" if value is None else json.dumps(value, default=str).replace('"', "")


def as_text(rows: Sequence[Key]) -> str:
    """For a terminal: a line a key, its meaning below it."""
    lines = []
    for key in rows:
        default = f" = {key.default}" if key.default else ""
        lines.append(f"{key.name}{default}    ({key.kind})")
        if key.meaning:
            lines.append(f"    {key.meaning}")
    return "\n".join(lines)


def as_markdown(rows: Sequence[Key]) -> str:
    """A heading and a table for each section of the first level."""
    parts: list[str] = []
    section = None
    for key in rows:
        first = key.name.partition(".")[0].removesuffix("[]")
        if first != section:
            section = first
            parts += ["", f"## {first}", "| key | takes | default | meaning |", "|---|---|---|---|"]
        cells = (f"`{key.name}`", key.kind, key.default, key.meaning)
        parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(parts)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON schema for editors. Nothing is required in it, for a `base` may hold the rest."""
    schema = model.model_json_schema()
    waiting: list[Any] = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            value.pop("required", None)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    meaning = "A recipe that this one is based on, seen from its folder."
    schema["properties"]["base"] = {"type": "string", "description": meaning}
    return schema

"""What `facetrain config` says is what a recipe takes, and what the pages hold."""

import json
from pathlib import Path

import pytest
import yaml
from helpers.cli import Call

from facetrain.core.config_reference import keys
from facetrain.core.recipe_file import parse_yaml
from facetrain.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("form", "page"), [("markdown", "recipe.md"), ("schema", "recipe.schema.json")]
)
def test_the_pages_are_what_the_command_prints(call: Call, form: str, page: str) -> None:
    stdout = call.done("config", "--format", form)
    said = f"write it again: facetrain config --format {form} > docs/{page}"
    assert stdout == (DOCS / page).read_text(encoding="utf-8"), said


def test_one_section_and_one_key(call: Call) -> None:
    stdout = call.done("config", "train.batch_size")
    assert stdout.splitlines()[0] == "train.batch_size = 128    (whole number from 2 to 1048576)"
    _, stdout, _ = call("config", "finetune.meta")
    assert "finetune.meta.path = required" in stdout
    assert "train." not in stdout


def test_every_key_has_a_meaning() -> None:
    assert [key.name for key in keys(Recipe) if not key.meaning] == []


def _defaults(model: type) -> dict[str, object]:
    return json.loads(model(**NEEDED).model_dump_json())


NEEDED = {"data": {"path": "shards"}, "model": {"name": "small"}, "train": {"epochs": 1}}


def test_the_defaults_are_those_of_a_recipe() -> None:
    """Every key of a recipe's dump is listed, with the value that it has there."""
    listed = {key.name: key.default for key in keys(Recipe)}

    def check(data: dict[str, object], prefix: str) -> None:
        for name, value in data.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict):
                check(value, f"{key}.")
            elif listed[key] != "required":
                default = listed[key]
                assert yaml.safe_load("null" if default == "none" else default) == value, key

    check(_defaults(Recipe), "")


def test_the_schema_holds_every_shipped_recipe() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((DOCS / "recipe.schema.json").read_text())
    for path in sorted((DOCS.parent / "configs").glob("*.yaml")):
        jsonschema.validate(parse_yaml(path.read_text(), path.name), schema)
    with pytest.raises(jsonschema.ValidationError, match="trian"):
        jsonschema.validate({"trian": {}}, schema)
    jsonschema.validate({"base": "other.yaml", "train": {"epochs": 3}}, schema)

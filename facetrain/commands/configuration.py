"""The command `config`: what a recipe may say."""

import difflib
import json

import click

from facetrain.commands.options import print_result

_PAGE = """# Recipes

A recipe is one YAML file; `facetrain config [SECTION]` prints what stands here. Any key can be set after it on the command line: `facetrain run recipe.yaml --out DIR train.epochs=20 data.path=[a,b]`. An unknown key, a key that comes twice or a value of another type is an error that names the nearest key. So is an option that counts only beside another (`schedule.gamma` with `multistep`, `model.centres` with `model.weights`) where that is not so; one that is written as off (`augment.erase_probability=0`) keeps what belongs to it. Numbers are decimal (`1e-3` is one), dates are text.

A recipe may begin with `base: other.yaml`, a path seen from its own folder. It then holds what is different: sections are overridden key by key, lists and values as a whole.

For completion and checks in an editor, let it know the [schema](recipe.schema.json) in the first line: `# yaml-language-server: $schema=recipe.schema.json`.

This page is written by `facetrain config --format markdown`, the schema by `facetrain config --format schema`.
"""  # noqa: E501


@click.command(short_help="Every key of a recipe: type, default, meaning.")
@click.argument("section", required=False)
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown", "schema"]), default="text",
    show_default=True, help="For a terminal, as a page, or as a JSON schema for editors.",
)  # fmt: skip
def config(section: str | None, form: str) -> None:
    """Print every key of a recipe with its default, what it takes and what it means.

    SECTION is a section or a key, as in train or train.batch_size.
    """
    from facetrain.core.config_reference import as_markdown, as_text, json_schema, keys
    from facetrain.core.errors import ConfigError
    from facetrain.recipe import Recipe

    if form == "schema":
        print_result(json.dumps(json_schema(Recipe), indent=1, sort_keys=True))
        return
    every = list(keys(Recipe))
    chosen = [
        key
        for key in every
        if section is None
        or key.name == section
        or key.name.startswith((f"{section}.", f"{section}["))
    ]
    if not chosen:
        near = difflib.get_close_matches(str(section), [key.name for key in every], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "without it every key is printed"
        raise ConfigError(f"config {section}: must be a section or a key of a recipe; {hint}")
    print_result(as_text(chosen) if form == "text" else _PAGE + as_markdown(chosen))

"""What the commands share: the job of this process, the options of a stage, what is printed."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # importing torch takes seconds; `--help` must not
    from facetrain.dist.mesh import Mesh

ReadablePath = click.Path(path_type=Path)


@contextlib.contextmanager
def job() -> Iterator["Mesh"]:
    """The mesh of this process among those torchrun started, left cleanly."""
    from facetrain.core.log import configure_logging
    from facetrain.dist.mesh import Mesh

    mesh = Mesh.from_env()
    configure_logging(is_main=mesh.is_main)
    try:
        yield mesh
    finally:
        mesh.close()


def recipe_options(function: Any) -> Any:
    """CONFIG --out DIR [key=value ...]: what every stage command takes."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    function = click.option(
        "--out", required=True, type=ReadablePath, help="Folder that receives everything."
    )(function)
    return click.argument("config", type=ReadablePath)(function)


def value_lines(numbers: Mapping[str, Any]) -> str:
    """`name: value` lines of the plain values in a mapping."""
    return "\n".join(
        f"{name}: {value}" for name, value in numbers.items() if not isinstance(value, Mapping)
    )


def say(text: str, mesh: "Mesh | None" = None) -> None:
    """Print a result, once for all ranks."""
    if text and (mesh is None or mesh.is_main):
        click.echo(text)

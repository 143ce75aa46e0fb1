"""What the commands share: the job of this process, the options of a stage, what is printed."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facetrain.core.text import printable_lines

if TYPE_CHECKING:  # importing torch takes seconds; `--help` must not
    from facetrain.dist.mesh import Mesh
    from facetrain.models.weights import BackboneSource

ReadablePath = click.Path(path_type=Path)


@contextlib.contextmanager
def job() -> Iterator["Mesh"]:
    """The mesh of this process among those torchrun started, left cleanly."""
    from facetrain.core.log import configure_logging
    from facetrain.core.threads import use_usable_cores
    from facetrain.dist.mesh import Mesh

    use_usable_cores()
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


def alignment_options(function: Any) -> Any:
    """--landmarks, --detector, --faces: where the faces are in images that are not aligned yet."""
    function = click.option(
        "--faces",
        type=click.Choice(["largest", "centred", "all", "skip"]),
        default="largest",
        show_default=True,
        help="Of several that --detector finds: the largest near the centre, the nearest to it, "
        "every one, or leave the image out.",
    )(function)
    function = click.option(
        "--detector", type=ReadablePath, metavar="F.onnx", help="YuNet: finds and aligns the faces."
    )(function)
    return click.option(
        "--landmarks",
        type=ReadablePath,
        help="CSV path,x1,y1,...,x5,y5: aligns to ArcFace's points.",
    )(function)


def backbone_options(show_default: str | None = None) -> Callable[[Any], Any]:
    """--backbone B, and how its images are given, for `backbone_source`."""

    def decorate(function: Any) -> Any:
        function = click.option(
            "--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True,
            help="Colours that B was trained on.",
        )(function)  # fmt: skip
        function = click.option(
            "--input-range", type=click.Choice(["-1,1", "0,1", "0,255"]),
            show_default="-1,1; of an .onnx what its graph begins with",
            help="What B takes black and white pixels as.",
        )(function)  # fmt: skip
        return click.option(
            "--backbone", type=ReadablePath, show_default=show_default or False, metavar="B",
            help="Folder of a training, .safetensors, .pth or .onnx.",
        )(function)  # fmt: skip

    return decorate


def backbone_source(
    backbone: Path | None, input_range: str | None, channel_order: str
) -> "BackboneSource | None":
    """The backbone that the options of `backbone_options` name, if any.

    Raises:
        ConfigError: how a backbone is fed, but none.
    """
    from facetrain.core.errors import ConfigError
    from facetrain.models.input_format import RANGES, BackboneFile, InputFormat

    if input_range is None and channel_order == "rgb":
        return backbone
    if backbone is None:
        raise ConfigError(
            "--input-range and --channel-order say how a backbone is fed; give --backbone B too"
        )
    given = InputFormat(RANGES[input_range] if input_range else None, channel_order)  # type: ignore[arg-type]
    return BackboneFile(backbone, given)


def value_lines(numbers: Mapping[str, Any]) -> str:
    """`name: value` lines of the plain values in a mapping."""
    return "\n".join(
        f"{name}: {value}" for name, value in numbers.items() if not isinstance(value, Mapping)
    )


def refuse_input(option: str, out: Path | None, suffixes: Sequence[str], *more: Path) -> None:
    """Return if a file to be written is none that this command reads, or that a stage left.

    A result may lie in a folder that is read, and be written there again: it is known by its
    suffix.

    Args:
        option: what `out` was given as.
        suffixes: of such results.
        more: files that are read, beside those that the command line names.

    Raises:
        ConfigError: it would be replaced.
    """
    from facetrain.core.artifact import read_artifact
    from facetrain.core.errors import ConfigError, DataError
    from facetrain.core.run_folder import CLASSES_FILE, MANIFEST_FILE
    from facetrain.core.text import printable

    if out is None or not os.path.isfile(out):  # of a name that is too long Path's own raises
        return
    of_a_stage = {CLASSES_FILE, MANIFEST_FILE}
    with contextlib.suppress(DataError):  # another program's manifest, perhaps
        if artifact := read_artifact(out.parent):
            of_a_stage.update(artifact.manifest["files"])
    parameters = click.get_current_context().params.items()
    named = [value if isinstance(value, tuple) else (value,) for key, value in parameters
             if key != "out"]  # fmt: skip
    read = [one for values in (*named, more) for one in values if isinstance(one, Path)]
    result = out.suffix.lower() in suffixes
    if out.name in of_a_stage or any(
        path.samefile(out)
        if path.is_file()
        else path.is_dir() and not result and out.resolve().is_relative_to(path.resolve())
        for path in read
        if path is not out
    ):
        raise ConfigError(
            f"{option} {printable(out)}: must be a file of its own, but this one is read, or part "
            "of a set or a stage, and would be lost; give another name"
        )


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write what `--json` asks for; what a killed command left half-written goes."""
    from facetrain.core.artifact import write_json
    from facetrain.core.lock import file_lock

    with file_lock(path):
        write_json(path, numbers)


def print_result(text: str, mesh: "Mesh | None" = None) -> None:
    """Print a result, once for all ranks."""
    if text and (mesh is None or mesh.is_main):
        click.echo(printable_lines(text))

"""Commands on data sets: pack, inspect, corrupt."""

from pathlib import Path
from typing import Any

import click

from facetrain.commands.options import (
    ReadablePath,
    alignment_options,
    print_result,
    refuse_input,
    value_lines,
    write_numbers,
)


@click.command(short_help="Images -> RecordIO shards.")
@click.argument("source", type=ReadablePath)
@click.argument("out", type=ReadablePath)
@click.option("--size", default=112, show_default=True, help="Edge of the stored images, pixels.")
@click.option("--shards", default=1, show_default=True, help="Number of .rec files.")
@alignment_options
@click.option(
    "--pairs", type=ReadablePath, metavar="LIST", help="Write these pairs of SOURCE as OUT.bin."
)
@click.option(
    "--templates",
    type=click.Choice(["ijbb", "ijbc"]),
    help="Write SOURCE as templates and pairs in IJB's layout.",
)
@click.option(
    "--workers", default=0, type=click.IntRange(0, 256), help="Processes; 0 means one a core."
)
def pack(
    source: Path, out: Path, shards: int, pairs: Path | None, templates: Any, **options: Any
) -> None:
    """Pack SOURCE (a folder per identity, a .lst or a .tar) into RecordIO shards in OUT.

    Every file of SOURCE is packed or named in OUT: in skipped.txt, or, if it is no image, in
    ignored.txt. --detector writes what it finds to OUT/landmarks.csv, for --landmarks. With
    --pairs LIST (lines `path path 0|1`, or LFW's pairs.txt) OUT is a verification set, F.bin;
    with --templates a benchmark of templates, for `evaluate --ijb OUT`.
    """
    from facetrain.core.errors import ConfigError
    from facetrain.core.log import configure_logging
    from facetrain.data.evaluation.pack_pairs import pack_pairs
    from facetrain.data.evaluation.pack_templates import pack_templates
    from facetrain.data.packing.pack import pack as run_pack
    from facetrain.data.packing.pack_image import PackOptions

    configure_logging()
    how = PackOptions(**{**options, "workers": options["workers"] or None})
    if pairs is None and templates is None:
        print_result(value_lines(run_pack(source, out, how, shards).metrics))
        return
    if shards != 1:
        raise ConfigError("--shards is for shards; with --pairs and --templates OUT has none")
    if pairs is not None and templates is not None:
        raise ConfigError("--pairs and --templates are two kinds of benchmark; give one")
    if templates is not None:
        print_result(value_lines(pack_templates(source, out, templates, how)))
    else:
        assert pairs is not None
        print_result(value_lines(pack_pairs(source, out, pairs, how)))


@click.command(short_help="What a data set holds, and what cannot be read.")
@click.argument("data", type=ReadablePath)
@click.option("--json", "json_path", type=ReadablePath, help="Write the numbers here.")
@click.option("--sheet", type=ReadablePath, help="Draw faces here (.png, .jpg), a row an identity.")
def inspect(data: Path, json_path: Path | None, sheet: Path | None) -> None:
    """Count DATA (a .rec file or a folder of shards) and name every record that cannot be read."""
    from facetrain.data.contact_sheet import write_contact_sheet
    from facetrain.data.inspection import inspect as run_inspect

    refuse_input("--json", json_path, (".json",))
    refuse_input("--sheet", sheet, (".png", ".jpg", ".jpeg"))
    numbers = run_inspect(data)
    if json_path:
        write_numbers(json_path, numbers)
    if sheet:
        write_contact_sheet(data, sheet)
    print_result(value_lines(numbers))


@click.command(short_help="Pose, occlusion, blur and group of every image.")
@click.argument("data", type=ReadablePath)
@click.option("--out", type=ReadablePath, help="The .npz.", show_default="variation.npz in DATA")
@click.option("--landmarks", type=ReadablePath, help="CSV image,x1,y1,...,x5,y5: pose by PnP.")
@click.option("--attributes", type=ReadablePath, help="CSV image,<factor>,...: any factors.")
@click.option(
    "--list", "listing", type=ReadablePath, help="The .lst of DATA, for names in those CSVs."
)
@click.option("--blur", is_flag=True, help="Judge blur by the variance of the Laplacian.")
def variations(
    data: Path,
    out: Path | None,
    landmarks: Path | None,
    attributes: Path | None,
    listing: Path | None,
    blur: bool,
) -> None:
    """Write the variation labels of DATA, which `finetune` learns margins across.

    Rendered faces carry exact labels and need no option. In a CSV, `image` is the image's number
    in DATA from 0, or its name with --list; what is not in it is unknown.
    """
    from facetrain.data.variation.build import build_variations

    refuse_input("--out", out, (".npz",))
    found = build_variations(
        data, out, landmarks=landmarks, attributes=attributes, listing=listing, blur=blur
    )
    print_result(value_lines(found))


@click.command(short_help="Plant known noise, with its truth.")
@click.argument("data", type=ReadablePath)
@click.option("--flip", default=0.0, help="Share of images given to other identities, at random.")
@click.option("--outlier", default=0.0, help="Share of images of identities that are held out.")
@click.option(
    "--structured", default=0.0, help="Share given so that one or two people make a class's noise."
)
@click.option("--shuffle", is_flag=True, help="Shuffle all labels: the control of a training.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=ReadablePath, help="An .npz, or a folder for it.")
def corrupt(data: Path, out: Path, **rates: Any) -> None:
    """Plant noise into the labels of DATA (a .rec file, a folder of shards, or features .npz).

    A data set gets a label overlay and truth.npz (is_clean, true_label) beside it; features get
    features with is_clean and true_label. Each class has a noise rate of its own. DATA itself
    stays as it is.
    """
    from facetrain.core.config import parse_config
    from facetrain.data.noise.corrupt import corrupt as run_corrupt
    from facetrain.data.noise.plant import NoiseConfig

    print_result(value_lines(run_corrupt(data, out, parse_config(NoiseConfig, rates, "corrupt"))))

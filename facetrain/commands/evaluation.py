"""The command `evaluate`: which sets, with which options, and what is left and said."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facetrain.commands.options import (
    ReadablePath,
    backbone_options,
    backbone_source,
    job,
    print_result,
    refuse_input,
    write_numbers,
)

if TYPE_CHECKING:  # importing torch takes seconds; `--help` must not
    from facetrain.dist.mesh import Mesh
    from facetrain.evaluate.evaluate import EvaluateConfig
    from facetrain.models.weights import BackboneSource

_FOLDERS = {
    "lfw": "LFW's folder (a person each)",
    "cfp_ff": "CFP's images, frontal-frontal",
    "cfp_fp": "CFP's images, frontal-profile",
    "agedb30": "AgeDB's images, the 30-year protocol",
    "calfw": "CALFW's images",
    "cplfw": "CPLFW's images",
    "list": "Images of --pairs, any list of pairs",
}
_OPTIONS = {kind: f"--{kind.replace('_', '-')}" for kind in _FOLDERS} | {"list": "--images"}


def _folder_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--lfw DIR, --cfp-ff DIR, ...: the official folders, and --images DIR for any other."""
    for kind, text in reversed(_FOLDERS.items()):
        function = click.option(
            _OPTIONS[kind], kind, type=ReadablePath, metavar="DIR", help=f"{text}."
        )(function)
    return function


@click.command(short_help="Backbone + verification sets -> numbers.")
@click.argument("config", required=False, type=ReadablePath)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@backbone_options()
@click.option("--bin", "bins", multiple=True, type=ReadablePath, help="InsightFace .bin set.")
@_folder_options
@click.option(
    "--pairs", type=ReadablePath, help="Pair list of the folder (CFP: the folder Protocol)."
)
@click.option("--landmarks", type=ReadablePath, help="CSV path,x1,y1,...,x5,y5 to align it by.")
@click.option("--embeddings", type=ReadablePath, help=".npz embedding, path: in place of images.")
@click.option("--gallery", type=ReadablePath, metavar="DIR", help="1:N: a folder a person, known.")
@click.option("--probe", type=ReadablePath, metavar="DIR", help="1:N: a folder a person, searched.")
@click.option("--rfw", type=ReadablePath, metavar="DIR", help="RFW: data/ and txts/, four groups.")
@click.option("--folds", type=click.IntRange(2), help="Folds of the accuracy; default 10.")
@click.option("--ijb", type=ReadablePath, metavar="DIR", help="IJB-B or IJB-C: 1:1 and 1:N.")
@click.option("--protocol", type=click.Choice(["ijbb", "ijbc"]), help="Of --ijb; default ijbc.")
@click.option("--features", type=ReadablePath, help=".npy (N, D) in place of --ijb's images.")
@click.option("--norm-weighting/--no-norm-weighting", default=None, help="Of --ijb; default on.")
@click.option("--detector-score/--no-detector-score", default=None, help="Of --ijb; default on.")
@click.option("--flip/--no-flip", default=None, help="Add the mirrored image; default on.")
@click.option("--attributes", type=ReadablePath, help="CSV image,attribute,...: by subgroup.")
@click.option("--out", type=ReadablePath, help="Folder for the numbers, distances and pictures.")
@click.option("--json", "json_path", type=ReadablePath, help="Write the numbers here.")
def evaluate(
    config: Path | None,
    overrides: Sequence[str],
    backbone: Path | None,
    input_range: str | None,
    channel_order: str,
    out: Path | None,
    json_path: Path | None,
    embeddings: Path | None,
    gallery: Path | None,
    probe: Path | None,
    **options: Any,
) -> None:
    """Verify BACKBONE (ours, arcface_torch's .pth or an .onnx) on pairs of faces, or on IJB.

    Either CONFIG, whose section evaluate names the sets, or options: --bin F.bin, a set's official
    folder (--lfw DIR --pairs pairs.txt), any folder with a list of pairs (--images DIR --pairs
    LIST), or --ijb DIR. With --out an interrupted evaluation continues; the same command without
    it leaves nothing but --json.

    Two more ways, by themselves: --gallery DIR --probe DIR searches every probe among the people
    of the gallery; --embeddings F.npz --pairs LIST scores embeddings of any origin.
    """
    from facetrain.dist.stage import job_lock
    from facetrain.report.tables import evaluation_text

    given = backbone_source(backbone, input_range, channel_order)
    refuse_input("--json", json_path, (".json",))
    with job() as mesh:
        if embeddings or gallery or probe:
            taken = ("pairs", "folds", "attributes") if embeddings else ("landmarks", "flip")
            settings = _plain_settings(config, overrides, out, options, taken)
            landmarks = options["landmarks"]
            if embeddings:
                numbers = _score(settings, embeddings, options["pairs"], given, gallery or probe)
            else:
                numbers = _identify(settings, given, gallery, probe, landmarks, mesh)
        else:
            settings = evaluate_settings(config, overrides, options)
            refuse_input("--json", json_path, (".json",), *settings.bins)
            with job_lock(out, mesh) if out else contextlib.nullcontext():  # its pictures too
                numbers = _evaluate(settings, given, out, mesh)
        if json_path and mesh.is_main:
            write_numbers(json_path, numbers)
        print_result(evaluation_text(numbers), mesh)


def _plain_settings(
    path: Path | None,
    overrides: Sequence[str],
    out: Path | None,
    options: Mapping[str, Any],
    taken: Sequence[str],
) -> "EvaluateConfig":
    """How to embed and count, for ways with images of their own; other options are refused."""
    from facetrain.core.errors import ConfigError
    from facetrain.evaluate.evaluate import EvaluateConfig
    from facetrain.recipe import load_recipe

    given = {name for name, value in {**options, "out": out}.items() if value not in (None, ())}
    if other := sorted(given - set(taken)):
        way = "--embeddings" if "pairs" in taken else "--gallery"
        names = {"bins": "--bin", **_OPTIONS}
        off = "no-" if options.get(other[0]) is False else ""
        came = names.get(other[0], f"--{off}{other[0].replace('_', '-')}")
        raise ConfigError(f"{way} is evaluated by itself, without {came}; leave it out")
    config = load_recipe(path, overrides).evaluate if path else EvaluateConfig()
    keys = {"num_folds": "folds", "flip": "flip", "attributes": "attributes"}
    changed = {key: options[name] for key, name in keys.items() if options[name] is not None}
    return config.model_copy(update=changed)


def _score(
    config: "EvaluateConfig",
    embeddings: Path,
    pairs: Path | None,
    backbone: object,
    folder: Path | None,
) -> dict[str, Any]:
    from facetrain.core.errors import ConfigError
    from facetrain.evaluate.embedded_pairs import evaluate_embeddings

    if pairs is None or backbone or folder:
        raise ConfigError(
            "--embeddings F.npz needs --pairs LIST and neither --backbone nor --gallery and --probe"
        )
    return evaluate_embeddings(config, embeddings, pairs)


def _identify(
    config: "EvaluateConfig",
    backbone: "BackboneSource | None",
    gallery: Path | None,
    probe: Path | None,
    landmarks: Path | None,
    mesh: "Mesh",
) -> dict[str, Any]:
    import tempfile

    from facetrain.core.errors import ConfigError
    from facetrain.engine.inference import open_backbone
    from facetrain.evaluate.galleries import evaluate_galleries

    if gallery is None or probe is None or backbone is None:
        raise ConfigError("1:N needs --gallery DIR, --probe DIR and --backbone B, all three")
    model = open_backbone(backbone, mesh.device)
    with tempfile.TemporaryDirectory() as scratch:
        files = (gallery, probe, landmarks, Path(scratch) / "source.tar")
        return evaluate_galleries(config, model, *files, mesh)


def evaluate_settings(
    path: Path | None, overrides: Sequence[str], options: Mapping[str, Any]
) -> "EvaluateConfig":
    """What to evaluate: the recipe's section, or the sets that options name instead of its own.

    Args:
        options: of the command, by name; None or empty where not given.

    Raises:
        ConfigError: no set at all, or options that do not go together.
    """
    from facetrain.core.errors import ConfigError
    from facetrain.data.evaluation.paired_faces import FolderSet, rfw_sets
    from facetrain.evaluate.evaluate import EvaluateConfig, name_sources
    from facetrain.recipe import load_recipe

    config = load_recipe(path, overrides).evaluate if path else EvaluateConfig()
    kinds = [kind for kind in _FOLDERS if options[kind]]
    own = {name: options[name] for name in ("pairs", "landmarks") if options[name]}
    if own and len(kinds) != 1:
        raise ConfigError(
            f"--pairs and --landmarks belong to one folder of images, got {len(kinds)}; give "
            f"exactly one of {', '.join(_OPTIONS.values())} with them"
        )
    folders = tuple(FolderSet(kind=kind, images=options[kind], **own) for kind in kinds)
    if options["rfw"]:
        folders += rfw_sets(options["rfw"])
    names = ("protocol", "features", "norm_weighting", "detector_score")
    of_ijb = {name: options[name] for name in names if options[name] is not None}
    both = {name: options[name] for name in ("flip", "attributes") if options[name] is not None}
    path_of_ijb = config.ijb.path
    if options["bins"] or folders or options["ijb"]:
        config = config.model_copy(update={"bins": tuple(options["bins"]), "folders": folders})
        path_of_ijb = options["ijb"]
    if of_ijb and path_of_ijb is None:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in of_ijb)
        raise ConfigError(f"{given}: of --ijb, which is not given; add --ijb DIR, or leave it out")
    ijb = config.ijb.model_copy(update={**of_ijb, **both, "path": path_of_ijb})
    folds = {"num_folds": options["folds"]} if options["folds"] is not None else {}
    config = config.model_copy(update={**both, **folds, "ijb": ijb})
    sources = name_sources(config)
    if not sources and ijb.path is None:
        raise ConfigError(
            "evaluate needs at least one verification set; add --bin F.bin, --lfw DIR or --ijb DIR"
        )
    if folds and not sources:
        raise ConfigError("--folds is of pairs, which IJB is not judged by; leave it out")
    if config.attributes is not None and sources and ijb.path is not None:
        raise ConfigError("--attributes describes the images of one set; evaluate IJB by itself")
    return config


def _evaluate(
    config: "EvaluateConfig", backbone: "BackboneSource | None", out: Path | None, mesh: "Mesh"
) -> dict[str, Any]:
    """Name -> numbers; with `out` as the stages `evaluate` there and `ijb` in a folder below."""
    from facetrain import pipeline
    from facetrain.core.errors import ConfigError
    from facetrain.engine.inference import open_backbone
    from facetrain.evaluate.evaluate import check_sets, evaluate_sets, name_sources
    from facetrain.evaluate.ijb import evaluate_ijb
    from facetrain.report.gallery import draw_run, draw_subgroups
    from facetrain.report.run import Run
    from facetrain.report.style import Gallery

    sources, ijb = name_sources(config), config.ijb
    if backbone is None and (sources or ijb.features is None):
        raise ConfigError("evaluate needs --backbone B: a train folder, .pth, .onnx or safetensors")
    check_sets(config)
    numbers: dict[str, Any] = {}
    model = open_backbone(backbone, mesh.device) if backbone and not out else None
    if sources and out and backbone:
        numbers |= pipeline.evaluate_stage(config, backbone, out, mesh).metrics
        if mesh.is_main:
            draw_run(Run(out))
    elif sources and model:
        numbers |= evaluate_sets(config, model, mesh, image_size=model.image_size)
    if ijb.path and out:
        numbers |= pipeline.ijb_stage(ijb, backbone, out / ijb.protocol, mesh).metrics
    elif ijb.path:
        numbers |= evaluate_ijb(ijb, model, mesh)
    if out and mesh.is_main:
        draw_subgroups(numbers, Gallery(out))
    return numbers

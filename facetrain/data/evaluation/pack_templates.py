"""Pack images, or embeddings, as a template benchmark that `evaluate --ijb` reads."""

from pathlib import Path
from typing import Any

from facetrain.core.errors import ConfigError
from facetrain.core.lock import folder_lock
from facetrain.core.npy_file import write_npy
from facetrain.core.run_folder import IGNORED_FILE, SKIPPED_FILE
from facetrain.data.evaluation.ijb_metadata import Protocol
from facetrain.data.evaluation.template_benchmark import LooseFace, write_template_benchmark
from facetrain.data.features import load_features
from facetrain.data.files.lists import write_list
from facetrain.data.images.align import ARCFACE_POINTS
from facetrain.data.packing.pack_image import PackOptions, Preparation
from facetrain.data.sources.list_images import list_images


def pack_templates(
    source: Path, out: Path, protocol: Protocol, options: PackOptions
) -> dict[str, Any]:
    """Write `source` as templates, pairs, galleries into `out`/IJBB or IJBC; return the counts.

    Images are cropped or aligned as `pack` does; what is not packed is named as there, in
    `out/skipped.txt` or `out/ignored.txt`. Of features, `out/features.npy` is written in place
    of images, for `evaluate --features`.

    Args:
        source: what `pack` takes; or a features `.npz`.
        protocol: whose file names, `ijbb` or `ijbc`.
        options: as of `pack`, but not all faces.

    Raises:
        DataError: a source that cannot be read, or too few people or images of them.
        ConfigError: an option that does not fit.
    """
    source, out = Path(source), Path(out)
    if options.faces == "all":
        raise ConfigError("faces=all: a photograph is of one subject; choose another")
    with folder_lock(out):
        if source.suffix == ".npz":
            if options.aligns:
                raise ConfigError(f"{source}: embeddings have no landmarks; leave the option out")
            features = load_features(source)
            packed = [LooseFace(one, None, ARCFACE_POINTS) for one in features.label.tolist()]
            write_template_benchmark(
                out,
                protocol,
                packed,
                beside=lambda order: write_npy(out / "features.npy", features.embedding[order]),
            )
            return _counts(packed)
        preparation, scratch = Preparation.of(options), out / ".source.tar"
        try:
            listing = list_images(source, scratch)
            tasks = preparation.tasks(listing.images, listing.around)
            points = ARCFACE_POINTS * options.size / 112
            packed, skipped = [], [*listing.refused]
            for task, result in preparation.prepare(tasks, out.name):
                if isinstance(result, str):
                    skipped.append((task.image.name, result))
                else:
                    subject = int(task.image.label[0])
                    packed.append(LooseFace(subject, result[0].encoded, points))
        finally:
            scratch.unlink(missing_ok=True)

        def name_the_rest(_: object) -> None:
            write_list(out / SKIPPED_FILE, skipped)
            write_list(out / IGNORED_FILE, listing.ignored)

        write_template_benchmark(out, protocol, packed, beside=name_the_rest)
        left_out = {"num_skipped": len(skipped), "num_ignored": len(listing.ignored)}
        return _counts(packed) | left_out


def _counts(faces: list[LooseFace]) -> dict[str, Any]:
    return {
        "num_images": len(faces),
        "num_identities": len({face.subject for face in faces}),
    }

"""The report's verification numbers: sets of pairs, and the IJB protocols."""

from collections.abc import Mapping
from typing import Any

from facetrain.report.comparison import compare
from facetrain.report.markup import note, source, table
from facetrain.report.run import Run
from facetrain.report.table import verification_rows

_CONVENTIONS = {
    "tar_at_far": "at most the FAR",
    "tar_at_far_nearest": "nearest point",
    "tar_at_far_interpolated": "interpolated",
}


def verification_section(run: Run) -> str:
    """Tables of every evaluation of the run."""
    parts = []
    pairs, ijb = compare(run.finished), compare(run.finished, "ijb")
    if pairs:
        parts.append(table(*verification_rows(pairs)))
        parts.append(
            note(
                "Accuracy: ten folds, each at the threshold the others chose; ± is the spread over "
                "the folds. TAR at the largest threshold whose false accepts stay within the FAR; "
                "“-”: too few pairs to say."
            )
        )
        parts.append(source(*(one.name for one in run.stages if one.kind == "evaluate")))
    if ijb:
        parts.append("<h3>IJB, 1:1</h3>" + table(*ijb_rows(ijb)))
        parts.append(
            note(
                "Template pairs. Published tables read the TAR at the nearest point of the ROC; "
                "“at most” never accepts more impostors than the FAR allows."
            )
        )
        searches = {name: one["identification"] for name, one in ijb.items()
                    if one.get("identification")}  # fmt: skip
        if searches:
            parts.append("<h3>IJB, 1:N</h3>" + table(*identification_rows(searches)))
            parts.append(
                note(
                    "Rank k: the share of searched people who are among the k most alike of the "
                    "gallery. TPIR at FPIR: found above a threshold that at most this share of "
                    "strangers passes."
                )
            )
        parts.append(source(*(one.name for one in run.stages if one.kind == "ijb")))
    return "".join(parts)


def ijb_rows(numbers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each protocol and reading of the ROC.

    Args:
        numbers: protocol -> its numbers, as the stage `ijb` leaves them.
    """
    first = next(iter(numbers.values()))
    fars = sorted(first["tar_at_far"], key=float)
    header = ["protocol", "TAR read", *(f"FAR {far}" for far in fars), "EER", "pairs", "templates"]
    rows = []
    for name, one in numbers.items():
        for key, convention in _CONVENTIONS.items():
            main = key == "tar_at_far"
            tars = [_share(one[key].get(far)) for far in fars]
            rest = [_share(one["eer"]), f"{one['num_pairs']:,}", f"{one['num_templates']:,}"]
            rows.append([name if main else "", convention, *tars, *(rest if main else [""] * 3)])
    return header, rows


def identification_rows(
    numbers: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each gallery of each protocol.

    Args:
        numbers: protocol -> gallery -> its numbers; `mean` is one of the galleries.
    """
    first = next(iter(next(iter(numbers.values())).values()))
    ranks = sorted((k for k in first if k.startswith("rank_")), key=lambda k: int(k[5:]))
    fpirs = sorted(first["tpir_at_fpir"], key=float, reverse=True)
    header = ["protocol, gallery", *(key.replace("_", " ") for key in ranks)]
    header += [f"TPIR at {fpir}" for fpir in fpirs]
    rows = [
        [f"{name}, {gallery}", *(_share(one[key]) for key in ranks),
         *(_share(one["tpir_at_fpir"][fpir]) for fpir in fpirs)]
        for name, galleries in numbers.items()
        for gallery, one in galleries.items()
    ]  # fmt: skip
    return header, rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

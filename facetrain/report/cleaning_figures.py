"""Figures of a cleaning: its probabilities, the noise of each class, and sheets of faces."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from facetrain.data.cleaned_set import Bools, CleanedSet, Ints
from facetrain.data.cleaning_result import Reason
from facetrain.metrics.calibration import Calibration
from facetrain.report.style import COLOURS, STYLE

CLEAN_COLOUR, NOISE_COLOUR = COLOURS[0], COLOURS[1]
RIGHT_COLOUR, WRONG_COLOUR = "#2f8a57", "#c4372b"
Image = NDArray[np.uint8]
_NUM_BINS = 25
_CELL, _FACE = 0.8, 0.76  # inches: a face with the space beside it, and without
_CAPTION, _HEAD, _MARGIN = 0.2, 0.24, 0.05  # inches above a face, above the sheet, around it
_GAP = 0.35  # cells between two columns of a sheet
NUM_ROWS, NUM_FACES = 8, 4  # of a sheet, at most


@mpl.rc_context(STYLE)
def clean_probability_figure(
    clean_probability: NDArray[Any], threshold: NDArray[Any], is_clean: Bools | None = None
) -> Figure:
    """How the clean probabilities are distributed, over the thresholds of the classes.

    Counts are logarithmic: nearly all images lie at the ends, and what matters lies between.

    Args:
        clean_probability: (N,) in [0, 1].
        threshold: (C,) in [0, 1]; NaN for a class that was not judged.
        is_clean: (N,) the truth, where it is known; then noise has a colour of its own.
    """
    bins = np.linspace(0, 1, _NUM_BINS + 1)
    groups = {"images": clean_probability}
    if is_clean is not None:
        groups = {"noise": clean_probability[~is_clean], "clean": clean_probability[is_clean]}
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    images, classes = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    images.hist(
        list(groups.values()),
        bins,
        color=[NOISE_COLOUR if name == "noise" else CLEAN_COLOUR for name in groups],
        label=[f"{name} ({len(values):,})" for name, values in groups.items()],
    )
    images.set(axisbelow=True, yscale="log", title="images by clean probability")
    if is_clean is not None:
        images.legend(loc="upper center")
    classes.hist(threshold[~np.isnan(threshold)], bins, color="#75736c")
    classes.set(axisbelow=True, title="classes by threshold", xlim=(0, 1))
    classes.set_xlabel("kept above the threshold of the class")
    return figure


@mpl.rc_context(STYLE)
def reliability_figure(found: Calibration) -> Figure:
    """The share of right labels over the clean probability (a reliability diagram)."""
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    shares, images = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    shares.plot([0, 1], [0, 1], color="#d9d8d4", linewidth=1.2, zorder=1)
    shares.plot(found.predicted, found.observed, "o-", color=CLEAN_COLOUR, markersize=5)
    title = f"expected calibration error {found.expected_error:.4f}"
    shares.set(title=title, ylabel="labels that are right")
    images.bar(found.predicted, found.num_images, width=0.03, color="#75736c")
    images.set(axisbelow=True, yscale="log", xlim=(-0.02, 1.02))
    images.set(title="images", xlabel="clean probability")
    return figure


@mpl.rc_context(STYLE)
def class_noise_figure(label: Ints, kept: Bools, is_clean: Bools) -> Figure:
    """The share of each class that was dropped over the share that is noise.

    Args:
        label: (N,) from 0 up.
        kept: (N,) what the cleaner keeps.
        is_clean: (N,) the truth.
    """
    size = np.bincount(label)
    present = size > 0
    dropped = np.bincount(label, ~kept, len(size))[present] / size[present]
    noise = np.bincount(label, ~is_clean, len(size))[present] / size[present]
    # Classes of one size have few shares; a circle grows with the classes on its place.
    (x, y), count = np.unique(np.stack([noise, dropped]), axis=1, return_counts=True)
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.subplots()
    end = max(float(x.max()), float(y.max()), 0.1) * 1.05
    axes.plot([0, end], [0, end], color="#d9d8d4", linewidth=1.2, zorder=1)
    axes.scatter(x, y, s=14 * count, color=CLEAN_COLOUR, alpha=0.45, linewidth=0, zorder=2)
    axes.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end), aspect="equal")
    axes.set(xlabel="noise in the class", ylabel="dropped from the class")
    error = float(np.abs(dropped - noise).mean())
    axes.set_title(f"{len(noise):,} classes, {100 * error:.1f} points apart on average")
    return figure


class Face(NamedTuple):
    """A face of a sheet."""

    image: int
    caption: str = ""
    frame: str = ""  # colour


class Sheet(NamedTuple):
    """Faces in columns; a row has some of them in each."""

    titles: Sequence[str]  # of the columns
    widths: Sequence[int]  # faces that a column has room for
    rows: Sequence[Sequence[Sequence[Face]]]


def sheet_figure(sheet: Sheet, decode: Callable[[int], Image]) -> Figure:
    """Draw a sheet; `decode` gives an image's pixels (H, W, 3) by its number."""
    starts = np.cumsum([0, *(width + _GAP for width in sheet.widths)])  # cells from the left
    width = _CELL * (starts[-1] - _GAP) + _MARGIN
    height = _HEAD + len(sheet.rows) * (_CELL + _CAPTION) + _MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches; axes for each face would take seconds
    axes.set_axis_off()
    for title, start in zip(sheet.titles, starts, strict=False):
        place = (_MARGIN + start * _CELL) / width
        figure.text(place, 1 - 0.12 / height, title, fontsize=9, fontweight="bold", va="center")
    for number, row in enumerate(sheet.rows):
        bottom = height - _HEAD - (number + 1) * (_CELL + _CAPTION)
        for faces, start in zip(row, starts, strict=False):
            for place, face in enumerate(faces):
                left = _MARGIN + (start + place) * _CELL
                box = (left, left + _FACE, bottom, bottom + _FACE)
                axes.imshow(decode(face.image), extent=box, aspect="auto")
                axes.text(left, bottom + _FACE + 2.5 / 72, face.caption, fontsize=7)
                if face.frame:
                    shape = Rectangle((left, bottom), _FACE, _FACE, fill=False)
                    axes.add_patch(shape).set(edgecolor=face.frame, linewidth=2.4)
    axes.set(xlim=(0, width), ylim=(0, height))
    return figure


def _frame(right: Bools | None, image: int) -> str:
    """Colour that says whether the cleaner is right about an image; "" where nobody knows."""
    return "" if right is None else RIGHT_COLOUR if right[image] else WRONG_COLOUR


class Faces:
    """Chooses what the sheets of a cleaning show."""

    def __init__(self, cleaned: CleanedSet) -> None:
        self.cleaned, self.probability = cleaned, cleaned.result.clean_probability
        self.label, self.class_ids = cleaned.dataset.label, cleaned.dataset.class_ids
        self._surest_first = np.lexsort((-self.probability, ~cleaned.result.kept, self.label))
        classes = np.arange(cleaned.dataset.num_classes + 1)
        self._start = np.searchsorted(self.label[self._surest_first], classes)

    def members(self, place: int) -> Ints:
        """All images of a class: the kept first, and of them the surest."""
        return self._surest_first[self._start[place] : self._start[place + 1]]

    def surest(self, place: int, number: int = NUM_FACES, note: str = "") -> list[Face]:
        """The kept images that show best who a class is, with its name above the first."""
        images = self.members(place)
        images = images[self.cleaned.result.kept[images]][:number].tolist()
        name = f"class {self.class_ids[place]}{note}"
        return [Face(image, "" if number else name) for number, image in enumerate(images)]

    def _one_of_each_class(self, images: Ints, *, by: NDArray[Any]) -> list[int]:
        """At most NUM_ROWS images, one of a class, spread from the least of `by` to the most."""
        images = images[np.argsort(by[images], kind="stable")]
        images = images[np.sort(np.unique(self.label[images], return_index=True)[1])]
        spread = np.linspace(0, len(images) - 1, min(NUM_ROWS, len(images))).round()
        return images[spread.astype(np.int64)].tolist()  # type: ignore[no-any-return]

    def wrong_labels(self) -> Sheet:
        """Images of another identity, the surest above: under the label given, and theirs."""
        result = self.cleaned.result
        wrong = np.flatnonzero((self.cleaned.suggested >= 0) & ~result.kept)
        right, rows = self.cleaned.is_right(self.cleaned.suggested), []
        for image in self._one_of_each_class(wrong, by=-result.suggested_probability):
            face = Face(image, f"p {result.suggested_probability[image]:.2f}", _frame(right, image))
            given, other = int(self.label[image]), int(self.cleaned.suggested[image])
            rows.append([[face], self.surest(given), self.surest(other)])
        titles = ("image", "labelled as", "belongs to")
        return Sheet(titles, (1, NUM_FACES, NUM_FACES), rows)

    def dropped(self) -> Sheet:
        """The classes that lost most: who they are, and what went, the surest first.

        Of the dropped a spread from the surest to the most doubtful is shown, since an error would
        be among the latter.
        """
        kept, is_clean = self.cleaned.result.kept, self.cleaned.is_clean
        is_noise = None if is_clean is None else ~is_clean
        names = self.cleaned.result.reason_names
        num_dropped = np.bincount(self.label, ~kept)
        order = np.argsort(-num_dropped, kind="stable")[:NUM_ROWS]
        rows = []
        for place in order[num_dropped[order] > 0].tolist():
            members = self.members(place)
            gone = members[~kept[members]][::-1]
            spread = np.linspace(0, len(gone) - 1, min(NUM_FACES + 2, len(gone))).round()
            faces = []
            for image in gone[spread.astype(np.int64)].tolist():
                reason = names[self.cleaned.result.reason[image]].split()[0]  # there is little room
                caption = f"{self.probability[image]:.2f} {reason}"
                faces.append(Face(image, caption, _frame(is_noise, image)))
            note = f": {len(gone)} of {len(members)} dropped"
            rows.append([self.surest(place, note=note), faces])
        return Sheet(("kept, the surest first", "dropped"), (NUM_FACES, NUM_FACES + 2), rows)

    def merges(self) -> Sheet:
        """Identities that seem to be one person, side by side, the largest first."""
        merge, size = self.cleaned.merge, np.diff(self._start)
        places = np.flatnonzero(merge >= 0)
        places = places[np.argsort(-size[places], kind="stable")][:NUM_ROWS]
        rows = [[self.surest(a), self.surest(int(merge[a]))] for a in places.tolist()]
        return Sheet(("identity", "the same person?"), (NUM_FACES, NUM_FACES), rows)

    def swaps(self) -> Sheet:
        """Pairs of images that each belong to the other's identity, beside both identities."""
        right, rows = self.cleaned.is_right(self.cleaned.suggested), []
        for pair in self.cleaned.swaps()[:NUM_ROWS].tolist():
            faces = []
            for image in pair:
                probability = self.cleaned.result.suggested_probability[image]
                faces.append([Face(image, f"p {probability:.2f}", _frame(right, image))])
            (one, other), number = self.label[pair].tolist(), NUM_FACES - 1
            rows.append([self.surest(one, number), *faces, self.surest(other, number)])
        titles = ("identity", "has", "has", "identity")
        return Sheet(titles, (NUM_FACES - 1, 1, 1, NUM_FACES - 1), rows)

    def hard(self) -> Sheet:
        """Hard images that were kept, the least probable above, beside their identity."""
        result, is_clean = self.cleaned.result, self.cleaned.is_clean
        hard = np.flatnonzero((result.reason == Reason.HARD) & result.kept)
        rows = []
        for image in self._one_of_each_class(hard, by=self.probability):
            face = Face(image, f"p {self.probability[image]:.2f}", _frame(is_clean, image))
            rows.append([[face], self.surest(int(self.label[image]), NUM_FACES + 1)])
        return Sheet(("hard, kept", "its identity"), (1, NUM_FACES + 1), rows)

    def sheets(self) -> Iterator[tuple[str, Sheet]]:
        """Name and content of every sheet that shows anything."""
        for choose in (self.wrong_labels, self.swaps, self.merges, self.dropped, self.hard):
            sheet = choose()
            if sheet.rows:
                yield choose.__name__, sheet

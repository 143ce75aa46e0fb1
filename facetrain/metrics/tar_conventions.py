"""TAR at FAR by the two other conventions in print: the nearest point of the ROC, and interpolated.

The same pairs give three values. `metrics.verification.tar_at_far` never accepts more impostors
than the FAR allows; published IJB tables take the nearest point, and some toolkits interpolate.
They differ where impostors are few: at FAR 1e-6 of 15.6 million impostor pairs, by up to one step
of 15 accepted impostors.
"""

import numpy as np
from numpy.typing import NDArray

from facetrain.metrics.verification import FAR_EXPONENTS


def tar_by_convention(
    genuine: NDArray[np.int64], impostor: NDArray[np.int64]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """(nearest, interpolated) TAR at FAR 1e-1 ... 1e-6.

    Nearest: TAR at the point of the ROC whose FAR is nearest to the wanted one; of equally near
    points the one with the higher FAR, of one FAR the highest TAR. The ROC is the one that
    scikit-learn draws by default, without the points inside straight runs. This is what
    arcface_torch and the published IJB tables print, whether or not there are enough impostor
    pairs to measure the FAR.

    Interpolated: on straight lines between the highest points at each FAR. Below one expected
    false accept it is a line from (0, TAR before the first impostor) and means little.

    Args:
        genuine: (points,) see `metrics.verification.roc_counts`.
        impostor: (points,). Without both kinds of pair every value is None.
    """
    names = [f"1e-{exponent}" for exponent in FAR_EXPONENTS]
    if not genuine[-1] or not impostor[-1]:
        return dict.fromkeys(names), dict.fromkeys(names)
    corner = np.ones(len(genuine), np.bool_)
    corner[1:-1] = (np.diff(genuine, 2) != 0) | (np.diff(impostor, 2) != 0)
    far = np.concatenate(([0], impostor[corner])) / impostor[-1]
    tar = np.concatenate(([0], genuine[corner])) / genuine[-1]
    # The highest point of each FAR is its last.
    highest = np.append(np.flatnonzero(np.diff(impostor)), len(impostor) - 1)
    every_far, highest_tar = impostor[highest] / impostor[-1], genuine[highest] / genuine[-1]
    if impostor[0] > 0:
        every_far, highest_tar = np.append(0, every_far), np.append(0, highest_tar)
    nearest: dict[str, float | None] = {}
    interpolated: dict[str, float | None] = {}
    for name in names:
        wanted = float(name)
        # Of equally near points the last: FAR never falls along the curve.
        point = len(far) - 1 - int(np.argmin(np.abs(far[::-1] - wanted)))
        nearest[name] = float(tar[point])
        interpolated[name] = float(np.interp(wanted, every_far, highest_tar))
    return nearest, interpolated

"""Clean a noisily labelled face-image set and train a face-recognition model on it.

`docs/python.md` shows the names below; each is imported when it is first asked for, so that
`import facetrain` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facetrain.api import clean_labels as clean_labels
    from facetrain.api import embed as embed
    from facetrain.api import knn_graph as knn_graph
    from facetrain.api import load_backbone as load_backbone
    from facetrain.api import plant_noise as plant_noise
    from facetrain.api import verification as verification
    from facetrain.data.cleaning_result import CleaningResult as CleaningResult
    from facetrain.data.dataset import FaceDataset as FaceDataset
    from facetrain.data.overlay import LabelOverlay as LabelOverlay
    from facetrain.heads.head_config import HeadConfig as HeadConfig
    from facetrain.heads.margin_head import MarginHead as MarginHead
    from facetrain.label_cleaner import LabelCleaner as LabelCleaner

__version__ = "0.2.0"

_HOME = {
    "CleaningResult": "facetrain.data.cleaning_result",
    "FaceDataset": "facetrain.data.dataset",
    "HeadConfig": "facetrain.heads.head_config",
    "LabelCleaner": "facetrain.label_cleaner",
    "LabelOverlay": "facetrain.data.overlay",
    "MarginHead": "facetrain.heads.margin_head",
    "clean_labels": "facetrain.api",
    "embed": "facetrain.api",
    "knn_graph": "facetrain.api",
    "load_backbone": "facetrain.api",
    "plant_noise": "facetrain.api",
    "verification": "facetrain.api",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facetrain' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

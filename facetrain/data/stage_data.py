"""Which data set a stage judged, kept in the stage's folder: `data.json`.

Paths below the run's folder are written relative to the stage's, so that a run may be moved.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facetrain.core.artifact import read_json, write_json
from facetrain.core.config import parse_config
from facetrain.data.dataset import DataConfig

DATA_FILE = "data.json"


def write_stage_data(folder: Path, data: DataConfig) -> None:
    """Note in a stage's folder the data set, with its overlays, that the stage is of."""
    folder = Path(os.path.abspath(folder))

    def stored(path: str) -> str:
        absolute = Path(os.path.abspath(path))
        inside = absolute.is_relative_to(folder.parent)
        return os.path.relpath(absolute, folder) if inside else str(absolute)

    section, file = _with_paths(data.model_dump(mode="json"), stored), folder / DATA_FILE
    if not file.is_file() or read_json(file) != section:  # a finished stage is left as it is
        write_json(file, section)


def read_stage_data(folder: Path) -> DataConfig | None:
    """The data set that the stage in `folder` is of; None where nothing was noted.

    Raises:
        DataError: the note cannot be read.
        ConfigError: it is no section `data`.
    """
    file = folder / DATA_FILE
    if not file.is_file():
        return None

    def found(path: str) -> str:
        return os.path.normpath(folder / path)

    return parse_config(DataConfig, _with_paths(read_json(file), found), str(file))


def _with_paths(section: Any, change: Callable[[str], str]) -> Any:
    """The section with its paths changed: `path` is one or several, `overlay` several."""
    if not isinstance(section, dict):
        return section
    changed: dict[str, Any] = {}
    for key in ("path", "overlay"):
        value = section.get(key)
        if isinstance(value, str):
            changed[key] = change(value)
        elif isinstance(value, list):
            changed[key] = [change(one) for one in value]
    return section | changed

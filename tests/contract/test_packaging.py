"""What is written twice must agree."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import facetrain

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def test_the_images_install_what_pyproject_says() -> None:
    for image in ("cpu", "cuda"):
        steps = (ROOT / "docker" / f"{image}.Dockerfile").read_text()
        assert "pip install --no-cache-dir '/src[onnx]'" in steps
        assert "requirements" not in steps  # a second list would go stale


def test_the_citation_names_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == facetrain.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert citation["authors"] == [{"name": author["name"]} for author in project["authors"]]


def test_the_workflow_runs_every_python_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    kinds = "Programming Language :: Python :: "
    taken = {one.removeprefix(kinds) for one in project["classifiers"] if one.startswith(kinds)}
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    job = workflow["jobs"]["check"]
    assert set(job["strategy"]["matrix"]["python"]) == taken - {"3"} == set(VERSIONS)
    commands = {step["run"] for step in job["steps"] if "run" in step}
    makes = re.findall(r"^make \w+", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert set(makes) <= commands  # CI and the script cannot part ways


def test_the_changelog_names_this_version() -> None:
    assert f"## {facetrain.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_says_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)

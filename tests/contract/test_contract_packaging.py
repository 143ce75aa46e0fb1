"""What is written twice must agree."""

import re
from pathlib import Path

import facetrain

ROOT = Path(__file__).parents[2]


def requirements(text: str) -> set[str]:
    return set(re.findall(r'^\s*"?([A-Za-z][\w.-]*>=[\d.]+[^",\n]*)"?,?$', text, re.MULTILINE))


def test_the_images_install_what_the_package_needs() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = requirements(project.split("dependencies = [")[1].split("]")[0])
    extra = project.split("onnx = [")[1].split("]")[0]
    dependencies |= set(re.findall(r'"([^"]+)"', extra))
    assert len(dependencies) == 15
    assert requirements((ROOT / "docker" / "requirements.txt").read_text()) == dependencies


def test_the_changelog_names_this_version() -> None:
    assert f"## {facetrain.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_says_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)

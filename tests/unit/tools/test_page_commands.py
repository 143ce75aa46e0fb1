"""Which commands the check of the pages reads from a page."""

from pathlib import Path

from tools.checks.commands import commands

PAGE = r"""# facetrain pack is no command here

Prose with `facetrain pack people data`.

```bash
WHERE="runs/mine"
facetrain run recipe.yaml --out $WHERE   # twenty minutes
$ facetrain report $WHERE
make demo
pip install facetrain
```

| what | command |
|---|---|
| a name | `facetrain finetune` |
| one | `facetrain export runs/mine --format pth --out b.pth`, then `facetrain clean --help` |
| a pipe | `facetrain config train \| head` |
| all | `facetrain --help` |

```
torchrun --nproc-per-node 8 -m facetrain train c.yaml --out $WHERE
```
"""


def test_commands_of_code_blocks_and_tables_in_their_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert list(commands(page)) == [
        "facetrain run recipe.yaml --out runs/mine",
        "facetrain report runs/mine",
        "facetrain demo --out demo",
        "facetrain export runs/mine --format pth --out b.pth",
        "facetrain clean --help",
        "facetrain config train",
        "facetrain --help",
        # A variable ends with its block.
        "torchrun --nproc-per-node 8 -m facetrain train c.yaml --out $WHERE",
    ]

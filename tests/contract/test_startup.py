"""What a command waits for before its first line: imports, in a process of their own."""

import subprocess
import sys

import pytest


def imported(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "left_out"),
    [
        (
            "from facetrain.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            {"torch", "numpy", "cv2", "yaml", "pydantic", "matplotlib"},
        ),
        # A second of torch's checkpoints and half a second of TensorBoard: taken when used.
        ("import facetrain.pipeline", {"torch.distributed.checkpoint", "tensorboard"}),
    ],
    ids=["help", "stages"],
)
def test_nothing_is_imported_before_it_is_used(statement: str, left_out: set[str]) -> None:
    modules = imported(statement)
    assert "facetrain" in modules
    assert not modules & left_out

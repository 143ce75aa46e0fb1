"""What the mesh makes of the environment."""

import pytest
import torch

from facetrain.core.errors import UserError
from facetrain.dist.mesh import LostRankError, Mesh, named_errors

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *MASTER):
        monkeypatch.delenv(name, raising=False)


def test_no_environment_is_a_single_process() -> None:
    mesh = Mesh.from_env("cpu")
    assert (mesh.rank, mesh.world_size, mesh.group, mesh.is_main) == (0, 1, None, True)
    assert mesh.device == torch.device("cpu")


def test_torchrun_of_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (TORCHRUN | {"WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    mesh = Mesh.from_env("cpu")
    assert (mesh.world_size, mesh.group) == (1, None)
    mesh.barrier()
    mesh.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LOCAL_RANK": None}, "lacks LOCAL_RANK; start with torchrun, or unset them"),
        ({"MASTER_PORT": None}, "lacks MASTER_PORT"),
        ({"RANK": "2"}, "0 <= LOCAL_RANK <= RANK < WORLD_SIZE must hold"),
        ({"LOCAL_RANK": "1"}, "0 <= LOCAL_RANK <= RANK < WORLD_SIZE must hold"),
        ({"WORLD_SIZE": "two"}, "must be integers"),
    ],
)
def test_contradictions_are_named(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], message: str
) -> None:
    for name, value in (TORCHRUN | MASTER | change).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Mesh.from_env("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is here")
def test_missing_cuda_is_named() -> None:
    with pytest.raises(UserError, match=r"local rank 0 finds 0; .*'cpu'"):
        Mesh.from_env("cuda")


def test_only_communication_errors_are_renamed() -> None:
    mesh = Mesh(rank=1, world_size=3, device=torch.device("cpu"))
    gloo = "[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
    with (
        pytest.raises(LostRankError, match=r"rank 1 of 3: step failed: .*Connection closed"),
        named_errors(mesh, "step"),
    ):
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), named_errors(mesh, "step"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

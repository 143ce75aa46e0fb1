"""Everything in this folder needs a CUDA device."""

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip without a device; otherwise float32 means float32, and cuDNN repeats itself."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and there is none")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

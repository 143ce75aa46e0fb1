"""Where mixed precision stops."""

import contextlib

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context without autocast on the device of `x`.

    The layers that make the embedding stay in float32, as in the field: angles between unit
    vectors are what is compared, and bfloat16 has 8 bits for them. Nothing is entered when
    autocast is off, which also keeps an exported graph free of it.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()

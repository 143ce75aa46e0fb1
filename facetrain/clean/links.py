"""Groups of things that pairs join."""

import numpy as np
import torch
from torch import Tensor


def linked_groups(num_things: int, first: Tensor, second: Tensor) -> Tensor:
    """The smallest member of each thing's group, (num_things,), by pairs (P,), (P,) of things."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = first.cpu().numpy(), second.cpu().numpy()
    links = coo_array((np.ones(len(first), np.bool_), pairs), (num_things, num_things))
    group = connected_components(links, directed=False)[1]
    smallest = np.unique(group, return_index=True)[1]
    return torch.from_numpy(smallest[group]).to(first.device)

"""One pool of ranks per world size for the whole session."""

from collections.abc import Iterator

import pytest
from helpers.ranks import Ranks


@pytest.fixture(scope="session")
def pools() -> Iterator[dict[int, Ranks]]:
    """World size -> ranks, for world sizes 1, 2 and 3."""
    pools = {world_size: Ranks(world_size) for world_size in (1, 2, 3)}
    yield pools
    for pool in pools.values():
        pool.close()


@pytest.fixture(params=[1, 2, 3], ids="world{}".format)
def ranks(request: pytest.FixtureRequest, pools: dict[int, Ranks]) -> Ranks:
    """Ranks at each world size in turn."""
    return pools[request.param]

"""A front door that has learnt what its backend offers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from proxy.backend.offers import Offers
from tests.support.front import Front


@contextlib.asynccontextmanager
async def known(front: Front) -> AsyncIterator[Offers]:
    """Within the block AUTH is offered; nothing of the question is left."""
    offers = Offers(front.backend)
    offers.tick()
    await front.until(lambda: bool(front.backend.auth_offered))
    await front.until(lambda: not front.fake.open_connections)
    yield offers
    offers.close()

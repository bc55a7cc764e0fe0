"""How long collectives take over the cluster's links."""

from __future__ import annotations

from ridgeline.simulator.collectives.network import (
    Network,
    collective_seconds,
    network,
    price_collectives,
    scaled,
)

__all__ = ["Network", "collective_seconds", "network", "price_collectives", "scaled"]

"""A made-up fleet: N endpoints with models drawn at random, for the servers that the benchmarks measure."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from xds_server.mesh.events import ConfigurationReplaced, ModelsReported, ModelState
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.model import Endpoint, EndpointId, Service, ServicePort
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY, OpenInference, Pool
from xds_server.mesh.routing import (
    Configuration,
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    Route,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOST = "modelmesh-serving"
PORT = 8033
SOURCE = "synthetic"
_NAME_LENGTH = 12
ONE_CLUSTER = PoolLayout(LayoutKind.SINGLE)
"""However many models there are: what is measured is one assignment of N endpoints, by name."""


class Fleet:
    """Endpoints by number, each with its models: `names[i]`.

    Args:
        endpoints: how many.
        each: models on every endpoint.
        models: how many models there are to draw from.
        seed: of the draws; equal seeds draw alike.
    """

    def __init__(self, endpoints: int, each: int, models: int, seed: int = 1) -> None:
        if each > models:
            raise ValueError(f"{each} models on each endpoint; there are {models} to draw from")
        self._random = random.Random(seed)
        self._each = each
        self._pool = [f"model-{number:0{_NAME_LENGTH - 6}}" for number in range(models)]
        self._states = {name: ModelState(name) for name in self._pool}
        self.addresses = [_address(number) for number in range(endpoints)]
        self.names = [self._draw() for _ in range(endpoints)]

    def churn(self, count: int) -> list[int]:
        """Redraw the models of `count` endpoints; returns their numbers."""
        chosen = self._random.sample(range(len(self.names)), min(count, len(self.names)))
        for number in chosen:
            self.names[number] = self._draw()
        return chosen

    def _draw(self) -> list[str]:
        return sorted(self._random.sample(self._pool, self._each))

    # As events for the mesh

    def configuration(self) -> ConfigurationReplaced:
        """One service, its pool and a gateway that every node may have."""
        endpoints = tuple(Endpoint(self._id(number), {"http": PORT}) for number in range(len(self.names)))
        route = Route("", (), (Destination(HOST, PORT),), (HeaderToKey("model", DEFAULT_SUBSET_KEY),))
        return ConfigurationReplaced(
            source=SOURCE,
            configuration=Configuration(
                services=(Service(HOST, "default", (ServicePort(PORT, "http"),)),),
                endpoints=endpoints,
                pools=(Pool("default/fleet", HOST, OpenInference(), layout=ONE_CLUSTER),),
                gateways=(Gateway("default/fleet", (GatewayServer(8008, "http"),)),),
                virtual_services=(VirtualService("default/fleet", ("*",), ("default/fleet",), (route,)),),
            ),
        )

    def reports(self, numbers: Iterable[int]) -> Iterator[ModelsReported]:
        """What these endpoints say that they hold, now."""
        now = time.time()
        for number in numbers:
            rows = tuple(self._states[name] for name in self.names[number])
            yield ModelsReported(endpoint=self._id(number), source=SOURCE, models=rows, at=now)

    def _id(self, number: int) -> EndpointId:
        return EndpointId(HOST, self.addresses[number], PORT)


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

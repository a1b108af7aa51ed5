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
        layout: of the pool; None: no pool at all.
        port: of every endpoint. Endpoints are loopback addresses where it is not the usual one.
        gateway: the port of its gateway.
        covering: each model is somewhere, as evenly as can be, so that there are `models` different ones.
    """

    def __init__(
        self,
        endpoints: int,
        each: int,
        models: int,
        seed: int = 1,
        *,
        layout: PoolLayout | None = ONE_CLUSTER,
        port: int = PORT,
        covering: bool = False,
        gateway: int = 8008,
    ) -> None:
        if each > models:
            raise ValueError(f"{each} models on each endpoint; there are {models} to draw from")
        self._random = random.Random(seed)
        self._each = each
        self._pool = [f"model-{number:0{_NAME_LENGTH - 6}}" for number in range(models)]
        self._states = {name: ModelState(name) for name in self._pool}
        self._layout = layout
        self._port = port
        self._gateway = gateway
        network = 10 if port == PORT else 127
        self.addresses = [_address(number, network) for number in range(endpoints)]
        self.names = self._cover(endpoints) if covering else [self._draw() for _ in range(endpoints)]
        self.toggled = 0
        """The endpoint that `toggle` was about."""

    def toggle(self, number: int) -> str:
        """Load a model on one more endpoint (odd numbers), or unload it there again; returns the model."""
        turn = (number + 1) // 2
        self.toggled = turn % len(self.names)
        held = self.names[self.toggled]
        if number % 2:
            others = (self._pool[(turn * 7919 + step) % len(self._pool)] for step in range(len(self._pool)))
            self._extra = next(model for model in others if model not in held)
            self.names[self.toggled] = sorted([*held, self._extra])
        else:
            self.names[self.toggled] = [model for model in held if model != self._extra]
        return self._extra

    def traffic(self, count: int) -> list[str]:
        """Models for live traffic: held somewhere, spread over the fleet."""
        step = max(1, len(self.names) // count)
        return sorted({names[0] for names in self.names[::step]})[:count]

    def _cover(self, endpoints: int) -> list[list[str]]:
        order = self._random.sample(self._pool, len(self._pool))
        found: list[list[str]] = []
        for number in range(endpoints):
            start = number * self._each
            found.append(sorted({order[(start + step) % len(order)] for step in range(self._each)}))
        return found

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
        endpoints = tuple(
            Endpoint(self._id(number), {"http": self._port}) for number in range(len(self.names))
        )
        pools = () if self._layout is None else (self._as_pool(self._layout),)
        route = Route("", (), (Destination(HOST, PORT),), (HeaderToKey("model", DEFAULT_SUBSET_KEY),))
        return ConfigurationReplaced(
            source=SOURCE,
            configuration=Configuration(
                services=(Service(HOST, "default", (ServicePort(PORT, "http"),)),),
                endpoints=endpoints,
                pools=pools,
                gateways=(Gateway("default/fleet", (GatewayServer(self._gateway, "http"),)),),
                virtual_services=(VirtualService("default/fleet", ("*",), ("default/fleet",), (route,)),),
            ),
        )

    def reports(self, numbers: Iterable[int]) -> Iterator[ModelsReported]:
        """What these endpoints say that they hold, now."""
        now = time.time()
        for number in numbers:
            rows = tuple(self._states[name] for name in self.names[number])
            yield ModelsReported(endpoint=self._id(number), source=SOURCE, models=rows, at=now)

    @staticmethod
    def _as_pool(layout: PoolLayout) -> Pool:
        return Pool("default/fleet", HOST, OpenInference(), layout=layout)

    def _id(self, number: int) -> EndpointId:
        return EndpointId(HOST, self.addresses[number], self._port)


def _address(number: int, network: int) -> str:
    number += network == 127  # not the address of everything else
    return f"{network}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

"""Readers on a shared file system, event by event: who waits for whom when many devices train from one store."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Storage:
    """What files come from.

    Attributes
    ----------
    servers : that files are spread over, each of which serves one request after the other.
    server_bytes_s : that each of them gives, in bytes per second.
    node_bytes_s : that one machine can take in, in bytes per second.
    latency_s : of a request, beside its transfer.
    """

    servers: int
    server_bytes_s: float
    node_bytes_s: float
    latency_s: float = 0.001


@dataclass(frozen=True)
class Training:
    """What reads them.

    Attributes
    ----------
    nodes, devices_a_node : machines and their devices, which make every step together.
    readers : processes that read ahead, for each device.
    clip_bytes : of what one read brings.
    prepare_s : that a reader computes for a clip, beside reading.
    clips_a_step : of each device.
    step_s : that the devices compute, and add up gradients, for a step.
    ahead : clips that wait for a device, or are being read for it, at most, for each reader.
    """

    nodes: int
    devices_a_node: int
    readers: int
    clip_bytes: float
    prepare_s: float
    clips_a_step: int
    step_s: float
    ahead: int = 2

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_a_node


@dataclass(frozen=True)
class Seen:
    """What a simulation showed, from the middle on.

    Attributes
    ----------
    clips_s : clips per second that all devices got through.
    devices_busy, servers_busy, nodes_busy, readers_busy : shares of the time that they worked.
    """

    clips_s: float
    devices_busy: float
    servers_busy: float
    nodes_busy: float
    readers_busy: float


class Queue:
    """Servers that each serve one after the other, in the order in which they are asked."""

    def __init__(self, servers: int) -> None:
        self.free_at = [0.0] * servers
        self.worked = 0.0

    def serve(self, now: float, server: int, seconds: float) -> float:
        """When a request that comes now, not before any other, is done."""
        self.free_at[server] = max(now, self.free_at[server]) + seconds
        self.worked += seconds
        return self.free_at[server]


def simulate(training: Training, storage: Storage, steps: int = 400, seed: int = 0) -> Seen:
    """Train for so many steps, readers asking a server at random for each clip (a session is one file on one server).

    Every reader asks, waits for server and network, prepares, hands its clip over, and asks again unless enough are ahead; a step begins
    when every device has its clips.
    """
    random, devices = Random(seed), training.devices
    servers, network = Queue(storage.servers), Queue(training.nodes)
    ready, on_the_way = [0] * devices, [0] * devices
    idle = [training.readers] * devices
    limit = max(training.clips_a_step, training.ahead * training.readers)
    transfer, arrival = training.clip_bytes / storage.server_bytes_s, training.clip_bytes / storage.node_bytes_s
    events: list[tuple[float, int, str, int]] = []
    order = done = 0
    now = begun = busy_until = 0.0
    worked_before = [0.0, 0.0]

    def later(when: float, what: str, device: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, what, device))

    def ask(device: int) -> None:
        while idle[device] and ready[device] + on_the_way[device] < limit:
            idle[device] -= 1
            on_the_way[device] += 1
            later(servers.serve(now, random.randrange(storage.servers), transfer), "sent", device)

    for device in range(devices):
        ask(device)
    while done < steps:
        now, _, what, device = heapq.heappop(events)
        if what == "sent":
            at_node = network.serve(now, device // training.devices_a_node, arrival)
            later(at_node + storage.latency_s + training.prepare_s, "ready", device)
        elif what == "ready":
            idle[device] += 1
            on_the_way[device] -= 1
            ready[device] += 1
            ask(device)
        else:
            done += 1
            if done == steps // 2:
                begun, worked_before = now, [servers.worked, network.worked]
        if what != "sent" and busy_until <= now and min(ready) >= training.clips_a_step:
            busy_until = now + training.step_s
            later(busy_until, "step", 0)
            for each in range(devices):
                ready[each] -= training.clips_a_step
                ask(each)
    seconds, counted = now - begun, steps - steps // 2
    clips_s = counted * training.clips_a_step * devices / seconds
    return Seen(
        clips_s,
        counted * training.step_s / seconds,
        (servers.worked - worked_before[0]) / seconds / storage.servers,
        (network.worked - worked_before[1]) / seconds / training.nodes,
        min(1.0, clips_s * (training.prepare_s + storage.latency_s + transfer + arrival) / (training.readers * devices)),
    )

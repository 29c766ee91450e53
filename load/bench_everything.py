"""A group with all that may stand beside it, against one with nothing: rows per second, and the live stream.

Everything is: an audit log that is encrypted, Kafka (Tansu, a broker that speaks its protocol, in memory),
the HTTP interface in two processes, and Redis, which they share. An audit log cannot be left out, so nothing
has one in clear.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.request import urlopen

import orjson
from websockets.asyncio.client import connect

from cluster.servers.kafka import KafkaServer
from cluster.servers.process import free_port
from cluster.servers.redis import NoRedis, RedisServer
from load.bench_bed import Bed, Line, Sizes, fill, percentile
from load.bench_ray import Plain, Running, arrived, running, write_through

CLIENTS = 100
NAMES = "everything on against off", f"stream to {CLIENTS} clients, p99"
RATIO_GOAL, STREAM_GOAL = 0.8, 200.0
ROUNDS = 3
"""The one in the middle counts: others use the machine, too."""
REPLICAS = 2
_SETTINGS = """\
audit: {{path: audit, key: {key}}}
kafka: {{brokers: ["{kafka}"]}}
redis: {{url: "{redis}"}}
api: {{port: {port}, replicas: {replicas}, rate: {{subject: 1000000, address: 1000000}}}}
"""
Records = list[tuple[int, int]]
"""Of the records in a message, row and commit time in microseconds."""
_RECORD = re.compile(rb'"_ts":([0-9]+),.*?"id":([0-9]+)')


def measure(bed: Bed, plain: Plain, sizes: Sizes) -> Iterator[Line]:
    """Both groups do the same work, one after the other; then the second one's stream."""
    up, first = plain.up(), plain.next_row
    off = _rates(up, first, sizes)
    plain.close()
    port = free_port()
    with ExitStack() as stack:
        try:
            redis = stack.enter_context(RedisServer(_folder(bed, "redis")))
        except NoRedis as error:
            yield from (Line(name, str(error)) for name in NAMES)
            return
        kafka = stack.enter_context(KafkaServer(_folder(bed, "kafka")))
        settings = _SETTINGS.format(
            key=secrets.token_hex(32), kafka=kafka.address, redis=redis.url, port=port, replicas=REPLICAS
        )
        up = stack.enter_context(running(bed, sizes, settings, "api_ready"))
        on = _rates(up, first, sizes)
        late = _published(port, sizes)
        ratio = on / off
        yield Line(
            NAMES[0],
            f"{on:,.0f} rows/s (off {off:,.0f})",
            f"{ratio:.2f}",
            f">= {RATIO_GOAL:.2f}",
            ratio >= RATIO_GOAL,
            f"Kafka has the last row {late:.1f} s after the target",
        )
        yield _stream(up, port, first + ROUNDS * sizes.rows, sizes)


def _rates(up: Running, first: int, sizes: Sizes) -> float:
    """Rows per second from the first insert until the target has all."""
    found = []
    for start in range(first, first + ROUNDS * sizes.rows, sizes.rows):
        began = time.perf_counter()
        fill(up.left, start, start + sizes.rows - 1)
        arrived(up.right, start, sizes.rows, sizes.patience)
        found.append(sizes.rows / (time.perf_counter() - began))
    return statistics.median(found)


def _published(port: int, sizes: Sizes) -> float:
    """Seconds until the broker has confirmed all that is on record."""
    began = time.monotonic()
    while True:
        with urlopen(f"http://127.0.0.1:{port}/sync/status", timeout=sizes.patience) as answer:
            kafka = orjson.loads(answer.read())["kafka"]
        if kafka["published"] >= ROUNDS * sizes.rows and not any(kafka["waiting"].values()):
            return time.monotonic() - began
        if time.monotonic() - began > sizes.patience:
            message = f"Kafka did not get all records: {kafka}"
            raise TimeoutError(message)
        time.sleep(0.1)


def _stream(up: Running, port: int, first: int, sizes: Sizes) -> Line:
    """From a commit at the source until each client has the record."""
    count = int(sizes.rate * sizes.seconds)
    ours, theirs = get_context("spawn").Pipe()
    address = f"ws://127.0.0.1:{port}/audit/stream?kind=change"
    clients = get_context("spawn").Process(target=listen, args=(address, CLIENTS, theirs))
    clients.start()
    theirs.close()  # so that the end of the clients is seen here
    try:
        while not ours.poll(0.2):  # every client has had a record: all of them listen
            write_through(up.left, up.right, first, 1, sizes)
            first += 1
        ours.recv()
        ours.send((first, count))
        write_through(up.left, up.right, first, count, sizes)
        if not ours.poll(sizes.patience):
            message = "the clients did not get all records"
            raise TimeoutError(message)
        delays, span = ours.recv()
    finally:
        clients.kill()
        clients.join()
    rate = count / span
    p50, p99 = (percentile(delays, share) for share in (0.5, 0.99))
    return Line(
        NAMES[1],
        f"{p99:,.0f} ms at {rate:,.0f} records/s",
        "",
        f"<= {STREAM_GOAL:.0f} ms",
        p99 <= STREAM_GOAL and rate >= 0.9 * sizes.rate,
        f"p50 {p50:,.0f} ms; {len(delays):,} records in all, through {REPLICAS} replicas",
    )


def listen(address: str, clients: int, answers: Connection) -> None:
    """Clients of the stream, in a process of their own.

    Sends once each has had a record; is told the first row and how many count then; sends the milliseconds
    from commit to each client, for every record, and seconds between the first commit and the last.
    """
    asyncio.run(_listen(address, clients, answers))


async def _listen(address: str, clients: int, answers: Connection) -> None:
    heard: list[list[tuple[float, Records]]] = [[] for _ in range(clients)]
    known: dict[bytes, Records] = {}  # most have the same: each is read once, or that were measured

    async def follow(number: int) -> None:
        # Compressed, a hundred clients on the same two cores would mostly measure zlib.
        async with connect(
            address, compression=None, max_size=None, open_timeout=None, ping_interval=None
        ) as socket:
            while True:
                message = await socket.recv(decode=False)
                now = time.time() * 1000
                if (records := known.get(message)) is None:
                    records = [(int(i), int(ts)) for ts, i in _RECORD.findall(message)]
                    known[message] = records
                heard[number].append((now, records))

    async def until(done: Callable[[], bool]) -> None:
        while not done():
            ended, _ = await asyncio.wait(tasks, timeout=0.2)
            for task in ended:
                task.result()

    tasks = [asyncio.ensure_future(follow(n)) for n in range(clients)]
    await until(lambda: all(heard))
    answers.send(None)
    first, count = await asyncio.to_thread(answers.recv)

    def counted(messages: list[tuple[float, Records]]) -> list[tuple[float, int]]:
        return [(now, ts) for now, records in messages for i, ts in records if i >= first]

    def arrived_everywhere() -> bool:
        return all(len(counted(messages)) >= count for messages in heard)  # ends at the first that lacks some

    await until(arrived_everywhere)
    delays = [now - ts / 1000 for messages in heard for now, ts in counted(messages)]
    times = [ts for _, ts in counted(heard[0])]
    answers.send((delays, (max(times) - min(times)) / 1e6 or 1.0))
    for task in tasks:
        task.cancel()


def _folder(bed: Bed, name: str) -> Path:
    path = bed.folder / name
    path.mkdir(exist_ok=True)
    return path

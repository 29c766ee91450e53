"""`python -m load.bench`: every figure of the budget in one run, on servers of its own."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from load import (
    bench_audit,
    bench_binlog,
    bench_copy,
    bench_everything,
    bench_flow,
    bench_mysql,
    bench_ray,
    bench_stages,
)
from load.bench_bed import Bed, Line, Sizes

QUICK = 10
DRAIN_GOAL = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Returns:
        the exit code: 0 when all were measured, whether or not they meet their goals.
    """
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--rows", type=int, help="rows of each throughput benchmark")
    parser.add_argument("--seconds", type=float, help="duration of the latency benchmark")
    parser.add_argument("--only", default="", help="only lines whose name contains this, and what they need")
    options = parser.parse_args(arguments)
    sizes = Sizes()
    if options.quick:
        sizes = replace(sizes, rows=sizes.rows // QUICK, batch=sizes.batch // QUICK, seconds=2.0)
    if options.rows:
        sizes = replace(sizes, rows=options.rows, batch=min(sizes.batch, options.rows))
    if options.seconds:
        sizes = replace(sizes, seconds=options.seconds)
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"{os.cpu_count()} cores, load average {load}; Python {platform.python_version()}; "
          f"{sizes.rows:,} rows of seven columns; servers on this machine")  # fmt: skip
    for line in measure(sizes, options.only):
        print(show(line), flush=True)
    print(f"load average at the end {', '.join(f'{n:.1f}' for n in os.getloadavg())}")
    return 0


def measure(sizes: Sizes, only: str) -> Iterator[Line]:
    """Every line, as soon as it is measured."""
    bare: dict[str, float] = {}
    with Bed() as bed, closing(bench_ray.Plain(bed, sizes)) as plain:
        stages = _stages(bed, plain, sizes, bare)
        wanted = [s for s in stages if any(only in name for name in s.names)]
        needed = {s.needs for s in wanted}
        for stage in stages:
            if stage in wanted or stage.gives in needed - {""}:
                yield from stage.run()


@dataclass(frozen=True, slots=True)
class Stage:
    """One or more lines that are measured together.

    Attributes:
        names: of its lines.
        run: measures them.
        gives: the engine whose bare rate it measures, or empty.
        needs: the engine whose bare rate bounds it, or empty.
    """

    names: tuple[str, ...]
    run: Callable[[], Iterable[Line]]
    gives: str = ""
    needs: str = ""


def _stages(bed: Bed, plain: bench_ray.Plain, sizes: Sizes, bare: dict[str, float]) -> list[Stage]:
    """Everything in the order of the report.

    Args:
        bed: the servers.
        plain: a group on Ray.
        sizes: how much each does.
        bare: filled while they run: the rows per second that an engine takes bare.
    """

    def apply() -> Iterable[Line]:
        line, bare["postgres"] = bench_stages.apply(bed, sizes)
        return [line]

    def mysql() -> Iterable[Line]:
        lines, bare["mysql"] = bench_mysql.measure(sizes)
        return lines

    def drain(way: str, needs: str = "", goal: float = 0.0) -> Stage:
        def run() -> Iterable[Line]:
            return bench_flow.drain(bed, sizes, bare.get(needs, 0.0), way, goal)

        return Stage((f"drain {way}", f"processor, {way}"), run, needs=needs)

    return [
        Stage(("capture",), lambda: [bench_stages.capture(bed, sizes)]),
        Stage(("apply",), apply, gives="postgres"),
        drain("postgres -> postgres", "postgres"),
        drain("postgres -> memory"),
        Stage(("initial copy",), lambda: [bench_flow.copy(bed, sizes, bare["postgres"])], needs="postgres"),
        Stage(bench_copy.NAMES, lambda: bench_copy.measure(bed, sizes)),
        Stage(("latency p50", "latency p99"), lambda: bench_flow.latency(bed, sizes)),
        Stage(("latency p50 on Ray", "latency p99 on Ray"), lambda: bench_ray.latency(plain, sizes)),
        Stage(bench_everything.NAMES, lambda: bench_everything.measure(bed, plain, sizes)),
        Stage(bench_ray.FAULTS, lambda: bench_ray.faults(bed, sizes)),
        Stage(("capture mysql", "apply mysql"), mysql, gives="mysql"),
        drain("postgres -> mysql", "mysql", DRAIN_GOAL),
        drain("mysql -> postgres", "postgres", DRAIN_GOAL),
        Stage(("capture binlog",), lambda: bench_binlog.measure(sizes)),
        Stage(("audit records",), lambda: bench_audit.measure(sizes)),
    ]


def show(line: Line) -> str:
    """One line of the report."""
    met = {True: "met", False: "NOT met", None: "-"}[line.met]
    return (
        f"{line.name:<32} {line.figure:<38} ratio {line.ratio or '-':<5} goal {line.goal or '-':<9} "
        f"{met:<8} {line.limit}"
    )


if __name__ == "__main__":
    sys.exit(main())

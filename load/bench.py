"""`python -m load.bench`: every figure of the budget in one run, on servers of its own."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from load import bench_binlog, bench_flow, bench_mysql, bench_stages
from load.bench_bed import Bed, Line, Sizes

QUICK = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks.

    Returns:
        the exit code: 0 when all were measured, whether or not they meet their goals.
    """
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--rows", type=int, help="rows of each throughput benchmark")
    parser.add_argument("--seconds", type=float, help="duration of the latency benchmark")
    parser.add_argument("--only", default="", help="only the benchmarks whose name contains this")
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
    bare = 0.0
    with Bed() as bed:
        if only in "capture":
            yield bench_stages.capture(bed, sizes)
        if only in "apply":
            line, bare = bench_stages.apply(bed, sizes)
            yield line
        rest: dict[str, Callable[[], list[Line]]] = {
            "drain postgres": lambda: bench_flow.drain(bed, sizes, bare),
            "drain memory": lambda: bench_flow.drain(bed, sizes, 0.0, "memory"),
            "copy": lambda: [bench_flow.copy(bed, sizes, bare)],
            "latency": lambda: bench_flow.latency(bed, sizes),
            "mysql": lambda: bench_mysql.measure(sizes),
            "binlog": lambda: bench_binlog.measure(sizes),
        }
        for name, run in rest.items():
            if only in name:
                yield from run()


def show(line: Line) -> str:
    """One line of the report."""
    met = {True: "met", False: "NOT met", None: "-"}[line.met]
    return (
        f"{line.name:<32} {line.figure:<38} ratio {line.ratio or '-':<5} goal {line.goal or '-':<9} "
        f"{met:<8} {line.limit}"
    )


if __name__ == "__main__":
    sys.exit(main())

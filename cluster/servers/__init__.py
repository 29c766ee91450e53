"""Real servers as ordinary processes, for the demo, the tests and the benchmarks."""

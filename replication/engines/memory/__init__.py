"""The in-memory engine: a database in one process, for tests and benchmarks."""

"""The demo: servers of its own, real rows, writers at both ends, and a verdict over every row."""

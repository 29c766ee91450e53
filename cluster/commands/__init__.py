"""The commands of `sync-worker`, one module each; see `cluster.cli`."""

"""The conflict core: the resolver shard as a pure state machine, and the policies."""

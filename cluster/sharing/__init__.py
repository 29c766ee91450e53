"""What the replicas of the HTTP interface have in common: in this process, in an actor, or in Redis."""

"""Configuration, topology, launch, supervision and the command line."""

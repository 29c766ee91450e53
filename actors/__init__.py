"""Thin shells around the domain: plain classes that `cluster.launch` turns into Ray actors."""

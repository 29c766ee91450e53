"""The HTTP interface. Nothing here yet: it joins with the audit and operations work."""

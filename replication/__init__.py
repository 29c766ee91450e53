"""The domain of Sync Worker: what a change is, who wins, what is written down.

Nothing in this package knows Ray, a web framework or, outside `engines`, a socket or a clock.
"""

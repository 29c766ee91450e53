"""MySQL 8.0 and later."""

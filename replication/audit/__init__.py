"""The audit log: every change, decision and conflict, durable before its position is released."""

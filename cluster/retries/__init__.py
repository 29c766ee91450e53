"""Where rows that are to be sent again wait: a file beside the audit log, or RabbitMQ."""

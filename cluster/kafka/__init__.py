"""Publishing to Kafka."""

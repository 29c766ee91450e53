"""The PostgreSQL engine: pgoutput in, COPY and upsert out."""

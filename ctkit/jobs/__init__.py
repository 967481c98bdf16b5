"""What crosses from logs to tables: plan, backfill, proof and audit."""

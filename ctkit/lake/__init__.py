"""Delta tables at rest: gaps in them, rows written to them, staging merged into main. Nothing here knows a log."""

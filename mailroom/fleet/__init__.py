"""What all processes share, in the database: permits, pauses, refusals on record. For the worker and the commands."""

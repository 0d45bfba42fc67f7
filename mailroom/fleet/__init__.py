"""What all processes share, in the database: permits, pauses, refusals on record, the SES account. For the worker."""

"""What all processes share: permits, pauses and the log of refusals."""

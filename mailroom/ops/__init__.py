"""What an operator asks and does: jobs, status, health, maintenance, rights, doctor. For commands and worker."""

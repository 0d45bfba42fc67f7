"""What an operator asks and does: jobs, status, health, maintenance, grants, the checks of doctor. For the commands."""

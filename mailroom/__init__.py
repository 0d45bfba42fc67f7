"""Account mail from PostgreSQL through Amazon SES."""

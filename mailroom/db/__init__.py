"""The connection, the tables, and what must hold of a database. For everybody who speaks to PostgreSQL."""

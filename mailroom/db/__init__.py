"""The connection, the tables, and what must hold of a database: for everybody who speaks to PostgreSQL."""

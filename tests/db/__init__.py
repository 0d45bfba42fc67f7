"""The connection, the schema, its triggers and its migrations, on real servers."""

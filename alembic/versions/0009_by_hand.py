"""What is set by hand is something that a worker can work with, and rows that must be there stay."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Tables of which each row must be there, and the trigger of each that keeps it so. Rows are restored into a schema that
# has these: whoever wants other ones, with `mailroom.triggers` off, may take them away for a moment.
KEPT = {
    "feed": "feed_stays",
    "permits": "permits_stay",
    "readings": "readings_stay",
    "ses_account": "ses_account_stays",
    "site": "site_stays",
}
# Migrations make no functions: `sql/` has them. Until the last migration this one stands in.
STUB = """
CREATE OR REPLACE FUNCTION rows_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'mailroom is not migrated to its end: run `mailroom migrate`';
END $$;
"""
STAYS = """
CREATE OR REPLACE TRIGGER {trigger} BEFORE DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT WHEN (coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean)
    EXECUTE FUNCTION rows_stay();
"""

# With what follows one transaction, which lasts as long as it takes, whatever a role sets.
UNHURRIED = """
SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout');
"""

# The blanks that Python knows and PostgreSQL may not: a worker cannot be given a queue with one in its name.
BLANKS = r"[\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
# Of each rule: its table, what it asks, and what brings rows that break it in order. NaN is more than infinity, so
# BETWEEN is true of neither. One is taken off the number of a job's token. What SES allows is multiplied: no rate is
# near the end of what a number can be. Of batches the lists are taken apart side by side, and become jobs. For a table
# one rule at most changes rows: it has to bring a row wholly in order.
RULES = {
    "permits_bucket": ("permits", "bucket IN ('mails', 'bulk_calls')", "DELETE FROM"),
    "permits_numbers": (
        "permits",
        "granted >= 0 AND level BETWEEN -1 AND 1e12 AND slowdown >= 0.01 AND long_held BETWEEN 0 AND 1e12",
        "SET granted = greatest(granted, 0), level = 0, slowdown = greatest(slowdown, 0.01), long_held = 0",
    ),
    "ses_account_numbers": (
        "ses_account",
        "granted_before >= 0 AND max_send_rate BETWEEN -1e12 AND 1e12 AND max_24_hour_send BETWEEN -1e12 AND 1e12"
        " AND sent_last_24_hours BETWEEN -1e12 AND 1e12",
        "SET granted_before = 0, fetched_at = NULL, max_send_rate = NULL, max_24_hour_send = NULL,"
        " sent_last_24_hours = NULL",
    ),
    "pauses_probes": ("pauses", "probes >= 0", "SET probes = 0"),
    "templates_languages_list": (
        "templates",
        "array_ndims(languages) = 1",
        "SET languages = ARRAY(SELECT unnest(languages))",
    ),
    "minutes_numbers": (
        "minutes",
        "priority BETWEEN 0 AND 3 AND mails >= 0 AND array_ndims(waits) = 1"
        " AND array_replace(waits, NULL, CAST(0 AS bigint)) = waits",
        "DELETE FROM",
    ),
    "jobs_token": ("jobs", "token > -9223372036854775808", "DELETE FROM"),
    "jobs_queue": ("jobs", f"queue !~ '{BLANKS}'", f"SET queue = regexp_replace(queue, '{BLANKS}', '_', 'g')"),
    "batches_values": (
        "batches",
        "priority BETWEEN 0 AND 3 AND array_ndims(tokens) = 1 AND -9223372036854775808 <> ALL (tokens)"
        " AND array_replace(tokens, NULL, CAST(0 AS bigint)) = tokens"
        " AND array_ndims(attempts) = 1 AND array_replace(attempts, NULL, CAST(0 AS smallint)) = attempts"
        " AND coalesce(cardinality(due_ats), 0) <= cardinality(tokens)",
        "SET priority = least(greatest(priority, 0), 3),"
        " tokens = ARRAY(SELECT coalesce(nullif(token, -9223372036854775808), 0) FROM unnest(tokens) AS token),"
        " attempts = array_replace(ARRAY(SELECT unnest(attempts)), NULL, CAST(0 AS smallint)), due_ats = NULL",
    ),
    "deliveries_priority": (
        "deliveries",
        "priority BETWEEN 0 AND 3",
        "SET priority = least(greatest(priority, 0), 3)",
    ),
}


def upgrade() -> None:
    for name, (table, rule, _) in RULES.items():
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID")
    home = '"' + str(op.get_context().version_table_schema).replace('"', '""').replace(":", r"\:") + '"'
    with op.get_context().autocommit_block():
        for name, (table, rule, mend) in RULES.items():
            begin = f"{mend} {home}.{table}" if mend == "DELETE FROM" else f"UPDATE {home}.{table} {mend}"
            op.execute(f"{UNHURRIED} {begin} WHERE NOT ({rule})")
            op.execute(f"{UNHURRIED} ALTER TABLE {home}.{table} VALIDATE CONSTRAINT {name}")
    op.execute(STUB)
    for table, trigger in KEPT.items():
        op.execute(STAYS.format(table=table, trigger=trigger))


def downgrade() -> None:
    for name, (table, _, _) in RULES.items():
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for table, trigger in KEPT.items():
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute("DROP FUNCTION rows_stay()")

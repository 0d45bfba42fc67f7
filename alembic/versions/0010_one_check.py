"""Whatever a row must be is one call: PostgreSQL reads and plans each CHECK anew for each statement."""

from dataclasses import dataclass

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# With what follows one transaction, which lasts as long as it takes, whatever a role sets.
UNHURRIED = """
SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout');
"""

BLANKS = r"[\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


@dataclass(frozen=True)
class Check:
    """The rules of a table, by the names that they had as constraints, and still have in errors.

    `usual` is true of nearly every row, and of none that breaks a rule: what is in a statement of its own is not made
    ready before it is needed. `path`: the function calls others of ours, and goes by their schema, whoever calls it.
    """

    function: str
    given: str
    rules: dict[str, str]
    usual: str = "false"
    path: bool = False

    def sql(self, table: str) -> str:
        """The function. Its operators are PostgreSQL's own."""
        cases = "\n        ".join(f"WHEN ({rule}) IS FALSE THEN '{name}'" for name, rule in self.rules.items())
        return rf"""
CREATE OR REPLACE FUNCTION {self.function}({self.given}) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE {"SET search_path FROM CURRENT" if self.path else ""} AS $$
DECLARE
    broken text;
BEGIN
    IF {self.usual} THEN
        RETURN true;
    END IF;
    broken := CASE
        {cases}
    END;
    IF broken IS NOT NULL THEN
        RAISE check_violation USING
            TABLE = '{table}', CONSTRAINT = broken,
            MESSAGE = format('new row for relation "{table}" violates check constraint "%s"', broken);
    END IF;
    RETURN true;
END $$;
"""

    @property
    def call(self) -> str:
        """The one rule that is left of them."""
        return f"{self.function}({', '.join(column.split()[0] for column in self.given.split(', '))})"


# In the order in which whoever inserts locks the tables.
CHECKS = {
    "accounts": Check(
        "account_is_sound",
        "email text, login text, language text, tenant text, reference text",
        {
            "accounts_email_length": "length(email) <= 254",
            "accounts_email_at": "email LIKE '_%@_%'",
            "accounts_email_characters": "NOT has_blanks(email)",
            "accounts_login_length": "length(login) BETWEEN 1 AND 254",
            "accounts_login_characters": "NOT has_controls(login)",
            "accounts_language_tag": "language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$'",
            "accounts_tenant_length": "length(tenant) <= 254",
            "accounts_tenant_characters": "NOT has_controls(tenant)",
            "accounts_reference_length": "length(reference) BETWEEN 1 AND 254",
            "accounts_reference_characters": "NOT has_controls(reference)",
        },
        "language IS NULL AND tenant = '' AND reference IS NULL AND length(email) <= 254 AND email LIKE '_%@_%'"
        " AND NOT has_blanks(email) AND length(login) BETWEEN 1 AND 254 AND NOT has_controls(login)",
        path=True,
    ),
    "tokens": Check(
        "token_is_sound",
        "address text, data jsonb, code text, secret bytea",
        {
            "tokens_address_is_one": "address IS NULL OR is_address(address)",
            "tokens_data_fills_a_template": "data IS NULL OR is_template_data(data)",
            "tokens_code_digits": "code ~ '^[0-9]{5}$'",
            "tokens_secret_length": "octet_length(secret) = 32",
        },
        "address IS NULL AND data IS NULL AND octet_length(secret) = 32"
        " AND octet_length(code) = 5 AND translate(code, '0123456789', '') = ''",
        path=True,
    ),
    "jobs": Check(
        "job_is_sound",
        "token bigint, due_at timestamptz, priority smallint, queue text",
        {
            "jobs_due_at": "due_at BETWEEN '1000-01-01 00:00+00' AND '9000-01-01 00:00+00' OR due_at = 'infinity'",
            "jobs_priority_check": "priority BETWEEN 0 AND 3",
            "jobs_queue": f"queue !~ '{BLANKS}'",
            "jobs_queue_check": r"queue ~ '^\S{1,63}$'",
            "jobs_token": "token > -9223372036854775808",
        },
        "queue = 'mailroom' AND due_at BETWEEN '1000-01-01 00:00+00' AND '9000-01-01 00:00+00'"
        " AND priority BETWEEN 0 AND 3 AND token > 0",
    ),
    "batches": Check(
        "batch_is_sound",
        "priority smallint, tokens bigint[], attempts smallint[], due_ats timestamptz[]",
        {
            "batches_arrays": "cardinality(tokens) = cardinality(attempts) AND cardinality(tokens) > 0",
            "batches_values": "priority BETWEEN 0 AND 3 AND array_ndims(tokens) = 1"
            " AND -9223372036854775808 <> ALL (tokens)"
            " AND array_replace(tokens, NULL, CAST(0 AS bigint)) = tokens"
            " AND array_ndims(attempts) = 1 AND array_replace(attempts, NULL, CAST(0 AS smallint)) = attempts"
            " AND coalesce(cardinality(due_ats), 0) <= cardinality(tokens)",
        },
    ),
}


def upgrade() -> None:
    for table, check in CHECKS.items():
        op.execute(check.sql(table))
        exchange(table, list(check.rules), {f"{table}_sound": check.call})
    look_through({table: [f"{table}_sound"] for table in CHECKS})


def downgrade() -> None:
    for table, check in CHECKS.items():
        exchange(table, [f"{table}_sound"], check.rules)
        op.execute(f"DROP FUNCTION IF EXISTS {check.function}")
    look_through({table: list(check.rules) for table, check in CHECKS.items()})


def exchange(table: str, dropped: list[str], added: dict[str, str]) -> None:
    """Put constraints in the place of others. The table is locked for a moment: it is not looked through then."""
    steps = [f"DROP CONSTRAINT IF EXISTS {name}" for name in (*dropped, *added)]
    steps += [f"ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID" for name, rule in added.items()]
    op.execute(f"ALTER TABLE {table} {', '.join(steps)}")


def look_through(added: dict[str, list[str]]) -> None:
    """Beside the traffic."""
    home = '"' + str(op.get_context().version_table_schema).replace('"', '""').replace(":", r"\:") + '"'
    with op.get_context().autocommit_block():
        for table, names in added.items():
            for name in names:
                op.execute(f"{UNHURRIED} ALTER TABLE {home}.{table} VALIDATE CONSTRAINT {name}")

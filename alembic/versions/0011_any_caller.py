"""The rules of a row mean the same, and can be read, in the session of whoever writes it."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# A rule in a function is read anew in each session. A backslash means something else there where
# `standard_conforming_strings` is off, but for E'…'. And who may not look into the schema, as through a view of the
# application's, finds no function of ours by its name. So there is neither in them, and no path but PostgreSQL's own.
BLANKS = r"E'[[:space:]\\u0001-\\u0020\\u007f-\\u00a0\\u1680\\u2000-\\u200b\\u2028-\\u202f\\u205f\\u3000\\ufeff]'"
CONTROLS = r"E'[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]'"
QUEUE_BLANKS = r"E'[\\u001c-\\u001f\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'"
PATH = "SET search_path = pg_catalog, pg_temp"

ADDRESS = "length({0}) <= 254 AND {0} LIKE '_%@_%' AND NOT {0} ~ " + BLANKS
DATA = """
    jsonb_typeof({0}) = 'object' AND octet_length({0}::text) <= 2048
    AND NOT jsonb_path_exists(
        {0}, 'strict $.* ? (@.type() == "object" || @.type() == "array" || @.type() == "null")', silent => true)
    AND NOT jsonb_path_exists(
        {0}, 'strict $.keyvalue().key ? (!(@ like_regex "^[A-Za-z][A-Za-z0-9_]{{0,63}}$") || @ like_regex "_text$"'
        ' || @ == "login" || @ == "secret" || @ == "code")', silent => true)
    AND NOT jsonb_path_exists(
        {0}, 'strict $.* ? (@.type() == "number" && (@ > 1e15 || @ < -1e15))', silent => true)
    AND NOT EXISTS (SELECT FROM jsonb_each_text({0}) AS each (name, value) WHERE value ~ CONTROLS)
""".replace("CONTROLS", CONTROLS)  # nosec B608 - our own

# What tells whether one thing is right, and is asked of that alone.
WORDS = {
    "is_address(given text)": ADDRESS.format("given"),
    "is_template_data(given jsonb)": DATA.format("given"),
}
WORD = """
CREATE OR REPLACE FUNCTION {signature} RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE {path} AS $$
BEGIN
    RETURN {rule};
END $$;
"""

# As in 0010: `usual` is true of nearly every row, and of none that breaks a rule; rules by the names that errors have.
CHECKS = {
    "accounts": (
        "account_is_sound(email text, login text, language text, tenant text, reference text)",
        "language IS NULL AND tenant = '' AND reference IS NULL AND length(email) <= 254 AND email LIKE '_%@_%'"
        f" AND NOT email ~ {BLANKS} AND length(login) BETWEEN 1 AND 254 AND NOT login ~ {CONTROLS}",
        {
            "accounts_email_length": "length(email) <= 254",
            "accounts_email_at": "email LIKE '_%@_%'",
            "accounts_email_characters": f"NOT email ~ {BLANKS}",
            "accounts_login_length": "length(login) BETWEEN 1 AND 254",
            "accounts_login_characters": f"NOT login ~ {CONTROLS}",
            "accounts_language_tag": "language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$'",
            "accounts_tenant_length": "length(tenant) <= 254",
            "accounts_tenant_characters": f"NOT tenant ~ {CONTROLS}",
            "accounts_reference_length": "length(reference) BETWEEN 1 AND 254",
            "accounts_reference_characters": f"NOT reference ~ {CONTROLS}",
        },
    ),
    "tokens": (
        "token_is_sound(address text, data jsonb, code text, secret bytea)",
        "address IS NULL AND data IS NULL AND octet_length(secret) = 32"
        " AND octet_length(code) = 5 AND translate(code, '0123456789', '') = ''",
        {
            "tokens_address_is_one": f"address IS NULL OR ({ADDRESS.format('address')})",
            "tokens_data_fills_a_template": f"data IS NULL OR ({DATA.format('data')})",
            "tokens_code_digits": "code ~ '^[0-9]{5}$'",
            "tokens_secret_length": "octet_length(secret) = 32",
        },
    ),
    "jobs": (
        "job_is_sound(token bigint, due_at timestamptz, priority smallint, queue text)",
        "queue = 'mailroom' AND due_at BETWEEN '1000-01-01 00:00+00' AND '9000-01-01 00:00+00'"
        " AND priority BETWEEN 0 AND 3 AND token > 0",
        {
            "jobs_due_at": "due_at BETWEEN '1000-01-01 00:00+00' AND '9000-01-01 00:00+00' OR due_at = 'infinity'",
            "jobs_priority_check": "priority BETWEEN 0 AND 3",
            "jobs_queue": f"NOT queue ~ {QUEUE_BLANKS}",
            "jobs_queue_check": r"queue ~ E'^\\S{1,63}$'",
            "jobs_token": "token > -9223372036854775808",
        },
    ),
}
CHECK = """
CREATE OR REPLACE FUNCTION {signature} RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE {path} AS $$
DECLARE
    broken text;
BEGIN
    IF {usual} THEN
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

# Checks and indexes call these for whoever writes: they are everybody's, also where new functions are nobody's.
EVERYBODYS = """
GRANT EXECUTE ON FUNCTION
    account_is_sound, token_is_sound, job_is_sound, batch_is_sound,
    address_key, login_key, mailbox_key, lowered, token_address_hash
TO PUBLIC;
"""


def upgrade() -> None:
    """Nobody waits for this: it locks no table, and no row has to be looked through, for the rules are the same."""
    for signature, rule in WORDS.items():
        op.execute(WORD.format(signature=signature, path=PATH, rule=rule))
    for table, (signature, usual, rules) in CHECKS.items():
        cases = "\n        ".join(f"WHEN ({rule}) IS FALSE THEN '{name}'" for name, rule in rules.items())
        path = "" if table == "jobs" else PATH  # only functions of ours and the owner write jobs
        op.execute(CHECK.format(signature=signature, path=path, usual=usual, cases=cases, table=table))
    op.execute(EVERYBODYS)


def downgrade() -> None:
    """What is read in every session is read in those that 0010 knew."""

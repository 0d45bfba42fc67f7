"""How each rule of the protocol is taken out of the functions of a test's database: what is there, and what instead.

Where a function changes, its line here has to change with it: a test says so.
"""

from sqlalchemy import Connection, text

from mailroom.db import functions
from mailroom.db.namespace import schema_of
from tests.machine import ROOT

# Fences that come again with the ids of their batches, after a failover.
FENCE_BY_ID = (
    "ALTER TABLE batches ALTER COLUMN fence SET DEFAULT"
    " CAST(md5(CAST(currval(pg_get_serial_sequence('batches', 'id')) AS text)) AS uuid)"
)
FREES = """    ),
    freed AS (
        UPDATE jobs SET due_at = now() WHERE token = ANY (settle_late.tokens) AND due_at = 'infinity'
    )
    SELECT count(*) FROM kept;"""

Rule = int | str  # its number, and which part of it

# By rule: function, words, other words.
EDITS: dict[Rule, list[tuple[str, str, str]]] = {
    1: [
        ("settle", " AND id = settle.closing_ids[array_position(settle.closing_fences, fence)]", ""),
        ("settle", "array_position(settle.closing_fences, fence) AS", "array_position(settle.closing_ids, id) AS"),
    ],
    3: [
        (
            "absorb",
            "deliveries.token = told.token AND deliveries.fence = told.fence AND NOT told.foreign_site",
            "deliveries.token = told.token",
        )
    ],
    4: [
        ("settle_late", "CASE WHEN mailed.same THEN token END", "token"),
        ("claim", "AND (deliveries.proof IS NULL OR deliveries.proof = substring(sha256(wanted.secret) FOR 8))", ""),
    ],
    5: [
        ("absorb", "SELECT deliveries.token, deliveries.fence,", "SELECT told.token, deliveries.fence,"),
        (
            "absorb",
            "WHERE deliveries.token = told.token AND",
            "WHERE coalesce(deliveries.token, told.token) = told.token AND",
        ),
        ("absorb", " AND NOT has_sent", ""),
    ],
    6: [
        (
            "claim",
            "WHEN accepted.message_id IS NOT NULL THEN",
            "WHEN taken.attempt > 0 AND accepted.message_id IS NOT NULL THEN",
        )
    ],
    7: [("never_out", "RETURN EXISTS", "RETURN false AND EXISTS")],
    8: [("absorb", "OR (placed.kind IN ('rendering_failure', 'reject') AND NOT placed.foreign_site)", "")],
    9: [("take_back_mails", "SET look_at = CASE", "SET look_at = CASE WHEN true THEN NULL")],
    10: [("take_back_mails", "WHERE token = said.token AND message_id = said.message_id", "WHERE token = said.token")],
    11: [("take_back_mails", "attempt + 1", "attempt + 0")],
    "11, the pause": [
        ("take_back", "INSERT INTO pauses (scope,", "INSERT INTO pauses (scope, probe_at,"),
        ("take_back", "(kinds.action) kinds.action,", "(kinds.action) kinds.action, clock_timestamp(),"),
        ("take_back", "reason = excluded.reason, probe_at = NULL", "reason = excluded.reason"),
    ],
    12: [("absorb", "WHERE kind NOT IN ('rendering_failure', 'reject') AND NOT has_sent", "WHERE kind = 'send'")],
    13: [
        (
            "late_acceptances_apply",
            "SELECT token FROM accepted WHERE is_held UNION SELECT token FROM disproved",
            "SELECT token FROM disproved",
        )
    ],
    14: [
        (
            "late_acceptances_apply",
            "SELECT token FROM accepted WHERE is_held UNION SELECT token FROM disproved",
            "SELECT token FROM accepted WHERE is_held",
        )
    ],
    15: [("settle_late", "    )\n    SELECT count(*) FROM kept;", FREES)],
    16: [
        (
            "late_acceptances_apply",
            "WHERE deliveries.id = given.id",
            "WHERE false AND deliveries.id = given.id",
        )
    ],
    17: [("job_retry", " AND NOT never_out(taken.message_id)", "")],
    19: [
        (
            "absorb",
            "CASE WHEN mailed.address IS NULL THEN mailed.address_hash ELSE token_address_hash(mailed.address) END",
            "(SELECT token_address_hash(email) FROM accounts WHERE id = mailed.account)",
        )
    ],
    20: [("prune", "WHERE token IS NULL AND absorbed_at", "WHERE absorbed_at")],
}
STATEMENTS: dict[Rule, str] = {2: FENCE_BY_ID, 18: "ALTER TABLE events DROP CONSTRAINT events_once"}


def take_out(connection: Connection, rule: Rule) -> None:
    """Let this database's functions do without a rule."""
    for name in {name for name, _, _ in EDITS.get(rule, [])}:
        source = (ROOT / "mailroom" / "sql" / f"{name}.sql").read_text()
        for _, there, instead in (edit for edit in EDITS[rule] if edit[0] == name):
            assert there in source, f"{name}.sql has changed: say here how rule {rule} is taken out of it"
            source = source.replace(there, instead)
        changed = functions._in_schema(source, schema_of(connection))
        connection.exec_driver_sql(changed, execution_options={"no_parameters": True})
    if rule in STATEMENTS:
        connection.execute(text(STATEMENTS[rule]))

"""What became of mails: events of SES as evidence, addresses that are not to be mailed, and the state of the feed."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Which database a mail is from, in its tags: several may share an account of SES. A random name, made once.
SITE = """
CREATE TABLE site (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO site DEFAULT VALUES;
"""

# Evidence, and no more: what follows from it, sweeps decide. Nothing is told once or in order; what is told again has
# the same message, kind and moment. `accepted` is a row of ours, one for a message: whoever writes it writes the
# acceptance into the log. `token` is NULL where nothing here knows the message. No address: of that a hash.
#
# Who looks for an address must not walk over all that ever bounced: their index has a condition that nobody else has.
#
# look_at: of what contradicts an acceptance, when the sweep looks (again) whether there is one to take back; NULL once
# it is done with.
EVENTS = """
CREATE TYPE event_kind AS ENUM (
    'accepted', 'send', 'delivery', 'bounce', 'complaint', 'reject', 'rendering_failure', 'delivery_delay'
);

CREATE TABLE events (
    message_id   text        COLLATE "C" NOT NULL CHECK (length(message_id) BETWEEN 1 AND 200),
    kind         event_kind  NOT NULL,
    at           timestamptz NOT NULL,
    token        bigint,
    fence        uuid,
    address_hash bytea,
    type         text        NOT NULL DEFAULT '' CHECK (length(type) <= 100),
    subtype      text        NOT NULL DEFAULT '' CHECK (length(subtype) <= 100),
    status       text        NOT NULL DEFAULT '' CHECK (length(status) <= 100),
    absorbed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    look_at      timestamptz,
    CONSTRAINT events_once PRIMARY KEY (message_id, kind, at)
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000);
CREATE INDEX events_token_idx ON events (token) WHERE token IS NOT NULL;
CREATE INDEX events_address_idx ON events (address_hash, kind, at) WHERE kind IN ('delivery', 'bounce', 'complaint');
CREATE INDEX events_reputation_idx ON events (at) WHERE coalesce(kind IN ('bounce', 'complaint'), false);
CREATE INDEX events_contradicting_idx ON events (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX events_unknown_idx ON events (absorbed_at) WHERE token IS NULL;
"""

# What is known of an address, by its hash: the newest bounce that was permanent, the newest complaint, the newest of
# more bounces in a row than are taken for bad luck, and when a person put it here. A delivery, or a token that came
# back, lifts what says that the mailbox is dead; a person releases it from all. What is left of that is the reason.
SUPPRESSIONS = """
CREATE TABLE suppressions (
    address_hash  bytea       PRIMARY KEY,
    bounced_at    timestamptz,
    soft_at       timestamptz,
    complained_at timestamptz,
    added_at      timestamptz,
    lifted_at     timestamptz,
    released_at   timestamptz,
    type          text        NOT NULL DEFAULT '',
    subtype       text        NOT NULL DEFAULT '',
    reason        text        GENERATED ALWAYS AS (
        CASE WHEN added_at > coalesce(released_at, '-infinity') THEN 'added'
             WHEN bounced_at > greatest(lifted_at, released_at, '-infinity') THEN 'bounce'
             WHEN soft_at > greatest(lifted_at, released_at, '-infinity') THEN 'soft_bounces'
             WHEN complained_at > coalesce(released_at, '-infinity') THEN 'complaint' END) STORED
);
"""

# One row. polled_at: when a queue of events was last read; heard_at: when there was last one of ours. The counts are of
# all time: `elsewhere` are of another site, `unknown` of ours and of no mail that this database knows.
FEED = """
CREATE TABLE feed (
    one       boolean     PRIMARY KEY DEFAULT true CHECK (one),
    polled_at timestamptz,
    heard_at  timestamptz,
    added     bigint      NOT NULL DEFAULT 0,
    known     bigint      NOT NULL DEFAULT 0,
    elsewhere bigint      NOT NULL DEFAULT 0,
    unknown   bigint      NOT NULL DEFAULT 0
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
INSERT INTO feed DEFAULT VALUES;
"""

# When a person last ended the pause of a scope: what happened before that does not pause it again.
RESUMPTIONS = """
CREATE TABLE resumptions (
    scope      text        COLLATE "C" PRIMARY KEY,
    resumed_at timestamptz NOT NULL
);
"""

# From whom a kind of mail comes, and who reads the answers, where that is not the same for all.
SENDERS = """
ALTER TABLE actions
    ADD COLUMN source text
        CONSTRAINT actions_source CHECK (length(source) <= 320 AND source ~ '^[ -~]*[!-?A-~]@[!-?A-~][ -~]*$'),
    ADD COLUMN reply_to text
        CONSTRAINT actions_reply_to CHECK (length(reply_to) <= 320 AND reply_to ~ '^[ -~]*[!-?A-~]@[!-?A-~][ -~]*$');
"""


# Where a job that is put back came from. A log is long: columns without a default are added in a moment.
LANE = "ALTER TABLE deliveries ADD COLUMN queue text, ADD COLUMN priority smallint"

# What a late acceptance may change: jobs that are held, and mails on record as never sent. Few rows, or old ones.
INDEXES = {
    "jobs_held_idx": "jobs (token) WHERE due_at = 'infinity'",
    "deliveries_unsent_idx": "deliveries (created_at)"
    " WHERE outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL",
}


def index_concurrently() -> None:
    """Make indexes on tables that others write to: outside of a transaction, where no search_path is set."""
    home = '"' + str(op.get_context().version_table_schema).replace('"', '""').replace(":", r"\:") + '"'
    with op.get_context().autocommit_block():
        for name, what in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {home}.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {home}.{what}")


def upgrade() -> None:
    index_concurrently()
    for statements in (SITE, EVENTS, SUPPRESSIONS, FEED, RESUMPTIONS, SENDERS, LANE):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP INDEX jobs_held_idx, deliveries_unsent_idx")
    op.execute("ALTER TABLE deliveries DROP COLUMN queue, DROP COLUMN priority")
    op.execute("ALTER TABLE actions DROP COLUMN source, DROP COLUMN reply_to")
    op.execute("DROP TABLE resumptions, feed, suppressions, events, site")
    op.execute("DROP TYPE event_kind")

"""What all processes share: what SES allows the account, how many mails may leave now, and what is paused."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One row, as GetAccount told it last; NULL is not known yet. -1 is no limit. granted_before is permits.granted when
# that answer was asked for: what was granted since is not in sent_last_24_hours.
SES_ACCOUNT = """
CREATE TABLE ses_account (
    one                boolean          PRIMARY KEY DEFAULT true CHECK (one),
    refresh_due_at     timestamptz      NOT NULL DEFAULT '-infinity',
    fetched_at         timestamptz,
    max_send_rate      double precision,
    max_24_hour_send   double precision,
    sent_last_24_hours double precision,
    granted_before     bigint           NOT NULL DEFAULT 0,
    sending_enabled    boolean,
    production_access  boolean,
    enforcement        text
);
INSERT INTO ses_account DEFAULT VALUES;
"""

# A row for each bucket: `mails`, and `bulk_calls`. level is what was in it at filled_at; what came since is reckoned
# when it is read. Of what was granted, long_held may be used until long_held_until: the bucket holds so much less until
# then. slowdown is the share of the rate that was left after the throttle answer at throttled_at.
# These two rows are all that is ever updated: pages with room for it, and vacuumed soon.
PERMITS = """
CREATE TABLE permits (
    bucket          text             PRIMARY KEY,
    level           double precision NOT NULL DEFAULT 0,
    filled_at       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    granted         bigint           NOT NULL DEFAULT 0,
    slowdown        double precision NOT NULL DEFAULT 1 CHECK (slowdown > 0 AND slowdown <= 1),
    throttled_at    timestamptz,
    long_held       double precision NOT NULL DEFAULT 0,
    long_held_until timestamptz      NOT NULL DEFAULT '-infinity'
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
INSERT INTO permits (bucket) VALUES ('mails'), ('bulk_calls');
"""

# A scope is `account`, `configuration_set`, `identity`, an action, or `queue:NAME`. Without probe_at a pause was made
# by hand and ends by hand. Few rows ever: no index but the key.
PAUSES = """
CREATE TABLE pauses (
    scope     text        COLLATE "C" PRIMARY KEY,
    code      text        NOT NULL,
    reason    text        NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    probe_at  timestamptz,
    probes    integer     NOT NULL DEFAULT 0
);
"""


def upgrade() -> None:
    for statements in (SES_ACCOUNT, PERMITS, PAUSES):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE pauses, permits, ses_account")

"""Templates that were pushed: their names, and the languages that are in them."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A template is never changed: its name has a hash of all that is in it. Languages are in small letters, with hyphens:
# so the claim compares them as they are. Few rows ever: no index but the key.
TEMPLATES = """
CREATE TABLE templates (
    name             text         PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    action           token_action NOT NULL,
    languages        text[]       NOT NULL,
    default_language text         NOT NULL,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT templates_default CHECK (default_language = ANY (languages)),
    CONSTRAINT templates_languages CHECK (
        array_to_string(languages, ' ', '*') ~ '^([a-z]{2,8}(-[a-z0-9]{1,8}){0,4}( |$))+$'
    )
);
"""


def upgrade() -> None:
    op.execute(TEMPLATES)


def downgrade() -> None:
    op.execute("DROP TABLE templates")

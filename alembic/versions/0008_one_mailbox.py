"""A token proves one address, an address is one account's however it is spelt, and triggers that can be kept still."""

import logging

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

# What follows folds by Unicode, which PostgreSQL does in UTF8 only.
ENCODING = """
DO $$ BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE 'mailroom needs a database whose encoding is UTF8, and this one is in %', getdatabaseencoding();
    END IF;
END $$;
"""

# Lower case that no collation changes: one letter for one, of whatever letters Python knows. Folded where case folding
# has one letter, so that a letter with two small forms is one; but not the final sigma: in a domain it is its own.
CASES = {
    letter: folded
    for letter in map(chr, range(1, 0x110000))
    for folded in [letter.casefold() if len(letter.casefold()) == 1 else letter.lower()]
    if folded != letter and len(folded) == 1 and letter != "\N{GREEK SMALL LETTER FINAL SIGMA}"
}
# Letters of mathematics that normalization makes final sigmas, and IDNA sigmas.
SIGMAS = "\u03f2\U0001d6d3\U0001d70d\U0001d747\U0001d781\U0001d7bb"
# What IDNA (UTS 46) takes for nothing. The joiners are not among them: see mailbox_key.
IGNORED = "".join(
    chr(code)
    for first, last in (
        *((0xAD, 0xAD), (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200B)),
        *((0x2060, 0x2064), (0x206A, 0x206F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0x1BCA0, 0x1BCA3)),
        *((0x1D173, 0x1D17A), (0xE0100, 0xE01EF)),
    )
    for code in range(first, last + 1)
)

# RETURN, not a string, where it can be: what it calls is then bound when it is made, whatever the path is when it is
# called, and the planner puts it in the place of the call. ASCII is all that most addresses have, and is as cheap as
# lower() was.
#
# A domain ends up as DNS and SES know it, in Punycode: what is in Punycode already needs nothing but lower case. No
# label has more than 63 letters, so that what is longer is none, and no long one costs time. What folds to more than an
# index takes is no address either, and is known by its hash; such a login by its beginning.
#
# A joiner says something in the scripts from Arabic to Khmer, where it makes another domain, and nothing elsewhere.
# SECURITY DEFINER: who may call it needs no right on its parts.
KEYS = rf"""
CREATE OR REPLACE FUNCTION lowered(given text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN translate(given, '{"".join(CASES)}', '{"".join(CASES.values())}');

CREATE OR REPLACE FUNCTION punycode(label text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    digits CONSTANT text := 'abcdefghijklmnopqrstuvwxyz0123456789';
    codes     integer[] := ARRAY(SELECT ascii(letter) FROM regexp_split_to_table(label, '') AS letter);
    written   text      := array_to_string(ARRAY(SELECT chr(code) FROM unnest(codes) AS code WHERE code < 128), '');
    basic     integer   := length(written);
    handled   integer   := basic;
    next_code integer   := 128;
    delta     integer   := 0;
    bias      integer   := 72;
    code      integer;
    higher    integer;
    rest      integer;
    threshold integer;
    place     integer;
BEGIN
    IF basic > 0 THEN
        written := written || '-';
    END IF;
    WHILE handled < cardinality(codes) LOOP
        higher := (SELECT min(each) FROM unnest(codes) AS each WHERE each >= next_code);
        delta := delta + (higher - next_code) * (handled + 1);
        next_code := higher;
        FOREACH code IN ARRAY codes LOOP
            IF code < next_code THEN
                delta := delta + 1;
            ELSIF code = next_code THEN
                rest := delta;
                place := 36;
                LOOP
                    threshold := greatest(1, least(26, place - bias));
                    EXIT WHEN rest < threshold;
                    written := written || substr(digits, threshold + (rest - threshold) % (36 - threshold) + 1, 1);
                    rest := (rest - threshold) / (36 - threshold);
                    place := place + 36;
                END LOOP;
                written := written || substr(digits, rest + 1, 1);
                -- RFC 3492, 6.1: how far apart the next two may be expected.
                delta := CASE WHEN handled = basic THEN delta / 700 ELSE delta / 2 END;
                handled := handled + 1;
                delta := delta + delta / handled;
                bias := 0;
                WHILE delta > 455 LOOP
                    delta := delta / 35;
                    bias := bias + 36;
                END LOOP;
                bias := bias + 36 * delta / (delta + 38);
                delta := 0;
            END IF;
        END LOOP;
        delta := delta + 1;
        next_code := next_code + 1;
    END LOOP;
    RETURN written;
END $$;

CREATE OR REPLACE FUNCTION mailbox_key(address text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    plain  text := normalize(
        translate(
            lowered(normalize(translate(address, '{SIGMAS}', repeat(E'\u03c3', 6)), NFKD)), E'\u3002{IGNORED}', '.'),
        NFKC);
    domain text := split_part(plain, '@', -1);
    local  text := translate(left(plain, length(plain) - length(domain)), E'\u200c\u200d', '');
    labels text[];
    key    text;
BEGIN
    domain := regexp_replace(
        domain, E'([^\u0600-\u1cff\ua800-\uabff\U00010a00-\U00011fff]|^)[\u200c\u200d]+', '\1', 'g');
    labels := ARRAY(
        SELECT CASE WHEN octet_length(label) > length(label) AND length(label) < 64 THEN 'xn--' || punycode(label)
                    ELSE label END
          FROM unnest(string_to_array(rtrim(domain, '.'), '.')) WITH ORDINALITY AS each (label, place)
         ORDER BY place);
    key := local || array_to_string(labels, '.');
    RETURN CASE WHEN octet_length(key) > 2000 THEN encode(sha256(convert_to(key, 'UTF8')), 'hex') ELSE key END;
END $$;

CREATE OR REPLACE FUNCTION address_key(address text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(address) = length(address) THEN rtrim(lower(address COLLATE "C"), '.')
                ELSE mailbox_key(address) END;
COMMENT ON FUNCTION address_key IS
    'The mailbox that an address leads to: the same for all spellings of it. Look accounts up by it.';

CREATE OR REPLACE FUNCTION login_key(login text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(login) = length(login) THEN lower(login COLLATE "C")
                ELSE left(normalize(lowered(normalize(login, NFD)), NFC), 600) END;
COMMENT ON FUNCTION login_key IS 'A login without regard to case. Look accounts up by it.';

CREATE OR REPLACE FUNCTION token_address_hash(email text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substring(sha256(decode(replace(address_key(email), '\', '\\'), 'escape')) FOR 16);
COMMENT ON FUNCTION token_address_hash IS 'What a token remembers of the address that it proves.';

GRANT EXECUTE ON FUNCTION lowered, mailbox_key, address_key, login_key, token_address_hash TO PUBLIC;
"""  # noqa: S608 - letters  # nosec B608

# Said before anything is changed, and without an address: an index would only say that it cannot be made.
COLLISIONS = """
DO $$
DECLARE
    same record;
BEGIN
    SELECT count(*) OVER () AS kinds, ids[1] AS one, ids[2] AS other INTO same
      FROM (SELECT array_agg(id ORDER BY id) AS ids FROM accounts GROUP BY address_key(email)
             HAVING count(*) > 1) AS twins ORDER BY 2 LIMIT 1;
    IF FOUND THEN
        RAISE 'several accounts have one mailbox under several spellings (% times; accounts % and % are the first):'
              ' delete or change all but one of each, and migrate again', same.kinds, same.one, same.other;
    END IF;
    SELECT count(*) OVER () AS kinds, ids[1] AS one, ids[2] AS other INTO same
      FROM (SELECT array_agg(id ORDER BY id) AS ids FROM accounts GROUP BY login_key(login)
             HAVING count(*) > 1) AS twins ORDER BY 2 LIMIT 1;
    IF FOUND THEN
        RAISE 'several accounts have logins that differ in case alone (% times; accounts % and % are the first):'
              ' change all but one of each, and migrate again', same.kinds, same.one, same.other;
    END IF;
END $$;
"""

# No default, no check, no backfill: the table is neither rewritten nor read. NULL is a token of before, which lives 15
# minutes and proves whatever address its account has.
#
# The owner alone can give a hash: whoever else inserts a token has it looked up.
ADDRESS_HASH = """
ALTER TABLE tokens ADD COLUMN IF NOT EXISTS address_hash bytea;

CREATE OR REPLACE FUNCTION make_activation_tokens() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF NOT coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean THEN
        RETURN NULL;
    END IF;
    INSERT INTO tokens (action, account, address_hash)
    SELECT 'activation', id, token_address_hash(email) FROM added WHERE status = 'provisioned';
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION remember_address() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    NEW.address_hash := (SELECT token_address_hash(email) FROM accounts WHERE id = NEW.account);
    IF NEW.address_hash IS NULL THEN  -- of nobody, or of somebody whom row-level security hides
        RAISE foreign_key_violation
            USING MESSAGE = format('there is no account %s whose address could be proven', NEW.account);
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER remember_address BEFORE INSERT ON tokens
    FOR EACH ROW WHEN (NEW.address_hash IS NULL) EXECUTE FUNCTION remember_address();

REVOKE EXECUTE ON FUNCTION remember_address() FROM PUBLIC;
"""

# A statement notifies only when somebody may be asleep who should not be: always for urgent jobs, for normal ones when
# no other due job waits, never for bulk. The look for such a job reaches back one second only: under an old snapshot a
# longer one would walk over every job done since. Where the snapshot is the transaction's it sees what was once, and at
# SERIALIZABLE whoever reads the queue conflicts with everybody who adds to it: there nothing is looked at, and the
# statement notifies.
#
# A job of that number may be there, of a token that is gone, where ids come again: its place is taken. That is seldom:
# ON CONFLICT writes more for each row, and a look at the range of the new ids costs next to nothing.
# enable_seqscan: PL/pgSQL keeps the plans of these looks, and one made on an empty table must not meet a full one.
ENQUEUE = """
CREATE OR REPLACE FUNCTION enqueue_jobs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    enqueued_at timestamptz := clock_timestamp();
    to_queue    text := coalesce(nullif(current_setting('mailroom.queue', true), ''), 'mailroom');
    notifies    boolean := coalesce(nullif(current_setting('mailroom.notify', true), ''), 'on')::boolean;
    bulk        boolean := coalesce(nullif(current_setting('mailroom.bulk', true), ''), 'off')::boolean;
    channel     text := coalesce(nullif(current_setting('mailroom.channel', true), ''), 'token_insert');
    may_look    boolean := current_setting('transaction_isolation') IN ('read committed', 'read uncommitted');
    activations bigint;
    recoveries  bigint;
    lowest      bigint;
    highest     bigint;
    wakes       text;
    taken       boolean := true;
    waits       boolean := false;
BEGIN
    IF NOT coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean THEN
        RETURN NULL;
    END IF;
    SELECT count(*) FILTER (WHERE action = 'activation'), count(*) FILTER (WHERE action = 'password_recovery'),
           min(id), max(id)
      INTO activations, recoveries, lowest, highest FROM added;
    bulk := bulk OR activations > 50;

    IF recoveries > 0 THEN
        wakes := '0';
    ELSIF activations > 0 AND NOT bulk THEN
        wakes := '1';
    END IF;
    IF may_look AND wakes = '1' AND notifies THEN
        SELECT EXISTS (SELECT FROM jobs WHERE token BETWEEN lowest AND highest),
               EXISTS (
                   SELECT FROM unnest(enum_range(NULL::token_action)) AS lane (action),
                       generate_series(0, 2) AS priority,
                       LATERAL (
                           SELECT FROM jobs
                            WHERE jobs.queue = to_queue AND jobs.priority = priority.priority
                              AND jobs.action = lane.action
                              AND jobs.due_at BETWEEN enqueued_at - interval '1 second' AND enqueued_at
                            LIMIT 1
                       ) AS waiting
               )
          INTO taken, waits;
    ELSIF may_look THEN  -- a part of its own: what is not executed is made ready all the same
        taken := EXISTS (SELECT FROM jobs WHERE token BETWEEN lowest AND highest);
    END IF;
    IF taken THEN
        INSERT INTO jobs (token, due_at, action, priority, queue)
        SELECT id, enqueued_at, action,
               CASE WHEN action = 'password_recovery' THEN 0 WHEN bulk THEN 2 ELSE 1 END,
               to_queue
          FROM added
        ON CONFLICT (token) DO UPDATE
           SET due_at = excluded.due_at, action = excluded.action, priority = excluded.priority,
               attempt = excluded.attempt, queue = excluded.queue;
    ELSE
        INSERT INTO jobs (token, due_at, action, priority, queue)
        SELECT id, enqueued_at, action,
               CASE WHEN action = 'password_recovery' THEN 0 WHEN bulk THEN 2 ELSE 1 END,
               to_queue
          FROM added;
    END IF;

    -- PostgreSQL refuses a longer name, and nobody can listen to it: a hint must not fail what it is a hint of.
    IF notifies AND wakes IS NOT NULL AND waits IS NOT TRUE AND octet_length(channel) < 64 THEN
        PERFORM pg_notify(channel, wakes);
    END IF;
    RETURN NULL;
END $$;
"""

# Ids begin again: whatever names one would be taken for a later token's, also the log, which counts against limits.
# DELETE, not TRUNCATE: it waits for no worker, and none waits for it.
FORGET = """
CREATE OR REPLACE FUNCTION forget_truncated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM jobs;
    DELETE FROM batches;
    DELETE FROM deliveries;
    RETURN NULL;
END $$;

REVOKE EXECUTE ON FUNCTION forget_truncated() FROM PUBLIC;
"""

# A token is good when nothing but its code is left to ask. One of before (no hash) proves whatever address there is.
# Of an account's tokens of an action the consumed one ends all that are older: that follows from their ids, and is
# written nowhere.
GOOD = """
CREATE OR REPLACE FUNCTION good_token(wanted_secret bytea, wanted_action token_action) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    RETURN (
        SELECT tokens.id
          FROM tokens
          JOIN accounts ON accounts.id = tokens.account
         WHERE tokens.secret = wanted_secret AND tokens.action = wanted_action
           AND tokens.consumed_at IS NULL AND tokens.expires_at > clock_timestamp()
           AND accounts.status = CASE wanted_action WHEN 'activation' THEN 'provisioned' ELSE 'active' END
                                 ::account_status
           AND (tokens.address_hash IS NULL OR tokens.address_hash = token_address_hash(accounts.email))
           AND NOT EXISTS (
               SELECT FROM tokens AS newer
                WHERE newer.account = tokens.account AND newer.action = wanted_action AND newer.id > tokens.id
                  AND newer.consumed_at IS NOT NULL
               )
    );
END $$;
COMMENT ON FUNCTION good_token IS
    'The id of the token of this secret, if it can be consumed now; NULL if it is gone, has expired or been consumed,'
    ' if a newer one was consumed, or if its account has another address by now, or another status than it needs.';
"""

# What others do at the same moment is no error of whoever consumes: a token that cannot be had is not had.
#
# The account's row is locked first: deleting an account locks it before its tokens, so both go the same way round.
# What is good is asked after that, in a new snapshot, and of the token's own row once more when that is locked as well.
# clock_timestamp(): the wait for a lock may outlast the token.
CONSUME = """
CREATE OR REPLACE FUNCTION guesses_left(wanted_secret bytea) RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    good bigint := good_token(wanted_secret, 'password_recovery');
BEGIN
    IF good IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN most_guesses() - coalesce((SELECT made FROM guesses WHERE token = good), 0);
END $$;
COMMENT ON FUNCTION guesses_left IS
    'How many guesses a recovery has left; NULL if there is no such recovery, or it cannot be consumed.';

CREATE OR REPLACE FUNCTION count_guess(wanted_secret bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s' SET enable_seqscan = off
AS $$
DECLARE
    good bigint := good_token(wanted_secret, 'password_recovery');
BEGIN
    IF good IS NULL THEN
        RETURN false;
    END IF;
    INSERT INTO guesses (token, made) VALUES (good, 1)
    ON CONFLICT (token) DO UPDATE SET made = guesses.made + 1 WHERE guesses.made < most_guesses();
    RETURN FOUND;
EXCEPTION
    WHEN transaction_rollback OR integrity_constraint_violation OR lock_not_available THEN
        RETURN NULL;
END $$;
COMMENT ON FUNCTION count_guess IS
    'Counts a guess at the code of a recovery; false if none is left, or there is no such recovery to guess at; NULL if'
    ' somebody else was in the way, and nothing was counted: no guess either.';

CREATE OR REPLACE FUNCTION consume_token(
    wanted_secret bytea, wanted_action token_action, given_code text DEFAULT NULL, counted boolean DEFAULT false
)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    owner bigint;
BEGIN
    PERFORM 1 FROM accounts
      WHERE id = (SELECT account FROM tokens WHERE secret = wanted_secret) FOR NO KEY UPDATE;
    IF wanted_action = 'password_recovery' AND NOT counted AND count_guess(wanted_secret) IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    UPDATE tokens SET consumed_at = clock_timestamp()
     WHERE id = good_token(wanted_secret, wanted_action)
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
       AND (action = 'activation' OR code = given_code)
    RETURNING account INTO owner;
    RETURN owner;
EXCEPTION
    WHEN transaction_rollback OR integrity_constraint_violation OR lock_not_available THEN
        RETURN NULL;
END $$;
COMMENT ON FUNCTION consume_token IS
    'Marks a good token (see good_token) consumed and returns its account; or NULL, also when somebody else is in the'
    ' way. A recovery needs its code, and this is a guess at it, which counts once it is committed: commit also after'
    ' NULL. counted: count_guess was called for it, and committed.';

ALTER FUNCTION activate_account() SET enable_seqscan = off;
REVOKE EXECUTE ON FUNCTION good_token FROM PUBLIC;
"""

# Whoever restores rows wants them as they were: nothing is to follow from them. The two triggers before an insert are
# not kept still: they mail nobody, and fill in what is missing. A token that should prove any address must not be had
# by a setting. Where every sign-up passes, the function asks: a WHEN is read anew for each statement.
TRIGGERS_ON = "coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean"
TRIGGERS = """
CREATE OR REPLACE TRIGGER account_status_changes BEFORE UPDATE ON accounts
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status{and_on}) EXECUTE FUNCTION account_status_changes();

CREATE OR REPLACE TRIGGER activate_account AFTER UPDATE OF consumed_at ON tokens
    FOR EACH ROW
    WHEN (NEW.action = 'activation' AND OLD.consumed_at IS NULL AND NEW.consumed_at IS NOT NULL{and_on})
    EXECUTE FUNCTION activate_account();
"""
TRUNCATED = f"""
CREATE OR REPLACE TRIGGER forget_truncated AFTER TRUNCATE ON tokens
    FOR EACH STATEMENT WHEN ({TRIGGERS_ON}) EXECUTE FUNCTION forget_truncated();
"""

# Made beside the old ones, which hold until the new ones do.
INDEXES = {
    "accounts_address_new": "UNIQUE INDEX CONCURRENTLY accounts_address_new ON {schema}.accounts"
    " ({schema}.address_key(email))",
    "accounts_login_new": "UNIQUE INDEX CONCURRENTLY accounts_login_new ON {schema}.accounts"
    " ({schema}.login_key(login))",
    "tokens_consumed_idx": "INDEX CONCURRENTLY tokens_consumed_idx ON {schema}.tokens (account, action, id)"
    " WHERE consumed_at IS NOT NULL",
}
VALID = """
SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
 WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
"""
SWAP = """
DROP INDEX accounts_email_key;
ALTER INDEX accounts_address_new RENAME TO accounts_email_key;
ALTER TABLE accounts DROP CONSTRAINT accounts_login_key;
ALTER INDEX accounts_login_new RENAME TO accounts_login_key;
"""

BEFORE = """
DROP TRIGGER IF EXISTS forget_truncated ON tokens;
DROP TRIGGER IF EXISTS remember_address ON tokens;
DROP FUNCTION IF EXISTS forget_truncated, remember_address;

CREATE OR REPLACE FUNCTION make_activation_tokens() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tokens (action, account)
    SELECT 'activation', id FROM added WHERE status = 'provisioned';
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION enqueue_jobs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    enqueued_at timestamptz := clock_timestamp();
    to_queue    text := coalesce(nullif(current_setting('mailroom.queue', true), ''), 'mailroom');
    notifies    boolean := coalesce(nullif(current_setting('mailroom.notify', true), ''), 'on')::boolean;
    bulk        boolean := coalesce(nullif(current_setting('mailroom.bulk', true), ''), 'off')::boolean;
    activations bigint;
    recoveries  bigint;
    wakes       text;
BEGIN
    SELECT count(*) FILTER (WHERE action = 'activation'), count(*) FILTER (WHERE action = 'password_recovery')
      INTO activations, recoveries FROM added;
    bulk := bulk OR activations > 50;

    IF notifies AND recoveries > 0 THEN
        wakes := '0';
    ELSIF notifies AND activations > 0 AND NOT bulk AND NOT EXISTS (
        SELECT FROM unnest(enum_range(NULL::token_action)) AS lane (action), generate_series(0, 2) AS priority,
            LATERAL (
                SELECT FROM jobs
                 WHERE jobs.queue = to_queue AND jobs.priority = priority.priority AND jobs.action = lane.action
                   AND jobs.due_at BETWEEN enqueued_at - interval '1 second' AND enqueued_at
                 LIMIT 1
            ) AS waiting
    ) THEN
        wakes := '1';
    END IF;

    INSERT INTO jobs (token, due_at, action, priority, queue)
    SELECT id, enqueued_at, action,
           CASE WHEN action = 'password_recovery' THEN 0 WHEN bulk THEN 2 ELSE 1 END,
           to_queue
      FROM added;

    IF wakes IS NOT NULL THEN
        PERFORM pg_notify(coalesce(nullif(current_setting('mailroom.channel', true), ''), 'token_insert'), wakes);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION guesses_left(wanted_secret bytea) RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT most_guesses() - coalesce(made, 0)
      FROM tokens
      LEFT JOIN guesses ON guesses.token = tokens.id
     WHERE secret = wanted_secret AND action = 'password_recovery'
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
$$;
COMMENT ON FUNCTION guesses_left IS
    'How many guesses a recovery has left; NULL if there is no such recovery, or it has expired or been consumed.';

CREATE OR REPLACE FUNCTION count_guess(wanted_secret bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s' AS $$
BEGIN
    INSERT INTO guesses (token, made)
    SELECT id, 1
      FROM tokens
     WHERE secret = wanted_secret AND action = 'password_recovery'
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
    ON CONFLICT (token) DO UPDATE SET made = guesses.made + 1 WHERE guesses.made < most_guesses();
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION count_guess IS
    'Counts a guess at the code of a recovery; false if none is left, or there is no such recovery to guess at.';

CREATE OR REPLACE FUNCTION consume_token(
    wanted_secret bytea, wanted_action token_action, given_code text DEFAULT NULL, counted boolean DEFAULT false
)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    owner bigint;
BEGIN
    PERFORM 1 FROM accounts
      WHERE id = (SELECT account FROM tokens WHERE secret = wanted_secret) FOR NO KEY UPDATE;
    IF wanted_action = 'password_recovery' AND NOT counted AND NOT count_guess(wanted_secret) THEN
        RETURN NULL;
    END IF;
    UPDATE tokens SET consumed_at = clock_timestamp()
     WHERE secret = wanted_secret AND action = wanted_action
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
       AND (action = 'activation' OR code = given_code)
    RETURNING account INTO owner;
    RETURN owner;
END $$;
COMMENT ON FUNCTION consume_token IS
    'Marks an unexpired, unconsumed token consumed and returns its account, or NULL. A recovery needs its code, and'
    ' this is a guess at it, which counts once it is committed: commit also after NULL. counted: count_guess was'
    ' called for it, and committed.';

DROP FUNCTION IF EXISTS good_token;
ALTER FUNCTION activate_account() RESET enable_seqscan;
ALTER TABLE tokens DROP COLUMN IF EXISTS address_hash;
"""

INDEXES_BEFORE = {
    "accounts_address_old": "UNIQUE INDEX CONCURRENTLY accounts_address_old ON {schema}.accounts (lower(email))",
    "accounts_login_old": "UNIQUE INDEX CONCURRENTLY accounts_login_old ON {schema}.accounts (login)",
}
SWAP_BEFORE = """
DROP INDEX tokens_consumed_idx, accounts_login_key, accounts_email_key;
ALTER INDEX accounts_address_old RENAME TO accounts_email_key;
ALTER TABLE accounts ADD CONSTRAINT accounts_login_key UNIQUE USING INDEX accounts_login_old;
DROP FUNCTION token_address_hash, login_key, address_key, mailbox_key, punycode, lowered;
"""


def upgrade() -> None:
    for statements in (ENCODING, KEYS, COLLISIONS, ADDRESS_HASH, ENQUEUE, FORGET, GOOD, CONSUME):
        op.execute(statements)
    op.execute(TRIGGERS.format(and_on=f" AND {TRIGGERS_ON}"))
    op.execute(TRUNCATED)
    make_indexes(INDEXES)
    op.execute(SWAP)


def downgrade() -> None:
    op.execute(TRIGGERS.format(and_on=""))
    op.execute(BEFORE)
    make_indexes(INDEXES_BEFORE)
    op.execute(SWAP_BEFORE)


def make_indexes(indexes: dict[str, str]) -> None:
    """Make indexes without keeping anybody from writing, outside of the transaction, which is committed.

    What an attempt before left unfinished is made again, and what it finished is kept. The schema is named: the path is
    pinned for a transaction.
    """
    schema = op.get_bind().exec_driver_sql("SELECT replace(quote_ident(current_schema()), ':', '\\:')").scalar_one()
    there = {row.relname: row.indisvalid for row in op.get_bind().exec_driver_sql(VALID)}
    with op.get_context().autocommit_block():
        for name, words in indexes.items():
            if not there.get(name, True):
                op.execute(f"DROP INDEX CONCURRENTLY {schema}.{name}")
            if not there.get(name):
                log.info("building %s, which waits for the transactions that are open now", name)
                op.execute("CREATE " + words.format(schema=schema))

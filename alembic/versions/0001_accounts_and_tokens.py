"""Kinds of mail, accounts and their tokens.

What tables are made of is here: types, the functions that indexes and checks call, and triggers. What a trigger does is
a function of `mailroom/sql/`, installed with all others once the last migration is done; until then it raises.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

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
# Beyond the first two planes are ideographs and private use, which have no case.
CASES = {
    letter: folded
    for letter in map(chr, range(1, 0x20000))
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
CREATE FUNCTION lowered(given text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN translate(given, '{"".join(CASES)}', '{"".join(CASES.values())}');

CREATE FUNCTION punycode(label text) RETURNS text
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

CREATE FUNCTION mailbox_key(address text) RETURNS text
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
        domain, E'([^\u0600-\u1cff\ua800-\uabff\U00010a00-\U00011fff]|^)[\u200c\u200d]+', E'\\1', 'g');
    labels := ARRAY(
        SELECT CASE WHEN octet_length(label) > length(label) AND length(label) < 64 THEN 'xn--' || punycode(label)
                    ELSE label END
          FROM unnest(string_to_array(rtrim(domain, '.'), '.')) WITH ORDINALITY AS each (label, place)
         ORDER BY place);
    key := local || array_to_string(labels, '.');
    RETURN CASE WHEN octet_length(key) > 2000 THEN encode(sha256(convert_to(key, 'UTF8')), 'hex') ELSE key END;
END $$;

CREATE FUNCTION address_key(address text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(address) = length(address) THEN rtrim(lower(address COLLATE "C"), '.')
                ELSE mailbox_key(address) END;
COMMENT ON FUNCTION address_key IS
    'The mailbox that an address leads to: the same for all spellings of it. Look accounts up by it.';

CREATE FUNCTION login_key(login text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(login) = length(login) THEN lower(login COLLATE "C")
                ELSE left(normalize(lowered(normalize(login, NFD)), NFC), 600) END;
COMMENT ON FUNCTION login_key IS 'A login without regard to case. Look accounts up by it.';

CREATE FUNCTION token_address_hash(email text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substring(sha256(decode(replace(address_key(email), '\', '\\'), 'escape')) FOR 16);
COMMENT ON FUNCTION token_address_hash IS 'What a token remembers of the address that it proves.';

"""  # noqa: S608 - letters  # nosec B608

# A kind of mail is a row: adding one is one INSERT. Tokens, jobs and the log name it, and no foreign key holds them to
# it: each of a million sign-ups would lock the one row. A trigger keeps what they rely on.
#
# `limited` is written into the log, so that only what counts against a limit is in the index that counts.
ACTIONS = r"""
CREATE TYPE account_status AS ENUM ('provisioned', 'active', 'suspended');

CREATE DOMAIN token_action AS text COLLATE "C";

CREATE TABLE actions (
    name           token_action   PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,49}$'),
    number         smallint       NOT NULL UNIQUE CHECK (number > 0),
    template       text           NOT NULL CHECK (template ~ '^[A-Za-z0-9_-]{1,64}$'),
    path           text           NOT NULL UNIQUE CHECK (path ~ '^/[A-Za-z0-9._~/-]{1,100}$'),
    life           interval       NOT NULL DEFAULT '15 minutes' CHECK (life BETWEEN '1 minute' AND '366 days'),
    has_code       boolean        NOT NULL DEFAULT false,
    priority       smallint       NOT NULL DEFAULT 1 CHECK (priority BETWEEN 0 AND 2),
    needs          account_status NOT NULL DEFAULT 'active',
    renews         boolean        NOT NULL DEFAULT false,
    newest_only    boolean        NOT NULL DEFAULT false,
    per_15_minutes integer        CHECK (per_15_minutes >= 0),
    per_day        integer        CHECK (per_day >= 0),
    activates      boolean        NOT NULL DEFAULT false,
    limited        boolean        NOT NULL
                   GENERATED ALWAYS AS (per_15_minutes IS NOT NULL OR per_day IS NOT NULL) STORED,
    CONSTRAINT actions_activates CHECK (NOT activates OR needs = 'provisioned'),
    CONSTRAINT actions_name_scope CHECK (name NOT IN ('account', 'configuration_set', 'identity'))
);

INSERT INTO actions (
    name, number, template, path, has_code, priority, needs, renews, newest_only, per_15_minutes, per_day, activates
) VALUES
    ('activation', 1, 'activationv1', '/activate', false, 1, 'provisioned', true, false, NULL, NULL, true),
    ('password_recovery', 2, 'passwordrecoveryv1', '/recover', true, 0, 'active', false, true, 3, 10, false);
"""

# Control characters include C1, and the two separators that many programs take for an end of line; blanks include what
# looks like nothing.
WORDS = r"""
CREATE FUNCTION has_controls(given text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN given ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]';

CREATE FUNCTION has_blanks(given text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN given ~ '[[:space:]\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200b\u2028-\u202f\u205f\u3000\ufeff]';
"""

# A tenant is whose account it is: the same address may have one with each. `reference` is the application's own key.
ACCOUNTS = r"""
CREATE TABLE accounts (
    id                bigint         GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    email             text           NOT NULL,
    login             text           NOT NULL,
    status            account_status NOT NULL DEFAULT 'provisioned',
    language          text,
    tenant            text           NOT NULL DEFAULT '',
    reference         text,
    created_at        timestamptz    NOT NULL DEFAULT now(),
    status_changed_at timestamptz,
    activated_at      timestamptz,
    suspended_at      timestamptz,
    unsuspended_at    timestamptz,
    CONSTRAINT accounts_email_length CHECK (length(email) <= 254),
    CONSTRAINT accounts_email_at CHECK (email LIKE '_%@_%'),
    CONSTRAINT accounts_email_characters CHECK (NOT has_blanks(email)),
    CONSTRAINT accounts_login_length CHECK (length(login) BETWEEN 1 AND 254),
    CONSTRAINT accounts_login_characters CHECK (NOT has_controls(login)),
    CONSTRAINT accounts_language_tag CHECK (language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$'),
    CONSTRAINT accounts_tenant_length CHECK (length(tenant) <= 254),
    CONSTRAINT accounts_tenant_characters CHECK (NOT has_controls(tenant)),
    CONSTRAINT accounts_reference_length CHECK (length(reference) BETWEEN 1 AND 254),
    CONSTRAINT accounts_reference_characters CHECK (NOT has_controls(reference)),
    CONSTRAINT accounts_reference_key UNIQUE (reference)
);
CREATE UNIQUE INDEX accounts_email_key ON accounts (address_key(email), tenant);
CREATE UNIQUE INDEX accounts_login_key ON accounts (login_key(login), tenant);
"""

# What a token may have besides: an address of its own, and what its template is given, under names that are no others'
# there, values that are one thing each. PL/pgSQL, since what could be put in the place of a call would be made ready
# for each token, and few have any of it.
BESIDES = r"""
CREATE FUNCTION is_address(given text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN length(given) <= 254 AND given LIKE '_%@_%' AND NOT has_blanks(given);
END $$;

CREATE FUNCTION is_template_data(given jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN jsonb_typeof(given) = 'object' AND octet_length(given::text) <= 2048
       AND NOT jsonb_path_exists(
           given, 'strict $.* ? (@.type() == "object" || @.type() == "array" || @.type() == "null")', silent => true)
       AND NOT jsonb_path_exists(
           given, 'strict $.keyvalue().key ? (!(@ like_regex "^[A-Za-z][A-Za-z0-9_]{0,63}$") || @ like_regex "_text$"'
           ' || @ == "login" || @ == "secret" || @ == "code")', silent => true)
       AND NOT jsonb_path_exists(
           given, 'strict $.* ? (@.type() == "number" && (@ > 1e15 || @ < -1e15))', silent => true)
       AND NOT EXISTS (SELECT FROM jsonb_each_text(given) AS each (name, value) WHERE has_controls(value));
END $$;
"""

# The secret: three version-4 UUIDs carry 366 bits of the server's CSPRNG, hashed to 32 bytes (pgcrypto may be absent).
# The code: 48 of such bits modulo 100000; the most likely code is more likely by 1 in 2.8 billion than the least.
#
# address_hash is what the token proves: the address of its account when it was made. token_starts fills it in, and how
# long the token lives, where only the action and the account are given. `address` is where the mail goes, if not to the
# account's own. newest_only is its action's, so that only what asks for a newer one is in the index for that. (And no
# index of all has the id in a later column: a plan that is pinned on an empty table might look a token up by that.)
#
# Five digits do not stand many guesses. They are counted in a table of their own, not in tokens: whoever counts in a
# transaction beside its main one must not wait for a lock that the main one has on the token, nor change a row under
# its snapshot.
TOKENS = r"""
CREATE TABLE tokens (
    id           bigint       GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    action       token_action NOT NULL,
    secret       bytea        NOT NULL
                 DEFAULT sha256(
                     uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                 ),
    code         text         NOT NULL
                 DEFAULT lpad(
                     (
                         ('x' || encode(substring(uuid_send(gen_random_uuid()) FOR 6), 'hex'))::bit(48)::bigint % 100000
                     )::text,
                     5, '0'
                 ),
    account      bigint       NOT NULL REFERENCES accounts ON DELETE CASCADE,
    address      text,
    data         jsonb,
    expires_at   timestamptz  NOT NULL,
    consumed_at  timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    address_hash bytea        NOT NULL,
    newest_only  boolean      NOT NULL DEFAULT false,
    CONSTRAINT tokens_secret_key UNIQUE (secret),
    CONSTRAINT tokens_secret_length CHECK (octet_length(secret) = 32),
    CONSTRAINT tokens_code_digits CHECK (code ~ '^[0-9]{5}$'),
    CONSTRAINT tokens_address_is_one CHECK (address IS NULL OR is_address(address)),
    CONSTRAINT tokens_data_fills_a_template CHECK (data IS NULL OR is_template_data(data))
);
CREATE INDEX tokens_account_idx ON tokens (account);
CREATE INDEX tokens_newest_idx ON tokens (account, action, id) WHERE newest_only;
CREATE INDEX tokens_consumed_idx ON tokens (account, action, id) WHERE consumed_at IS NOT NULL;

CREATE TABLE guesses (
    token bigint   PRIMARY KEY REFERENCES tokens ON DELETE CASCADE,
    made  smallint NOT NULL
);
"""

# What a trigger calls is installed later, under the same name.
STUB = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'mailroom is not migrated to its end: run `mailroom migrate`';
END $$;
"""
FUNCTIONS = (
    "account_starts",
    "account_status_changes",
    "action_changes",
    "actions_stay",
    "activate_account",
    "enqueue_jobs",
    "forget_truncated",
    "make_activation_tokens",
    "token_starts",
)

# Whoever restores rows wants them as they were: nothing is to follow from them. The triggers before an insert are not
# kept still: they mail nobody, and fill in what is missing. A token that should prove any address must not be had by a
# setting. Where every sign-up passes, the function asks: a WHEN is read again for each statement.
TRIGGERS_ON = "coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean"
TRIGGERS = f"""
CREATE TRIGGER action_changes BEFORE UPDATE OR DELETE ON actions
    FOR EACH ROW EXECUTE FUNCTION action_changes();

CREATE TRIGGER actions_stay BEFORE TRUNCATE ON actions
    FOR EACH STATEMENT EXECUTE FUNCTION actions_stay();

CREATE TRIGGER account_starts BEFORE INSERT ON accounts
    FOR EACH ROW WHEN (NEW.status <> 'provisioned') EXECUTE FUNCTION account_starts();

CREATE TRIGGER account_status_changes BEFORE UPDATE ON accounts
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status AND {TRIGGERS_ON})
    EXECUTE FUNCTION account_status_changes();

CREATE TRIGGER make_activation_tokens AFTER INSERT ON accounts
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION make_activation_tokens();

CREATE TRIGGER token_starts BEFORE INSERT ON tokens
    FOR EACH ROW WHEN (NEW.address_hash IS NULL OR NEW.expires_at IS NULL) EXECUTE FUNCTION token_starts();

CREATE TRIGGER enqueue_jobs AFTER INSERT ON tokens
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION enqueue_jobs();

CREATE TRIGGER activate_account AFTER UPDATE OF consumed_at ON tokens
    FOR EACH ROW WHEN (OLD.consumed_at IS NULL AND NEW.consumed_at IS NOT NULL AND {TRIGGERS_ON})
    EXECUTE FUNCTION activate_account();

CREATE TRIGGER forget_truncated AFTER TRUNCATE ON tokens
    FOR EACH STATEMENT WHEN ({TRIGGERS_ON}) EXECUTE FUNCTION forget_truncated();
"""


def upgrade() -> None:
    for statements in (ENCODING, KEYS, ACTIONS, WORDS, ACCOUNTS, BESIDES, TOKENS):
        op.execute(statements)
    for name in FUNCTIONS:
        op.execute(STUB.format(name=name))
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute("DROP TABLE guesses, tokens, accounts, actions")
    op.execute(f"DROP FUNCTION {', '.join(FUNCTIONS)}")
    op.execute(
        """
        DROP FUNCTION is_template_data, is_address, has_blanks, has_controls;
        DROP FUNCTION token_address_hash, login_key, address_key, mailbox_key, punycode, lowered;
        DROP DOMAIN token_action;
        DROP TYPE account_status;
        """
    )

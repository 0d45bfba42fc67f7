"""Sign-ups of which SES refuses some."""

from sqlalchemy import Connection, text


def sign_up(connection: Connection, *, bad: int, good: int, good_after: int = 0) -> None:
    """Let accounts sign up one after the other: the bad ones first, or a good one after each `good_after` bad."""
    connection.execute(
        text(
            "INSERT INTO accounts (email, login)"
            " SELECT kind || place || '@example.com', kind || place"
            " FROM (SELECT 'bad' AS kind, n AS place, CAST(n AS float) AS turn FROM generate_series(1, :bad) AS n"
            "       UNION ALL SELECT 'good', n, n * :every + 0.5 FROM generate_series(1, :good) AS n) AS one"
            " ORDER BY turn"
        ),
        {"bad": bad, "good": good, "every": float(good_after or bad + good)},
    )
    # One after the other, as people do, and not as an import.
    connection.execute(
        text(
            "UPDATE jobs SET priority = 1, due_at = now() - interval '1 hour' + interval '1 second' * place"
            " FROM (SELECT token, row_number() OVER (ORDER BY token) AS place FROM jobs) AS placed"
            " WHERE placed.token = jobs.token"
        )
    )


def record(connection: Connection, *answers: tuple[str, int], codes: str = "MessageRejected", call: int = 0) -> None:
    """Log answers, one after the other: an outcome, and whose mail it was."""
    for outcome, account in answers:
        connection.execute(
            text(
                "INSERT INTO deliveries (token, account, fence, action, outcome, error_code, attempt)"
                " VALUES (:account, :account, CAST(md5(CAST(nullif(:call, 0) AS text)) AS uuid), 'activation',"
                " CAST(:outcome AS delivery_outcome),"
                " CASE WHEN :outcome <> 'sent' THEN :code END, 0)"
            ),
            {"account": account, "outcome": outcome, "code": codes, "call": call},
        )

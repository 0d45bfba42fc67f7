"""What processes count, out of what they expose, and what is on record of the same."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy import Connection

from tests.world import rows

Counted = Counter[tuple[str, str]]
# What can become of a call that SES may have heard of.
HEARD = {"answered", "refused", "unconfirmed"}


def _samples(exposition: str, name: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(exposition):
        yield from (sample for sample in family.samples if sample.name == name)


def counted(exposition: str) -> Counted:
    """The mails of an exposition, by action and outcome."""
    found: Counted = Counter()
    for sample in _samples(exposition, "mailroom_mails_total"):
        found[sample.labels["action"], sample.labels["outcome"]] += int(sample.value)
    return found


def but_untried(found: Counted) -> Counted:
    """What left a row: a job that goes back as it was leaves none."""
    return Counter({key: mails for key, mails in found.items() if key[1] != "untried"})


def untried(found: Counted) -> int:
    """How many jobs went back as they were."""
    return found.total() - but_untried(found).total()


def calls(exposition: str) -> int:
    """How many calls were made to send mails, of which SES may have heard."""
    made = _samples(exposition, "mailroom_calls_total")
    return int(
        sum(one.value for one in made if one.labels["operation"] != "GetAccount" and one.labels["result"] in HEARD)
    )


def waits(exposition: str) -> int:
    """How many waits were counted, each from when a mail was due to its call."""
    return int(sum(one.value for one in _samples(exposition, "mailroom_wait_seconds_count")))


def value(exposition: str, name: str) -> int:
    """The value of a counter that has no labels."""
    [sample] = _samples(exposition, name)
    return int(sample.value)


def recorded(connection: Connection, batches: Iterable[int] | None = None) -> Counted:
    """The rows of the log, by action and outcome, of some batches or all; without those of a rescue."""
    sql = """
        SELECT action, CASE WHEN late THEN 'late' ELSE CAST(outcome AS text) END AS outcome, count(*) AS mails
          FROM deliveries
         WHERE error_code IS DISTINCT FROM 'LeaseExpired'
           AND (CAST(:batches AS bigint[]) IS NULL OR batch = ANY (CAST(:batches AS bigint[])))
         GROUP BY 1, 2
    """
    found = rows(connection, sql, batches=None if batches is None else list(batches))
    return Counter({(row.action, row.outcome): row.mails for row in found})


def attempted(connection: Connection, batches: Iterable[int] | None = None) -> int:
    """How many jobs of batches were attempted, by what is on record: a job of which two answers came is one."""
    sql = """
        SELECT count(DISTINCT (fence, token)) AS jobs
          FROM deliveries
         WHERE coalesce(error_code, '') NOT IN ('LeaseExpired', 'AcceptedLate')
           AND outcome NOT IN ('cancelled', 'suppressed', 'expired')
           AND (CAST(:batches AS bigint[]) IS NULL OR batch = ANY (CAST(:batches AS bigint[])))
    """
    [row] = rows(connection, sql, batches=None if batches is None else list(batches))
    return int(row.jobs)

"""The reports database's tables, in SQL that SQLite and PostgreSQL share.

``document`` is one received report with its raw text, ``report`` its content for one policy domain, ``detail`` the
failures in it. ``tally`` and ``day_total`` are sums over the newest revisions of trusted reports; they outlive the
details. Digests are the first 16 bytes of SHA-256.
"""

from ...store.database import Schema

__all__ = ["POSTGRESQL_VERSION", "SCHEMA", "postgresql_statements"]

_VERSION_1 = (
    """
    CREATE TABLE document (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL,
        received_at BIGINT NOT NULL,
        source TEXT NOT NULL,
        method TEXT NOT NULL,
        identity TEXT NOT NULL,
        auth_detail TEXT NOT NULL,
        organization TEXT NOT NULL,
        contact TEXT NOT NULL,
        deviations TEXT NOT NULL,
        body BLOB
    )
    """,
    "CREATE INDEX document_kept ON document (received_at) WHERE body IS NOT NULL",
    """
    CREATE TABLE report (
        id INTEGER PRIMARY KEY,
        document BIGINT NOT NULL,
        trusted INTEGER NOT NULL,
        submitter TEXT NOT NULL,
        domain TEXT NOT NULL,
        day TEXT NOT NULL,
        begin_at BIGINT NOT NULL,
        end_at BIGINT NOT NULL,
        report_id TEXT NOT NULL,
        report_key BLOB NOT NULL,
        digest BLOB NOT NULL,
        revision INTEGER NOT NULL,
        counted INTEGER NOT NULL,
        successful BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        duplicates INTEGER NOT NULL,
        received_at BIGINT NOT NULL,
        UNIQUE (report_key, digest)
    )
    """,
    "CREATE INDEX report_digest ON report (digest)",
    "CREATE INDEX report_domain ON report (domain, day)",
    "CREATE INDEX report_received ON report (received_at)",
    "CREATE INDEX report_document ON report (document)",
    """
    CREATE TABLE detail (
        report BIGINT NOT NULL,
        position INTEGER NOT NULL,
        policy_type TEXT NOT NULL,
        result_type TEXT NOT NULL,
        sessions BIGINT NOT NULL,
        mx_host TEXT NOT NULL,
        sending_ip TEXT NOT NULL,
        receiving_ip TEXT NOT NULL,
        helo TEXT NOT NULL,
        info TEXT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (report, position)
    ) WITHOUT ROWID
    """,
    # The amounts that a report added to the sums, so that a revision can subtract them.
    """
    CREATE TABLE share (
        report BIGINT NOT NULL,
        result_type TEXT NOT NULL,
        mx_host TEXT NOT NULL,
        successful BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        PRIMARY KEY (report, result_type, mx_host)
    ) WITHOUT ROWID
    """,
    # An empty result_type holds the sums of the summaries; others the sums of failure-details.
    """
    CREATE TABLE tally (
        domain TEXT NOT NULL,
        day TEXT NOT NULL,
        submitter TEXT NOT NULL,
        result_type TEXT NOT NULL,
        mx_host TEXT NOT NULL,
        reports BIGINT NOT NULL,
        successful BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        PRIMARY KEY (domain, day, submitter, result_type, mx_host)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX tally_day ON tally (day)",
    """
    CREATE TABLE day_total (
        day TEXT NOT NULL,
        domain TEXT NOT NULL,
        result_type TEXT NOT NULL,
        reports BIGINT NOT NULL,
        successful BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        PRIMARY KEY (day, domain, result_type)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX day_total_domain ON day_total (domain, day)",
    """
    CREATE TABLE arrival (
        day TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        reports BIGINT NOT NULL,
        PRIMARY KEY (day, kind, subject)
    ) WITHOUT ROWID
    """,
    # How far files and mailboxes have been read.
    """
    CREATE TABLE progress (
        source TEXT NOT NULL PRIMARY KEY,
        state TEXT NOT NULL,
        seen_at BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE silence (
        id INTEGER PRIMARY KEY,
        domain TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL,
        until_at BIGINT NOT NULL,
        created_at BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE alert (
        domain TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail TEXT NOT NULL,
        hint TEXT NOT NULL,
        since BIGINT NOT NULL,
        ended_at BIGINT,
        PRIMARY KEY (domain, kind, subject)
    ) WITHOUT ROWID
    """,
)

# Keys and digests are random. With the day first, the reports that arrive on one day share few pages of each index,
# however many are stored. Without an index on its day, tally is one random page less for each report.
_INDEXES_2 = (
    "CREATE UNIQUE INDEX report_key ON report (day, report_key, digest)",
    "CREATE INDEX report_digest ON report (day, digest)",
    "CREATE INDEX report_domain ON report (domain, id, day, trusted)",
    "CREATE INDEX report_untrusted ON report (domain, id, day, trusted) WHERE trusted = 0",
    "DROP INDEX tally_day",
)

# SQLite cannot drop a constraint of a table.
_VERSION_2 = (
    """
    CREATE TABLE report_2 (
        id INTEGER PRIMARY KEY,
        document BIGINT NOT NULL,
        trusted INTEGER NOT NULL,
        submitter TEXT NOT NULL,
        domain TEXT NOT NULL,
        day TEXT NOT NULL,
        begin_at BIGINT NOT NULL,
        end_at BIGINT NOT NULL,
        report_id TEXT NOT NULL,
        report_key BLOB NOT NULL,
        digest BLOB NOT NULL,
        revision INTEGER NOT NULL,
        counted INTEGER NOT NULL,
        successful BIGINT NOT NULL,
        failed BIGINT NOT NULL,
        duplicates INTEGER NOT NULL,
        received_at BIGINT NOT NULL
    )
    """,
    "INSERT INTO report_2 SELECT * FROM report",
    "DROP TABLE report",
    "ALTER TABLE report_2 RENAME TO report",
    "CREATE INDEX report_received ON report (received_at)",
    "CREATE INDEX report_document ON report (document)",
    *_INDEXES_2,
)

_POSTGRESQL_2 = (
    "ALTER TABLE report DROP CONSTRAINT report_report_key_digest_key",
    "DROP INDEX report_digest",
    "DROP INDEX report_domain",
    *_INDEXES_2,
)

SCHEMA = Schema(application_id=0x4D545352 + 1, table="report", migrations=(_VERSION_1, _VERSION_2))  # MTSS
"""The SQLite file."""

_POSTGRESQL = (
    tuple(
        statement.replace("WITHOUT ROWID", "")
        .replace("INTEGER PRIMARY KEY", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace(" BLOB", " BYTEA")
        for statement in _VERSION_1
    ),
    _POSTGRESQL_2,
)

POSTGRESQL_VERSION = len(_POSTGRESQL)


def postgresql_statements(version: int) -> list[str]:
    """Return the statements that lead from ``version`` to the newest, as PostgreSQL has them."""
    return [statement for step in _POSTGRESQL[version:] for statement in step]

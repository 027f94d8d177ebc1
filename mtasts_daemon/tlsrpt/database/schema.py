"""Define the schema of the TLSRPT database.

A report unit is the subject of one report: one UTC day and one policy domain. Each policy's text is stored
once for all days. ``tally`` has a row for every policy of a report unit, with zeros if only failures without session
are known. ``failure`` has the failures under that policy.
"""

from ...store.database import Schema

__all__ = ["SCHEMA"]

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE policy (
            id INTEGER PRIMARY KEY,
            digest TEXT NOT NULL UNIQUE,
            type INTEGER NOT NULL,
            domain TEXT NOT NULL,
            strings TEXT NOT NULL,
            mx_hosts TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE subject (
            id INTEGER PRIMARY KEY,
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            UNIQUE (day, domain)
        )
        """,
        """
        CREATE TABLE tally (
            subject INTEGER NOT NULL,
            policy INTEGER NOT NULL,
            successful INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            PRIMARY KEY (subject, policy)
        ) WITHOUT ROWID
        """,
        # To find whether a policy is still in use before it is removed.
        "CREATE INDEX tally_policy ON tally (policy)",
        """
        CREATE TABLE failure (
            subject INTEGER NOT NULL,
            policy INTEGER NOT NULL,
            result_type TEXT NOT NULL,
            sending_ip TEXT NOT NULL,
            mx_host TEXT NOT NULL,
            helo TEXT NOT NULL,
            receiving_ip TEXT NOT NULL,
            info TEXT NOT NULL,
            reason_code TEXT NOT NULL,
            count INTEGER NOT NULL,
            PRIMARY KEY (
                subject, policy, result_type, sending_ip, mx_host, helo, receiving_ip, info, reason_code
            )
        ) WITHOUT ROWID
        """,
        # A report is made once and retried unchanged; body is NULL if it will not be sent again.
        """
        CREATE TABLE report (
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            report_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            digest TEXT NOT NULL,
            body BLOB,
            PRIMARY KEY (day, domain)
        )
        """,
        # The state of each report unit, including those of MX hosts whose TLSA records were applied.
        """
        CREATE TABLE plan (
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            next_at REAL,
            reason TEXT NOT NULL,
            PRIMARY KEY (day, domain)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX plan_due ON plan (next_at) WHERE state = 'waiting'",
        "CREATE INDEX policy_mx_host ON policy (domain) WHERE type = 1",
        """
        CREATE TABLE delivery (
            day TEXT NOT NULL,
            domain TEXT NOT NULL,
            uri TEXT NOT NULL,
            tag TEXT NOT NULL UNIQUE,
            lane TEXT NOT NULL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            next_at REAL,
            until REAL,
            last_error TEXT NOT NULL,
            done_at REAL,
            PRIMARY KEY (day, domain, uri)
        )
        """,
        "CREATE INDEX delivery_due ON delivery (lane, next_at) WHERE state = 'pending'",
        "CREATE INDEX delivery_uri ON delivery (uri)",
        """
        CREATE TABLE suppression (
            uri TEXT NOT NULL PRIMARY KEY,
            reason TEXT NOT NULL,
            since REAL NOT NULL,
            until REAL NOT NULL
        )
        """,
    ),
    # How far logs have been imported; a file is identified by its first bytes.
    (
        """
        CREATE TABLE log_mark (
            length INTEGER NOT NULL,
            digest TEXT NOT NULL,
            path TEXT NOT NULL,
            position INTEGER NOT NULL,
            seen_at REAL NOT NULL,
            PRIMARY KEY (length, digest)
        ) WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE subject RENAME TO report_unit",
        "ALTER TABLE tally RENAME COLUMN subject TO unit",
        "ALTER TABLE failure RENAME COLUMN subject TO unit",
        "ALTER TABLE delivery RENAME COLUMN lane TO destination",
    ),
)

SCHEMA = Schema(application_id=0x4D545352, table="tally", migrations=_MIGRATIONS)  # MTSR
"""Schema of the TLSRPT database file."""

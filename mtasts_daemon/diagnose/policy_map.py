"""The table of smtp_tls_policy_maps with which this host's Postfix asks the daemon, and the zone of its replies."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..postfix.main_cf import main_cf_value

__all__ = ["PolicyMap", "policy_map"]

_SOCKETMAP = re.compile(r"socketmap:(?:unix|inet):[^\s,{}]*:([^\s,:{}]+)")
_TCP_TABLE = re.compile(r"(?<![^\s,{])tcp:[^\s,{}]+")


@dataclass(frozen=True, slots=True)
class PolicyMap:
    """The zone, the table as in main.cf (empty if it names none), and one sentence on both."""

    zone: str
    table: str
    sentence: str

    @property
    def is_tcp_table(self) -> bool:
        """Return True if Postfix asks with tcp_table(5), which has shorter replies."""
        return self.table.startswith("tcp:")


def policy_map(main_cf: str | None, zones: Iterable[str], default: str) -> PolicyMap:
    """Return the table in this text of main.cf, None if that is not readable.

    ``zones`` are the configured map names, ``default`` that of other names. The first socketmap table with a
    configured name counts, then the first tcp_table, then any socketmap table.
    """
    if main_cf is None:
        return PolicyMap(default, "", f"main.cf cannot be read; shown for map name {default}")
    maps = main_cf_value(main_cf, "smtp_tls_policy_maps")
    known = {name.lower(): name for name in zones}
    socketmaps = [(match[0], match[1]) for match in _SOCKETMAP.finditer(maps)]
    for table, name in socketmaps:
        if name.lower() in known:
            return PolicyMap(known[name.lower()], table, f"Postfix asks with {table}")
    if (tcp := _TCP_TABLE.search(maps)) is not None:
        return PolicyMap(default, tcp[0], f"Postfix asks with {tcp[0]}; tcp_table has no map names: {default} applies")
    for table, name in socketmaps:
        return PolicyMap(default, table, f"Postfix asks with {table}; there is no zone {name}: {default} applies")
    names = "smtp_tls_policy_maps in main.cf names no table of this daemon"
    return PolicyMap(default, "", f"{names}; shown for map name {default}")

"""The parts that no lookup needs. The daemon imports them on a thread when its lookup listeners are open."""

from ..admin.history import History
from ..admin.listeners import AdminListeners
from ..admin.service import AdminService, DaemonParts
from ..lookup.refresher import Refresher, RefreshSettings
from ..lookup.store_recovery import StoreRecovery
from .receiving_process import ReceivingProcess

__all__ = [
    "AdminListeners",
    "AdminService",
    "DaemonParts",
    "History",
    "ReceivingProcess",
    "RefreshSettings",
    "Refresher",
    "StoreRecovery",
]

"""Sessions on disk and everything beside them: every byte in a store is read and written here."""

from slimbrain.store.channels import Channels
from slimbrain.store.contract import ROI, Contract
from slimbrain.store.manifest import SessionInfo, SessionTable
from slimbrain.store.store import Store

__all__ = ["ROI", "Channels", "Contract", "SessionInfo", "SessionTable", "Store"]

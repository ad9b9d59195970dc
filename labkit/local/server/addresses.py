"""Who has which public address: the API servers, outbound traffic and load balancers of all clusters."""

from __future__ import annotations

import ipaddress
import sqlite3

PUBLIC = ipaddress.ip_network("192.0.2.0/24")  # TEST-NET-1: documentation addresses stand in for Azure's
_FIRST = 10  # the addresses below are the internet's own routers


class PublicAddresses:
    """A table of public addresses in the lab's database; an owner keeps its address over restarts."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute(
            "CREATE TABLE IF NOT EXISTS public_addresses (address TEXT PRIMARY KEY, owner TEXT UNIQUE NOT NULL)"
        )

    def allocate(self, owner: str) -> str:
        """The owner's address, a new one where it has none.

        Args:
            owner: "<cluster key>/<what for>".

        Raises:
            RuntimeError: all addresses are taken.
        """
        row = self._database.execute(
            "SELECT address FROM public_addresses WHERE owner = ?", (owner,)
        ).fetchone()
        if row:
            return str(row[0])
        taken = {r[0] for r in self._database.execute("SELECT address FROM public_addresses")}
        for address in list(PUBLIC.hosts())[_FIRST - 1 :]:
            if str(address) not in taken:
                self._database.execute("INSERT INTO public_addresses VALUES (?, ?)", (str(address), owner))
                return str(address)
        raise RuntimeError(
            f"all public addresses of {PUBLIC} are in use; delete a service of type LoadBalancer first"
        )

    def claim(self, owner: str, address: str) -> str:
        """Give the owner this very address instead of the one it has.

        Raises:
            ValueError: it is not one of the lab's, or somebody else has it.
        """
        if address not in {str(ip) for ip in list(PUBLIC.hosts())[_FIRST - 1 :]}:
            raise ValueError(f"{address} is not a public address of this lab; those are in {PUBLIC}")
        row = self._database.execute(
            "SELECT owner FROM public_addresses WHERE address = ?", (address,)
        ).fetchone()
        if row and row[0] != owner:
            raise ValueError(f"the public address {address} is in use")
        if not row:
            self._database.execute("DELETE FROM public_addresses WHERE owner = ?", (owner,))
            self._database.execute("INSERT INTO public_addresses VALUES (?, ?)", (address, owner))
        return address

    def release(self, address: str) -> None:
        """Give an address back."""
        self._database.execute("DELETE FROM public_addresses WHERE address = ?", (address,))

    def release_cluster(self, cluster: str) -> None:
        """Give back all addresses of a cluster."""
        self._database.execute("DELETE FROM public_addresses WHERE owner LIKE ?", (f"{cluster}/%",))

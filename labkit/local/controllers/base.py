"""What a controller is: stores it reads, keys it works on, events it records."""

from __future__ import annotations

from dataclasses import dataclass, field

from labkit.local.client import Client, Obj

from .events import Recorder
from .queue import Key, Work, WorkQueue
from .settings import Cloud, ClusterSettings
from .store import Stores, key_of


@dataclass
class Context:
    """What all controllers of a cluster share."""

    client: Client
    cloud: Cloud
    settings: ClusterSettings
    stores: Stores = field(init=False)
    queue: WorkQueue = field(default_factory=WorkQueue)

    def __post_init__(self) -> None:
        self.stores = Stores(self.client)


class Controller:
    """Brings one kind of object to its desired state, key by key.

    A subclass connects stores to `enqueue` in `__init__` and works in `reconcile`, which may be called at
    any time, must be idempotent, and may raise ApiError to be called again a little later.
    """

    component = ""
    """The source of the events of this controller."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.stores, self.queue, self.settings = context.stores, context.queue, context.settings
        self.events = Recorder(context.client, self.component)
        self.work: Work = self.reconcile

    def start(self) -> None:
        """Called once, after the watches have begun, on the event loop."""

    def stop(self) -> None:
        """Called once; nothing is reconciled after it."""

    def reconcile(self, key: Key) -> None:
        """Bring the object of this key to its desired state."""
        raise NotImplementedError

    def enqueue(self, key: Key | None) -> None:
        """Reconcile this key soon."""
        if key is not None:
            self.queue.add(self.work, key)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Reconcile this key in a while."""
        self.queue.add_after(self.work, key, seconds)

    def on_object(self, old: Obj | None, new: Obj | None) -> None:
        """Subscriber: reconcile whatever changed."""
        obj = new or old
        assert obj is not None
        self.enqueue(key_of(obj))

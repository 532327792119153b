"""One owner of a campaign, on one machine or many: a lock here, an epoch and a beacon in the store.

`owned(root, campaign)` owns the campaign while its block runs. On this machine the lock of `flows.machine.run_lock` decides:
the kernel releases it when its process ends, so after a `kill -9` a resume continues at once. Across machines the newest epoch in the store
decides (`lineage.log.epochs`). Its owner rewrites its beacon every sixth of `take_over_s`; a newcomer on another machine
watches the beacon for a full `take_over_s` of its own monotonic clock and takes the campaign over only when nothing
changed meanwhile. An owner that was only slow or stopped finds the later epoch at its next write, and ends with a
sentence that names the new owner. Clocks of different machines are never compared.

Cost on S3: one PUT and one DELETE for each beat, one LIST for each event and each result.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flows.engine.campaign_config import load_config
from flows.machine.folders import home
from flows.machine.run_lock import campaign_lease
from lineage.errors import BakeoffError, ObjectExists, RunBusy, StoreError, Superseded
from lineage.log.epochs import Fence, Owner, beacon_key, beacons, claim_epoch, newest_owner
from lineage.store.objects import Store, check_store, open_store

BEATS = 6  # per take-over wait: a slow store may lose five before a live owner counts as dead


@dataclass
class Ownership:
    """A claimed epoch. `when_lost` is called once, from another thread, when somebody else claims the next one."""

    owner: Owner
    fence: Fence
    when_lost: list[Callable[[], None]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return self.owner.epoch


def home_name() -> str:
    """Names this machine's lock folder for good: a random word kept in BAKEOFF_HOME, beside the host's name."""
    path = home() / "leases" / "home-id"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return f"{socket.gethostname()}/{path.read_text('utf-8').strip()}"


@contextmanager
def owned(
    root: str,
    campaign: str,
    *,
    take_over: bool = False,
    server: str = "",
    tell: Callable[[str], None] | None = None,
) -> Iterator[Ownership]:
    """Own the campaign while the block runs.

    `server` is the address that trials are dispatched through, empty when they run in this process. Raises RunBusy when
    a live owner has the campaign; with `take_over` the beacon of another machine is not awaited.
    """
    say = tell or (lambda text: print(text, file=sys.stderr, flush=True))
    with campaign_lease(root, campaign):
        store = open_store(root)
        if "://" in root:
            check_store(store)  # a look-alike that overwrites would lose results in silence
        wait_s = load_config(store, campaign).settings.take_over_s
        me = Owner(
            epoch=1,
            host=socket.gethostname(),
            pid=os.getpid(),
            start=uuid.uuid4().hex,
            home=home_name(),
            server=server,
        )
        last = newest_owner(store, campaign)
        if last is not None and last.home != me.home and not take_over:
            _wait_for_silence(store, root, campaign, last, wait_s, say)
        me = me.model_copy(update={"epoch": last.epoch + 1 if last is not None else 1})
        try:
            claim_epoch(store, campaign, me)
        except ObjectExists:
            raise _busy(root, campaign, newest_owner(store, campaign)) from None
        ownership = Ownership(me, Fence(store, campaign, me.epoch, root=root))
        beacon = _Beacon(store, campaign, ownership, wait_s / BEATS)
        beacon.start()
        try:
            yield ownership
        finally:
            beacon.end()


def _wait_for_silence(
    store: Store, root: str, campaign: str, last: Owner, wait_s: float, say: Callable[[str], None]
) -> None:
    """Return when the owner has ended, or its beacon has not changed for `wait_s` seconds. Raises RunBusy when it changes."""
    first = beacons(store, campaign, last.epoch)
    if not first:
        return  # it ended normally, or before its first beat
    say(
        f"{campaign}: was run by {last}; waiting {wait_s:.0f} s for its beacon to change before taking it over "
        "(--take-over skips this)"
    )
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        time.sleep(min(max(wait_s / 20, 0.05), max(0.0, until - time.monotonic())))
        newest = newest_owner(store, campaign)
        if newest is not None and newest.epoch != last.epoch:
            raise _busy(root, campaign, newest)
        seen = beacons(store, campaign, last.epoch)
        if not seen:
            return
        if seen != first:
            raise _busy(root, campaign, last)
    say(f"{campaign}: no beacon from {last} for {wait_s:.0f} s; taking it over")


def _busy(root: str, campaign: str, holder: Owner | None) -> RunBusy:
    return RunBusy(
        f"{root}: campaign {campaign} is already running as {holder}, which is alive; watch it with `bakeoff watch`, "
        "end it there with `bakeoff stop`, or take it over with `bakeoff resume --take-over`"
    )


class _Beacon:
    """Writes a new object for each beat and deletes the one before; a thread of its own, whatever the campaign does."""

    def __init__(self, store: Store, campaign: str, ownership: Ownership, every_s: float) -> None:
        self._store, self._campaign, self._ownership = store, campaign, ownership
        self._every_s = every_s
        self._over = threading.Event()
        self._beat = 0
        self._thread = threading.Thread(target=self._run, name="beacon", daemon=True)

    def start(self) -> None:
        self._write()
        self._thread.start()

    def end(self) -> None:
        """Delete the beacon, so that the next owner need not wait."""
        self._over.set()
        self._thread.join(2 * self._every_s)
        epoch = self._ownership.epoch
        try:
            self._store.delete(beacons(self._store, self._campaign, epoch))
        except StoreError:
            pass  # no answer from the store: the next owner waits for the beacon to stop instead

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._ownership.fence.check()
                self._write()
            except Superseded:
                for call in self._ownership.when_lost:
                    call()
                return
            except BakeoffError:
                continue  # no answer from the store; the next beat tries again

    def _write(self) -> None:
        epoch, owner = self._ownership.epoch, self._ownership.owner
        self._beat += 1
        key = beacon_key(self._campaign, epoch, self._beat)
        self._store.create(key, f"{owner.host} {owner.pid} {owner.start} {self._beat}".encode())
        if self._beat > 1:
            self._store.delete([beacon_key(self._campaign, epoch, self._beat - 1)])

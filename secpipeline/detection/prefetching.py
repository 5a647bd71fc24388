"""Prepare what comes next while the present is worked on.

>>> list(prefetch(iter([1, 2, 3])))
[1, 2, 3]
"""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_AHEAD = 2
_END = object()


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, taken by a thread that stays up to two ahead; what ``items`` raises is raised here."""
    ready: queue.Queue[Any] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stopped), daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not _END:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopped.set()
        with contextlib.suppress(queue.Empty):  # room for a thread that waits to put one
            while True:
                ready.get_nowait()
        thread.join()


def _fill(items: Iterator[Any], ready: queue.Queue[Any], stopped: threading.Event) -> None:
    last: Any = _END
    try:
        for item in items:
            ready.put(item)
            if stopped.is_set():
                return
    except BaseException as error:  # noqa: BLE001 - raised again where the item is asked for
        last = error
    ready.put(last)


def prefetch_on(device: torch.device, items: Iterator[T]) -> Iterator[T]:
    """As :func:`prefetch`, for items on a CUDA device: they are prepared on a stream of their own.

    An item is let go of only when the step that used it is over, because its memory belongs to the other stream, which
    would use it again at once.
    """
    used: collections.deque[tuple[T, torch.cuda.Event]] = collections.deque()
    for item, prepared in prefetch(_prepared(items, device)):
        torch.cuda.current_stream(device).wait_event(prepared)
        yield item
        used.append((item, torch.cuda.current_stream(device).record_event()))
        if len(used) > _AHEAD:
            used.popleft()[1].synchronize()


def _prepared(items: Iterator[T], device: torch.device) -> Iterator[tuple[T, torch.cuda.Event]]:
    """The items, and what has to happen on the device before each may be used."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch does not annotate it
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(stream):
        for item in items:
            yield item, stream.record_event()

"""Ctrl-C and SIGTERM while a program of XLA runs or is compiled, which lets no signal through before it ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

from ..errors import T


class Interrupted(BaseException):
    """A signal came."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def interruptible(work: Callable[[], T], on_signal: Callable[[str], None]) -> T:
    """`work()`, in a thread of its own; this one waits and listens.

    At SIGINT (Ctrl-C) or SIGTERM `on_signal` is called with the signal's name, at once, beside the work; then the
    process ends with 128 and the signal's number, 130 or 143. A second signal ends it on the spot.
    """
    outcome: dict[str, T] = {}
    failure: list[BaseException] = []

    def kept():
        try:
            outcome["value"] = work()
        except BaseException as error:  # told to the thread that waits
            failure.append(error)

    # what processes that decode images held is freed after `os._exit`, too, but not without a warning
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    thread = threading.Thread(target=kept, daemon=True)
    listened = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _raise) for number in listened]
    try:
        thread.start()
        while thread.is_alive():
            thread.join(1)
    except Interrupted as stopped:
        try:
            on_signal(signal.Signals(stopped.number).name)
        finally:
            for process in multiprocessing.active_children():  # those that decode images
                process.kill()
            os._exit(128 + stopped.number)  # the work cannot be ended otherwise
    finally:
        for number, handler in zip(listened, before, strict=True):
            signal.signal(number, handler)
    if failure:
        raise failure[0]
    return outcome["value"]


def _raise(number, frame):
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise Interrupted(number)

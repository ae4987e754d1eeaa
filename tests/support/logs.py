"""What is logged while a test runs."""

from contextlib import contextmanager

from twisted.logger import formatEvent, globalLogPublisher


@contextmanager
def lines_logged(namespace):
    """The events of a name space, as lines."""
    lines = []

    def observe(event):
        if event.get("log_namespace") == namespace:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)

"""What comes of the connections of a generator."""


class Failures:
    """Connections that failed, and what the first said."""

    def __init__(self):
        self.count = 0
        self.first = None

    def add(self, error, count=1):
        self.count += count
        self.first = self.first or f"{type(error).__name__}: {error}"

    def report(self):
        return {"failed": self.count, "error": self.first}


class UnexpectedAnswer(Exception):
    pass


def check(answer, expected):
    if not answer.startswith(expected):
        raise UnexpectedAnswer(f"{answer[:8].hex()} instead of {expected.hex()}" if answer else "closed")


def report(done, failures, times, seconds):
    """What came of a run. Times are in seconds."""
    times.sort()
    shares = {f"p{share}": times[len(times) * share // 100] if times else None for share in (50, 99)}
    return {"done": done, "seconds": seconds, **shares, **failures.report()}

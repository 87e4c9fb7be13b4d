"""A queue as a list."""


class ListQueue:
    """What a queue is: a list, the newest at its end, whose front is cut where it grows too long."""

    def __init__(self, size: int, initial_rows: list[list[float]]):
        self.size = size
        self.entries = [(row, 0, -1) for row in initial_rows]

    def enqueue(self, rows: list[list[float]], ids: list[int], step: int) -> None:
        for row, number in zip(rows, ids, strict=True):
            self.entries.append((row, step, number))
            if len(self.entries) > self.size:
                self.entries.pop(0)

    def newest_first(self) -> list[tuple[list[float], int, int]]:
        return self.entries[::-1]

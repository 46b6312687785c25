class Text:
    """A text whose history is a tree."""

    def __init__(self, start: str = "") -> None:
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError

    def insert(self, position: int, string: str) -> None:
        raise NotImplementedError

    def delete(self, position: int, count: int) -> None:
        raise NotImplementedError

    def undo(self) -> bool:
        raise NotImplementedError

    def redo(self, branch: int | None = None) -> bool:
        raise NotImplementedError

    def branches(self) -> int:
        raise NotImplementedError

    def group(self):
        raise NotImplementedError

    def mark(self, name: str) -> None:
        raise NotImplementedError

    def goto(self, name: str) -> str:
        raise NotImplementedError

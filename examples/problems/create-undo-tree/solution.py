from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Edit:
    """At `position`, `old` was replaced by `new`."""

    position: int
    old: str
    new: str

    def apply(self, content: str) -> str:
        return content[: self.position] + self.new + content[self.position + len(self.old) :]

    def revert(self, content: str) -> str:
        return Edit(self.position, self.new, self.old).apply(content)


@dataclass(eq=False)
class Step:
    """One point of the tree: the edits that lead to it from its parent, and the branches that go on from it."""

    parent: Step | None
    edits: list[Edit] = field(default_factory=list)
    children: list[Step] = field(default_factory=list)
    last_child: Step | None = None

    def path(self) -> list[Step]:
        """From the root to here."""
        steps = [self]
        while steps[-1].parent is not None:
            steps.append(steps[-1].parent)
        return steps[::-1]


class Text:
    """A text whose history is a tree."""

    def __init__(self, start: str = "") -> None:
        self._content = start
        self._here = Step(parent=None)
        self._marks: dict[str, Step] = {}
        self._typing = False
        self._group_depth = 0
        self._group_edits: list[Edit] = []

    def __str__(self) -> str:
        return self._content

    def insert(self, position: int, string: str) -> None:
        if not 0 <= position <= len(self._content):
            raise IndexError(f"position {position} is outside the text")
        if string:
            self._edit(Edit(position, "", string))

    def delete(self, position: int, count: int) -> None:
        if position < 0 or count < 0 or position + count > len(self._content):
            raise IndexError(f"{count} characters at {position} are outside the text")
        if count:
            self._edit(Edit(position, self._content[position : position + count], ""))

    def undo(self) -> bool:
        self._close_step()
        if self._here.parent is None:
            return False
        self._step_back()
        return True

    def redo(self, branch: int | None = None) -> bool:
        self._close_step()
        if branch is not None:
            if not 0 <= branch < len(self._here.children):
                raise IndexError(f"there is no branch {branch}")
            self._step_on(self._here.children[branch])
            return True
        if self._here.last_child is None:
            return False
        self._step_on(self._here.last_child)
        return True

    def branches(self) -> int:
        return len(self._here.children)

    @contextmanager
    def group(self) -> Iterator[None]:
        self._group_depth += 1
        try:
            yield
        except BaseException:
            if self._group_depth == 1:
                for edit in reversed(self._group_edits):
                    self._content = edit.revert(self._content)
                self._group_edits = []
            raise
        finally:
            self._group_depth -= 1
            if self._group_depth == 0:
                if self._group_edits:
                    self._add_step(self._group_edits)
                self._group_edits = []
                self._typing = False

    def mark(self, name: str) -> None:
        self._close_step()
        self._marks[name] = self._here

    def goto(self, name: str) -> str:
        self._close_step()
        target = self._marks[name].path()
        while self._here not in target:
            self._step_back()
        for step in target[target.index(self._here) + 1 :]:
            self._step_on(step)
        return self._content

    def _edit(self, edit: Edit) -> None:
        self._content = edit.apply(self._content)
        if self._group_depth:
            self._group_edits.append(edit)
            return
        typed = len(edit.new) == 1 and not edit.old
        if typed and self._typing and self._joins(edit):
            self._here.edits.append(edit)
        else:
            self._add_step([edit])
        self._typing = typed

    def _joins(self, edit: Edit) -> bool:
        before = self._here.edits[-1]
        return edit.position == before.position + 1 and before.new != "\n"

    def _add_step(self, edits: list[Edit]) -> None:
        step = Step(self._here, edits)
        self._here.children.append(step)
        self._here.last_child = step
        self._here = step

    def _close_step(self) -> None:
        if self._group_depth:
            raise RuntimeError("not inside a group")
        self._typing = False

    def _step_back(self) -> None:
        step = self._here
        for edit in reversed(step.edits):
            self._content = edit.revert(self._content)
        if step.parent is not None:
            step.parent.last_child = step
            self._here = step.parent

    def _step_on(self, step: Step) -> None:
        for edit in step.edits:
            self._content = edit.apply(self._content)
        self._here.last_child = step
        self._here = step

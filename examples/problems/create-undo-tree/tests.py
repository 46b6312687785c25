import unittest

from main import Text


def type_in(text: Text, position: int, string: str) -> None:
    for offset, character in enumerate(string):
        text.insert(position + offset, character)


class EditTest(unittest.TestCase):
    def test_insert_and_delete(self):
        text = Text("tree")
        text.insert(4, "top")
        text.insert(0, "a ")
        text.delete(2, 4)
        self.assertEqual(str(text), "a top")

    def test_positions_outside_the_text_are_refused(self):
        text = Text("tree")
        for position, count in ((-1, 1), (0, 5), (4, 1), (3, -1), (5, 0)):
            with self.assertRaises(IndexError):
                text.delete(position, count)
        for position in (-1, 5):
            with self.assertRaises(IndexError):
                text.insert(position, "x")
            with self.assertRaises(IndexError):
                text.insert(position, "")
        self.assertEqual(str(text), "tree")

    def test_refused_edit_leaves_no_trace(self):
        text = Text("tree")
        text.insert(4, "s")
        with self.assertRaises(IndexError):
            text.insert(9, "x")
        self.assertTrue(text.undo())
        self.assertFalse(text.undo())
        self.assertEqual(text.branches(), 1)

    def test_empty_edits_are_no_steps(self):
        text = Text("tree")
        text.insert(4, "")
        text.delete(4, 0)
        self.assertFalse(text.undo())
        self.assertEqual(text.branches(), 0)


class UndoTest(unittest.TestCase):
    def test_undo_and_redo(self):
        text = Text("one")
        text.insert(3, " two")
        text.delete(0, 4)
        self.assertTrue(text.undo())
        self.assertEqual(str(text), "one two")
        self.assertTrue(text.undo())
        self.assertEqual(str(text), "one")
        self.assertTrue(text.redo())
        self.assertTrue(text.redo())
        self.assertEqual(str(text), "two")

    def test_undo_at_the_root_says_no(self):
        text = Text("one")
        self.assertIs(text.undo(), False)
        self.assertIs(text.redo(), False)
        self.assertEqual(str(text), "one")

    def test_typing_is_one_step(self):
        text = Text("say ")
        type_in(text, 4, "hello")
        text.insert(9, "!!")
        self.assertTrue(text.undo())
        self.assertEqual(str(text), "say hello")
        self.assertTrue(text.undo())
        self.assertEqual(str(text), "say ")
        self.assertFalse(text.undo())

    def test_typing_elsewhere_is_another_step(self):
        text = Text("ab")
        type_in(text, 2, "cd")
        type_in(text, 0, "xy")
        text.delete(0, 1)
        type_in(text, 1, "z")
        contents = [str(text)]
        while text.undo():
            contents.append(str(text))
        self.assertEqual(contents, ["yzabcd", "yabcd", "xyabcd", "abcd", "ab"])

    def test_line_end_closes_a_typed_step(self):
        text = Text()
        type_in(text, 0, "one\ntwo")
        text.undo()
        self.assertEqual(str(text), "one\n")
        text.undo()
        self.assertEqual(str(text), "")

    def test_typing_after_undo_is_a_step_of_its_own(self):
        text = Text()
        type_in(text, 0, "ab")
        text.undo()
        text.redo()
        type_in(text, 2, "cd")
        text.mark("here")
        type_in(text, 4, "ef")
        contents = []
        while text.undo():
            contents.append(str(text))
        self.assertEqual(contents, ["abcd", "ab", ""])


class BranchTest(unittest.TestCase):
    def test_redo_takes_the_branch_that_was_left_last(self):
        text = Text()
        text.insert(0, "first")
        text.undo()
        text.insert(0, "second")
        text.undo()
        self.assertEqual(text.branches(), 2)
        text.redo()
        self.assertEqual(str(text), "second")
        text.undo()
        text.redo(0)
        text.undo()
        text.redo()
        self.assertEqual(str(text), "first")

    def test_redo_of_a_chosen_branch(self):
        text = Text()
        for word in ("first", "second", "third"):
            text.insert(0, word)
            text.undo()
        for number, word in enumerate(("first", "second", "third")):
            self.assertTrue(text.redo(number))
            self.assertEqual(str(text), word)
            text.undo()

    def test_redo_of_an_unknown_branch(self):
        text = Text()
        text.insert(0, "first")
        text.undo()
        for number in (1, -1):
            with self.assertRaises(IndexError):
                text.redo(number)
        self.assertEqual(str(text), "")
        self.assertTrue(text.redo())

    def test_no_text_is_ever_lost(self):
        text = Text("0")
        for depth in range(3):
            for word in ("abc", "def"):
                text.insert(len(str(text)), f"{depth}{word}")
                text.undo()
            text.redo(depth % 2)
        while text.undo():
            pass
        seen = []

        def walk():
            seen.append(str(text))
            for number in range(text.branches()):
                text.redo(number)
                walk()
                text.undo()

        walk()
        self.assertEqual(seen, ["0", "00abc", "00abc1abc", "00abc1def", "00abc1def2abc", "00abc1def2def", "00def"])


class GroupTest(unittest.TestCase):
    def test_group_is_one_step(self):
        text = Text("cat")
        with text.group():
            text.delete(0, 1)
            text.insert(0, "b")
            text.insert(3, "s")
        with text.group():
            pass
        type_in(text, 4, "!")
        self.assertEqual(str(text), "bats!")
        text.undo()
        self.assertEqual(str(text), "bats")
        text.undo()
        self.assertEqual(str(text), "cat")
        self.assertFalse(text.undo())

    def test_nested_groups_are_one_step(self):
        text = Text()
        with text.group():
            text.insert(0, "a")
            with text.group():
                text.insert(1, "b")
            try:
                with text.group():
                    text.insert(2, "c")
                    raise ValueError
            except ValueError:
                pass
            text.insert(3, "d")
        self.assertEqual(str(text), "abcd")
        text.undo()
        self.assertEqual(str(text), "")
        self.assertEqual(text.branches(), 1)

    def test_group_that_raises_is_rolled_back(self):
        text = Text("cat")
        with self.assertRaises(ZeroDivisionError), text.group():
            text.insert(3, "s")
            with text.group():
                text.delete(0, 2)
            raise ZeroDivisionError
        self.assertEqual(str(text), "cat")
        self.assertFalse(text.undo())
        self.assertEqual(text.branches(), 0)
        text.insert(0, "a ")
        self.assertEqual(str(text), "a cat")

    def test_undo_inside_a_group_is_refused(self):
        text = Text()
        text.insert(0, "one")
        text.mark("start")
        with text.group():
            text.insert(3, "!")
            for action in (text.undo, text.redo, lambda: text.mark("x"), lambda: text.goto("start")):
                with self.assertRaises(RuntimeError):
                    action()
        self.assertEqual(str(text), "one!")
        with self.assertRaises(KeyError):
            text.goto("x")


class MarkTest(unittest.TestCase):
    def setUp(self):
        self.text = Text()
        self.text.insert(0, "trunk")
        self.text.insert(5, " left")
        self.text.insert(10, " leaf")
        self.text.mark("left")
        self.text.undo()
        self.text.undo()
        self.text.insert(5, " right")
        self.text.mark("right")

    def test_goto_walks_to_another_branch(self):
        self.assertEqual(self.text.goto("left"), "trunk left leaf")
        self.assertEqual(self.text.goto("right"), "trunk right")
        self.assertEqual(self.text.goto("right"), "trunk right")
        self.assertEqual(str(self.text), "trunk right")

    def test_goto_changes_what_redo_does(self):
        self.text.goto("left")
        self.text.undo()
        self.text.undo()
        self.assertEqual(str(self.text), "trunk")
        self.text.redo()
        self.assertEqual(str(self.text), "trunk left")
        self.text.mark("right")
        self.assertEqual(self.text.goto("right"), "trunk left")

    def test_unknown_mark(self):
        with self.assertRaises(KeyError):
            self.text.goto("nowhere")
        self.assertEqual(str(self.text), "trunk right")


if __name__ == "__main__":
    unittest.main()

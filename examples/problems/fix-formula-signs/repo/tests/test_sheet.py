from sumsheet import Sheet


def test_rename():
    sheet = Sheet({"net": "80", "vat": "net * 0.25", "gross": "net + vat"})
    sheet.rename("vat", "tax")
    assert sheet.formula("gross") == "net + tax"
    assert sheet.value("gross") == 100


def test_rename_keeps_needed_parentheses():
    sheet = Sheet({"a": "1", "b": "2", "c": "(a + b) * 3"})
    sheet.rename("a", "x")
    assert sheet.formula("c") == "(x + b) * 3"

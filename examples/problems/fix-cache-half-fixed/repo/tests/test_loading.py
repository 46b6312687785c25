from hotshelf import LoadingShelf, ManualClock


def test_loads_once():
    calls = []

    def load(key):
        calls.append(key)
        return key.upper()

    shelf = LoadingShelf(capacity=2, ttl_s=60, clock=ManualClock())
    assert shelf.get_or_load("apple", load) == "APPLE"
    assert shelf.get_or_load("apple", load) == "APPLE"
    assert calls == ["apple"]

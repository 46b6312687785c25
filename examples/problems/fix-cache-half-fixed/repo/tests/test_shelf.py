from hotshelf import ManualClock, Shelf


def test_get_and_put():
    shelf = Shelf(capacity=2, ttl_s=60, clock=ManualClock())
    shelf.put("apple", 1)
    assert shelf.get("apple") == 1
    assert shelf.get("pear") is None
    assert (shelf.stats.hits, shelf.stats.misses) == (1, 1)


def test_oldest_goes_first():
    shelf = Shelf(capacity=2, ttl_s=60, clock=ManualClock())
    for number, name in enumerate(["apple", "pear", "plum"]):
        shelf.put(name, number)
    assert shelf.get("apple") is None
    assert len(shelf) == 2


def test_expiry():
    clock = ManualClock()
    shelf = Shelf(capacity=2, ttl_s=60, clock=clock)
    shelf.put("apple", 1)
    clock.advance(61)
    assert shelf.get("apple") is None
    assert shelf.stats.expired == 1

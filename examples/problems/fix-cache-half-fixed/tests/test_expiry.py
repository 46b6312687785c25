import pytest

from hotshelf import ManualClock, Shelf


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def shelf(clock) -> Shelf:
    return Shelf(capacity=3, ttl_s=60, clock=clock)


def test_refreshed_entry_lives_on(shelf, clock):
    for number in range(10):
        shelf.put("apple", number)
        clock.advance(30)
        assert shelf.get("apple") == number
    clock.advance(29.9)
    assert shelf.get("apple") == 9
    clock.advance(0.1)
    assert shelf.get("apple") is None
    assert shelf.stats.expired == 1


def test_entry_put_again_after_delete_lives_on(shelf, clock):
    shelf.put("apple", 1)
    clock.advance(50)
    shelf.delete("apple")
    shelf.put("apple", 2)
    clock.advance(50)
    assert shelf.get("apple") == 2
    assert shelf.stats.expired == 0


def test_longer_ttl_replaces_a_shorter_one(shelf, clock):
    shelf.put("apple", 1, ttl_s=5)
    shelf.put("apple", 2, ttl_s=500)
    shelf.put("pear", 1, ttl_s=500)
    shelf.put("pear", 2, ttl_s=5)
    clock.advance(10)
    assert shelf.get("apple") == 2
    assert shelf.get("pear") is None
    clock.advance(490)
    assert shelf.get("apple") is None


def test_expired_entries_make_room_before_live_ones(shelf, clock):
    shelf.put("live", 1, ttl_s=500)
    shelf.put("old", 1)
    shelf.put("older", 1)
    clock.advance(60)
    shelf.put("new", 1)
    shelf.put("newer", 1)
    assert shelf.get("live") == 1
    assert len(shelf) == 3


def test_expirations_are_not_counted_as_evictions(shelf, clock):
    for name in "abc":
        shelf.put(name, 1)
    clock.advance(100)
    for name in "defg":
        shelf.put(name, 1)
    assert shelf.stats.expired == 3
    assert shelf.stats.evicted == 1


def test_entry_expires_at_its_deadline(shelf, clock):
    shelf.put("apple", 1)
    clock.advance(59.9)
    assert shelf.get("apple") == 1
    clock.advance(0.1)
    assert shelf.get("apple") is None
    assert len(shelf) == 0


def test_least_recently_used_goes_first(shelf):
    for name in "abcde":
        shelf.put(name, name)
    assert [shelf.get(name) for name in "abcde"] == [None, None, "c", "d", "e"]
    assert shelf.stats.evicted == 2


def test_reading_makes_an_entry_young_again(shelf):
    for name in "abc":
        shelf.put(name, name)
    shelf.get("a")
    shelf.put("d", "d")
    assert shelf.get("a") == "a"
    assert shelf.get("b") is None


def test_overwriting_does_not_evict(shelf):
    for name in "abcabc":
        shelf.put(name, name)
    assert len(shelf) == 3
    assert shelf.stats.evicted == 0


def test_capacity_of_zero_is_refused(clock):
    with pytest.raises(ValueError, match="capacity"):
        Shelf(capacity=0, ttl_s=60, clock=clock)

"""What a run's keys take of memory, and what is known of them for ever."""

from ridges.gateway.idempotency_keys import MOST_KEPT, IdempotencyKeys


def answered(keys, *names):
    for name in names:
        keys.reserved(name, f"call {name}", "digest")
        keys.answered(name, f"call {name}", None)


def test_memory_is_bounded_and_no_key_is_taken_for_new():
    keys, names = IdempotencyKeys(), [f"key-{number}" for number in range(20 * MOST_KEPT)]
    answered(keys, *names)
    assert len(keys) == MOST_KEPT
    assert all(keys.get(name) or keys.may_stand_in_log(name) for name in names)
    new = [f"new-{number}" for number in range(10_000)]
    assert sum(map(keys.may_stand_in_log, new)) < 100, "few new keys are looked up in vain"


def test_a_run_with_few_keys_looks_nothing_up():
    keys = IdempotencyKeys()
    answered(keys, *map(str, range(MOST_KEPT)))
    assert not keys.may_stand_in_log("new")


def test_calls_in_flight_are_kept_however_many_end():
    keys = IdempotencyKeys()
    keys.reserved("slow", "call slow", "digest")
    answered(keys, *map(str, range(2 * MOST_KEPT)))
    assert keys.get("slow").call_id == "call slow"
    keys.freed("slow", "call slow")
    assert keys.get("slow") is None
    assert not keys.may_stand_in_log("slow")

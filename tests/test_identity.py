"""What is made once is found by the identity of its parts, which are held."""

from __future__ import annotations

from ridgeline.simulator.identity import ByIdentity


def test_the_very_objects_are_known_and_equal_ones_are_not():
    known: ByIdentity[int] = ByIdentity()
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    first, equal = [1.0], [1.0]
    assert known.of((first, "a"), make) == known.of((first, "a"), make) == 0
    assert known.of((equal, "a"), make) == 1
    assert known.of((first,), make) == 2
    assert made == [0, 1, 2]


def test_no_other_object_takes_the_place_of_one_that_is_forgotten():
    known: ByIdentity[object] = ByIdentity(most=2)
    # were parts not held, a new object could get the address of one that is gone
    kept = [known.of(([i],), object) for i in range(100)]
    assert len({id(one) for one in kept}) == 100
    assert len(known._known) <= 2
    part = [0]
    assert known.of((part,), object) is known.of((part,), object)

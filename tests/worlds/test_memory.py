"""What worlds remember: each thing is made once, and goes with its world."""

import gc
import weakref

import pytest

from airlib.worlds.memory import remembered


class Place:
    def __init__(self) -> None:
        self.calls: list = []

    @remembered
    def reference(self, pair: str) -> list:
        self.calls.append(pair)
        return [pair]


def test_each_world_makes_each_thing_once():
    one, other = Place(), Place()
    assert one.reference("a") is one.reference("a") and one.reference("b") == ["b"]
    assert other.reference("a") is not one.reference("a")
    assert (one.calls, other.calls) == (["a", "b"], ["a"])


def test_a_world_and_what_it_remembers_can_be_forgotten():
    class Reference:
        pass

    @remembered
    def reference_of(world: Place, pair: str) -> Reference:
        return Reference()

    world = Place()
    kept = weakref.ref(reference_of(world, "a")), weakref.ref(world)
    assert all(one() is not None for one in kept)
    del world
    gc.collect()
    assert [one() for one in kept] == [None, None]


@pytest.mark.slow  # opens a world and its references
def test_the_tiny_world_is_forgotten_with_its_references():
    from airlib.profiles import load_profile
    from airlib.worlds import open_world

    world = open_world(load_profile("tiny", {"evaluation.references": 30}), "human")
    kept = weakref.ref(world.reference("human-baby")), weakref.ref(world)
    del world
    gc.collect()
    assert [one() for one in kept] == [None, None]

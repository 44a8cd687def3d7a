"""Near misses: exactly one attribute is wrong, in balance, and groups without them stay what they were."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from editreward.simulation import (
    CATEGORIES,
    NEAR_MISSES,
    SimulatedCandidate,
    SimulatedGroup,
    simulate_group,
    simulate_near_miss,
)
from editreward.simulation.edits import perfect
from editreward.simulation.near_misses import near_miss_fault, pick_attribute
from editreward.simulation.world import Scene, SceneObject

SMALL = 84
GROUPS = [simulate_group(seed, near_misses=0.5, size=SMALL) for seed in range(150)]
PAIRS = [simulate_near_miss(seed, size=SMALL) for seed in range(96)]


def missed_in(group: SimulatedGroup) -> list[SimulatedCandidate]:
    return [candidate for candidate in group.candidates if candidate.missed]


def without_place(thing: SceneObject) -> SceneObject:
    return replace(thing, x=0, y=0)


def differing(first: Scene, second: Scene) -> dict[int, tuple[SceneObject | None, SceneObject | None]]:
    """The objects, by key, that two scenes show differently; places count as places, not as points."""
    ours = {thing.key: thing for thing in first.objects}
    theirs = {thing.key: thing for thing in second.objects}

    def looks(thing: SceneObject | None) -> object:
        return thing and (without_place(thing), thing.position)

    keys = [key for key in ours | theirs if looks(ours.get(key)) != looks(theirs.get(key))]
    return {key: (ours.get(key), theirs.get(key)) for key in keys}


def check(group: SimulatedGroup, candidate: SimulatedCandidate) -> None:
    """The near miss differs from the perfect edit in the attribute that it claims to miss, and in nothing else."""
    wanted, shown = perfect(group.task, Random(0)), candidate.scene
    differences, missed = differing(wanted, shown), candidate.missed
    if missed in ("pattern", "tone"):
        assert not differences
        different = {
            name for name in ("pattern", "tone") if getattr(wanted.background, name) != getattr(shown.background, name)
        }
        assert different == {missed}
        return
    assert wanted.background == shown.background and shown.remainder is None
    if missed in ("object", "removal"):
        # The target is as it was, and what was asked of it has happened to one other object.
        target = group.task.target
        changed = differing(group.scene, shown)
        assert len(changed) == 1 and target.key not in changed
        ((_, after),) = changed.values()
        assert (after is None) == (missed == "removal")
        return
    ((before, after),) = differences.values()
    if missed == "place":
        assert without_place(before) == without_place(after) and before.place != after.place
    else:
        assert replace(before, **{missed: getattr(after, missed)}, x=0, y=0) == without_place(after)
        assert before.place == after.place


def test_near_misses_are_wrong_in_exactly_one_attribute() -> None:
    seen = Counter()
    for group in [*GROUPS, *PAIRS]:
        for candidate in missed_in(group):
            check(group, candidate)
            fault, score, _ = near_miss_fault(candidate.missed, group.category)
            assert candidate.fault == fault and candidate.scores["instruction_following"] == score < 4
            seen[candidate.missed, group.category] += 1
    assert set(seen) == {(missed, category) for missed, faults in NEAR_MISSES.items() for category in faults}


def test_half_of_the_candidates_are_near_misses_and_half_of_the_others_perfect() -> None:
    candidates = [candidate for group in GROUPS for candidate in group.candidates]
    share = sum(candidate.missed is not None for candidate in candidates) / len(candidates)
    perfect_share = sum(candidate.fault == "none" for candidate in candidates) / len(candidates)
    assert share == pytest.approx(0.5, abs=0.05)
    assert perfect_share == pytest.approx(0.25 + 0.25 / 4, abs=0.04)
    clean = [c.artefact is None for c in candidates if c.missed]
    assert sum(clean) / len(clean) == pytest.approx(0.6, abs=0.06)


def test_attributes_of_a_category_are_missed_alike_often() -> None:
    for category in CATEGORIES:
        groups = [group for group in GROUPS if group.category == category]
        counts = Counter(candidate.missed for group in groups for candidate in missed_in(group))
        assert set(counts) == {missed for missed, faults in NEAR_MISSES.items() if category in faults}
        assert max(counts.values()) < 2.5 * min(counts.values())


def test_source_and_instruction_do_not_depend_on_near_misses() -> None:
    for seed, group in enumerate(GROUPS[:20]):
        plain = simulate_group(seed, size=SMALL)
        assert (plain.scene, plain.instruction) == (group.scene, group.instruction)
        assert not missed_in(plain)


def test_pairs_are_a_perfect_edit_and_a_near_miss_both_clean_in_any_order() -> None:
    first = []
    for seed, pair in enumerate(PAIRS):
        (missed,) = missed_in(pair)
        (other,) = (candidate for candidate in pair.candidates if not candidate.missed)
        assert other.fault == "none" and all(candidate.artefact is None for candidate in pair.candidates)
        assert missed.missed == tuple(NEAR_MISSES)[seed % len(NEAR_MISSES)]
        first.append(pair.candidates[0] is missed)
    assert 0.3 < sum(first) / len(first) < 0.7
    assert simulate_near_miss(3, size=SMALL).candidates[1].image.tobytes() == PAIRS[3].candidates[1].image.tobytes()


def test_whether_an_attribute_can_be_missed_does_not_depend_on_the_stream() -> None:
    for group in GROUPS:
        possible = {pick_attribute(group.task, Random(seed)) for seed in range(12)}
        for missed in possible - {None}:
            realisation = near_miss_fault(missed, group.category)[2]
            assert all(realisation(group.task, Random(seed)) is not None for seed in range(12))


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of near misses"):
        simulate_group(0, near_misses=share)

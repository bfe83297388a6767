"""Schedules of pipelines: known formulas, and what holds for every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.plan.pipeline_schedule import SCHEDULES, Action, Schedule, StageCost, make_schedule, placement

TWO_STAGES = ("interleaved_1f1b", "interleaved_zero_bubble", "zbv")


def stages_per_rank(name: str) -> int:
    return 2 if name in TWO_STAGES else 1


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    name = draw(st.sampled_from(SCHEDULES))
    several = st.integers(1, 3) if name.startswith("interleaved") else st.just(stages_per_rank(name))
    ranks, stages, micro_batches = draw(st.integers(1, 5)), draw(several), draw(st.integers(1, 9))
    cost = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    one = st.builds(StageCost, forward=st.sampled_from([0.5, 1.0, 3.0]), backward=cost, weight=cost)
    costs = draw(st.none() | st.lists(one, min_size=ranks * stages, max_size=ranks * stages).map(tuple))
    return make_schedule(name, ranks, stages, micro_batches, costs=costs, communication=draw(cost))


def run(schedule: Schedule) -> list[Action]:
    """All actions in an order in which ranks that wait for their inputs run them; fails where all wait."""
    last = len(schedule.ranks) - 1
    done: list[Action] = []
    places = [0] * len(schedule.actions)
    while sum(places) < sum(map(len, schedule.actions)):
        before = len(done)
        for rank, actions in enumerate(schedule.actions):
            while places[rank] < len(actions):
                kind, stage, number = action = actions[places[rank]]
                needed = [Action("F", stage - 1, number)] if kind == "F" and stage else []
                if kind in "BI":
                    needed = [Action("F", stage, number)] + [Action(kind, stage + 1, number)] * (stage < last)
                if kind == "W":
                    needed = [Action("I", stage, number)]
                if not set(needed) <= set(done):
                    break
                done.append(action)
                places[rank] += 1
        assert len(done) > before, "every rank waits"
    return done


@given(schedule=schedules())
def test_every_schedule_runs_each_action_once_without_deadlock(schedule: Schedule) -> None:
    done = run(schedule)
    kinds = {action.kind for action in done}
    assert kinds in ({"F", "B"}, {"F", "I", "W"})
    numbers = range(1 + max(action.micro_batch for action in done))
    assert sorted(done) == sorted(Action(k, s, n) for k in kinds for s in range(len(schedule.ranks)) for n in numbers)


@given(schedule=schedules())
def test_micro_batches_keep_their_order_on_every_edge(schedule: Schedule) -> None:
    """What a rank sends is received in the same order."""
    for actions in schedule.actions:
        for kind, stage in {(action.kind, action.stage) for action in actions}:
            numbers = [one.micro_batch for one in actions if (one.kind, one.stage) == (kind, stage)]
            assert numbers == sorted(numbers)


@given(schedule=schedules())
def test_actions_run_on_the_rank_of_their_stage_one_after_the_other(schedule: Schedule) -> None:
    for rank, (actions, starts) in enumerate(zip(schedule.actions, schedule.starts, strict=True)):
        assert {schedule.ranks[action.stage] for action in actions} == {rank}
        assert list(starts) == sorted(starts)
    assert 0 <= schedule.bubble < 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro_batches", [1, 3, 4, 8])
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_bubble_of_gpipe_and_1f1b(name: str, ranks: int, micro_batches: int) -> None:
    """Narayanan et al. 2021, section 2.2: (P - 1) / m of the ideal time, which is (P - 1) / (m + P - 1) of all."""
    schedule = make_schedule(name, ranks, 1, micro_batches)
    assert schedule.bubble == pytest.approx((ranks - 1) / (micro_batches + ranks - 1))
    assert schedule.makespan == pytest.approx(3 * (micro_batches + ranks - 1))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("more", [0, 1, 4, 9])
def test_bubble_of_interleaved_1f1b(ranks: int, stages: int, more: int) -> None:
    """The same with v stages a rank: (P - 1) / (v m + P - 1), also where m is no multiple of P."""
    micro_batches = ranks + more
    schedule = make_schedule("interleaved_1f1b", ranks, stages, micro_batches)
    assert schedule.bubble == pytest.approx((ranks - 1) / (stages * micro_batches + ranks - 1))


@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
@pytest.mark.parametrize("micro_batches", [1, 3, 12])
def test_1f1b_holds_as_many_micro_batches_as_stages_follow(ranks: int, micro_batches: int) -> None:
    schedule = make_schedule("1f1b", ranks, 1, micro_batches)
    assert schedule.peaks == tuple(min(micro_batches, ranks - rank) for rank in range(ranks))
    assert make_schedule("gpipe", ranks, 1, micro_batches).peaks == (micro_batches,) * ranks


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("micro_batches", [1, 2, 4, 5, 8, 16])
def test_zero_bubble_waits_less_in_no_more_memory(ranks: int, micro_batches: int) -> None:
    plain = make_schedule("1f1b", ranks, 1, micro_batches)
    one = make_schedule("interleaved_zero_bubble", ranks, 1, micro_batches)
    two = make_schedule("zbv", ranks, 2, micro_batches)
    assert two.bubble < one.bubble < plain.bubble
    assert max(one.peaks) <= max(plain.peaks)
    assert max(two.peaks) <= 2 * max(plain.peaks)


def test_what_costs_more_takes_longer() -> None:
    even = make_schedule("1f1b", 2, 1, 4)
    assert make_schedule("1f1b", 2, 1, 4, communication=0.5).makespan > even.makespan
    frozen = (StageCost(backward=0, weight=0), StageCost(backward=0))
    assert make_schedule("1f1b", 2, 1, 4, costs=frozen).makespan == 1 + 4 * 2


@pytest.mark.parametrize(
    ("name", "ranks", "stages", "words"),
    [
        ("gpipe", 2, 2, "'gpipe' takes one stage a rank, not 2"),
        ("zbv", 2, 1, "'zbv' takes 2 stages a rank, not 1"),
        ("1f1b", 0, 1, "0 ranks"),
    ],
)
def test_sizes_that_a_schedule_does_not_take_are_refused(name: str, ranks: int, stages: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        placement(name, ranks, stages)


def test_placement_goes_round_or_there_and_back() -> None:
    assert placement("interleaved_1f1b", 3, 2) == (0, 1, 2, 0, 1, 2)
    assert placement("zbv", 3, 2) == (0, 1, 2, 2, 1, 0)

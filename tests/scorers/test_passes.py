"""From raw answers to scores: passes, retries, and what is lost."""

import json
import statistics

import pytest

from editreward.groups import CandidateScore, GroupScores, Unscored
from editreward.scorers.passes import AnswerCounts, Reply, score_by_passes
from editreward.scorers.prompts import load_prompt_set

PROMPTS = load_prompt_set("editreward")


def score(answer, candidates=1, passes=1, seed=42, tries=3):
    """Scores where `answer(question)` is the text, or the `Reply`; the counts, and all questions, call by call."""
    calls, counts = [], AnswerCounts()

    def ask(questions):
        calls.append(list(questions))
        replies = [answer(question) for question in questions]
        return [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

    return (
        score_by_passes(PROMPTS, candidates, ask, passes=passes, seed=seed, counts=counts, tries=tries),
        counts,
        calls,
    )


def test_scores_and_spread_are_those_of_the_passes():
    values = {42: (3, 4), 43: (2, 2), 44: (1, 3.5)}
    (found,), counts, calls = score(lambda q: q.prompt.answer_of(values[q.seed], f"because {q.seed}"), passes=3)
    overall = [min(pair) for pair in values.values()]  # both prompts get the same numbers
    assert found.reward == pytest.approx(statistics.mean(overall))
    assert found.pass_std == pytest.approx(statistics.stdev(overall))
    assert [one.overall for one in found.passes] == overall and found.reward_std is None
    assert found.visual_quality.mean == pytest.approx(statistics.mean(overall)) and found.visual_quality.std is None
    assert found.passes[0].sub_scores == {
        "IF.success": 3,
        "IF.preservation": 4,
        "VQ.plausibility": 3,
        "VQ.cleanness": 4,
    }
    assert found.passes[1].seed == 43 and found.passes[1].reasons == {"IF": "because 43", "VQ": "because 43"}
    assert json.loads(found.passes[2].answers["VQ"])["cleanness"] == 3.5
    assert found.reasons == tuple(f"because {seed}" for seed in (42, 42, 43, 43, 44, 44))
    assert len(calls) == 1 and str(counts) == "6 answers, 0.0% needed a retry, 0.0% were lost"


def test_one_pass_has_no_spread_and_no_pass_no_number():
    (found,), _, _ = score(lambda q: q.prompt.answer_of((3, 4)))
    assert found.pass_std == 0
    assert CandidateScore({}, 1.0).pass_std is None


def test_what_cannot_be_read_is_asked_again_alone_and_with_a_seed_of_its_own():
    bad = {(0, 1, "VQ", 0), (0, 1, "VQ", 1), (1, 0, "IF", 0)}

    def answer(q):
        key = (q.candidate, q.number, q.prompt.name, q.retry)
        return "no" if key in bad else q.prompt.answer_of((3, 4))

    found, counts, calls = score(answer, candidates=2, passes=2)
    assert [len(call) for call in calls] == [8, 2, 1]
    seeds = [(q.candidate, q.prompt.name, q.seed) for call in calls for q in call]
    assert len(set(seeds)) == len(seeds)
    assert found[0].passes[1].retries == 2 and found[1].passes[0].retries == 1
    assert (counts.asked, counts.retried, counts.lost) == (8, 2, 0)


def test_after_the_last_try_a_candidate_is_unscored_with_its_raw_answer_and_the_others_stay():
    found, counts, calls = score(
        lambda q: "4 of 4" if q.candidate == 1 and q.prompt.name == "VQ" else q.prompt.answer_of((3, 4)), candidates=2
    )
    assert isinstance(found[0], CandidateScore)
    assert found[1] == Unscored("VQ, pass 1: there is no JSON object in '4 of 4' (asked 3 times)", ("4 of 4",))
    assert (counts.asked, counts.retried, counts.lost) == (4, 1, 1)
    assert counts.share_retried == counts.share_lost == 0.25


def test_a_final_problem_is_not_asked_again():
    (found,), counts, calls = score(lambda q: Reply("", "refused", final=True))
    assert isinstance(found, Unscored) and found.reason == "IF, pass 1: refused" and len(calls) == 1
    assert (counts.asked, counts.retried, counts.lost) == (2, 0, 2)


def test_an_answer_with_a_problem_is_no_answer_even_if_it_can_be_read():
    (found,), _, _ = score(lambda q: Reply(q.prompt.answer_of((3, 4)), "cut off"), tries=1)
    assert isinstance(found, Unscored)


def test_passes_go_through_json_and_back():
    (found,), _, _ = score(lambda q: q.prompt.answer_of((3, q.number + 1), "x"), passes=2)
    scores = GroupScores((found, Unscored("broken")))
    assert GroupScores.from_state(json.loads(json.dumps(scores.state()))) == scores
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))["candidates"][0]
    assert plain["pass_std"] == pytest.approx(found.pass_std)
    assert [one["seed"] for one in plain["passes"]] == [42, 43]


def test_a_question_costs_its_tries_for_a_lost_candidate_only_once():
    """A candidate that is lost is not asked about again."""

    def answer(q):
        return Reply("", "refused", final=True) if q.prompt.name == "IF" else "unreadable"

    (found,), counts, calls = score(answer)
    assert isinstance(found, Unscored) and len(calls) == 1
    assert counts.lost == 2

"""Rollouts: order and concurrency change nothing, no episode waits, faults are named."""

import asyncio
import threading
import time

import numpy as np
import pytest

import palaestra
from palaestra.agents import evaluate, records
from palaestra.agents.agent import Sampling
from palaestra.agents.chat import ChatTemplate
from palaestra.agents.engine import TorchEngine
from palaestra.agents.load import chat_maker, load_model
from palaestra.agents.rollout import Envs, Job, rollouts
from palaestra.agents.scripted import Expert, Random
from palaestra.core import Broken, Message, StopReason, calling
from palaestra.envs.world import POOL

IDS = ("palaestra/Search-v0", "palaestra/SQL-v0", "palaestra/Stockroom-v0")


def jobs(tasks=4, samples=3):
    return [
        Job(id, index, 100 + index, sample, f"{id}/{index}")
        for id in IDS
        for index in range(tasks)
        for sample in range(samples)
    ]


@pytest.fixture(scope="module")
def engine(tiny_dir):
    engine = TorchEngine(load_model(str(tiny_dir))[1], slots=40, max_context=300)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def maker(engine, tiny_tokenizer):
    return chat_maker(engine, ChatTemplate(tiny_tokenizer), Sampling(max_tokens=16, noise=(5,)))


def envs():
    return Envs(lambda id: palaestra.make(id, max_turns=4))


def bare(trajectory):
    """Everything but the seconds."""
    return records.dump(trajectory).partition('"seconds"')[0]


def test_one_at_a_time_and_32_at_once_give_the_same_episodes(maker):
    alone = evaluate.run(jobs(), envs(), maker, concurrency=1)
    together = evaluate.run(jobs(), envs(), maker, concurrency=32)
    shuffled = [jobs()[i] for i in np.random.default_rng(0).permutation(len(jobs()))]
    again = evaluate.run(shuffled, envs(), maker, concurrency=32)
    found = {(t.group, t.sample): bare(t) for t in again}
    assert [bare(t) for t in alone] == [bare(t) for t in together]
    assert [bare(t) for t in alone] == [found[t.group, t.sample] for t in alone]


def test_the_ledger_holds_exactly_what_the_engine_consumed_and_produced(engine, maker):
    engine.audit = []
    done = evaluate.run(jobs(), envs(), maker, concurrency=32)
    calls = {}
    for session, consumed, produced in engine.audit:
        calls.setdefault(session, []).append((consumed, produced))
    engine.audit = None
    for each in done:
        task = each.episode.task
        record = calls[f"{task.env}/{task.id}/{each.episode.seed}/{each.sample}"]
        ids, seen = (), []
        for segment in each.segments:
            if segment.sampled:
                seen.append((ids, segment.ids))
            ids += segment.ids
        assert seen == record


def test_siblings_share_everything_but_the_noise_of_the_policy(maker):
    group = [each for each in evaluate.run(jobs(), envs(), maker) if each.group == f"{IDS[0]}/0"]
    assert len({each.episode.opening for each in group}) == 1
    assert len({each.segments[1].ids for each in group}) > 1


class Slow(palaestra.Env):
    """Task 0 takes a second a turn, the others nothing."""

    rubric = palaestra.Rubric()

    def generate(self):
        return [
            palaestra.Task(str(i), "Slow", "train", (palaestra.Message("user", "go"),))
            for i in range(5)
        ]

    @palaestra.tool
    def wait(self) -> str:
        """Take as long as the task says."""
        time.sleep(0.4 if self.task.id == "0" else 0)
        return "done"

    def expert(self, rng):
        return calling("wait")


def test_no_episode_waits_for_a_slow_one():
    async def collect():
        order = []
        run = rollouts(
            [Job("slow", i, 0, 0, str(i)) for i in range(5)],
            Envs(lambda _: Slow(max_turns=2)), Expert, concurrency=5,
        )  # fmt: skip
        async for done in run:
            order.append(done.group)
        return order

    assert asyncio.run(collect())[-1] == "0"


def test_a_rollout_that_is_abandoned_leaves_no_thread_behind():
    async def first():
        run = rollouts(
            [Job("slow", 1, 0, 0, str(i)) for i in range(5)],
            Envs(lambda _: Slow(max_turns=2)), Expert, concurrency=2,
        )  # fmt: skip
        async for done in run:
            await run.aclose()
            return done

    before = threading.active_count()
    assert asyncio.run(first()).episode.stop is StopReason.MAX_TURNS
    assert threading.active_count() <= before


class Fragile(Slow):
    """Breaks while resetting task 1, always, and during task 2, the first time."""

    broke = 0

    def begin(self, task, rng):
        if task.id == "1":
            raise Broken("database", "gone")

    @palaestra.tool
    def wait(self) -> str:
        """Break once in task 2."""
        if self.task.id == "2" and not Fragile.broke:
            Fragile.broke += 1
            raise Broken("disk", "full")
        return "done"


def test_a_machine_that_breaks_makes_an_invalid_episode_after_one_more_try():
    Fragile.broke = 0
    tasks = Fragile().tasks
    work = [Job("f", tasks[i], 0, 0, str(i)) for i in range(4)]
    done = evaluate.run(work, Envs(lambda _: Fragile(max_turns=2)), Expert)
    assert [each.valid for each in done] == [True, False, True, True]
    assert done[1].episode.error.culprit == "database"
    assert done[1].ledger.total is None
    assert evaluate.summarize(done)["invalid"] == 1


def test_every_turn_of_a_sampled_episode_can_be_restored_and_continues_alike():
    for id in IDS:
        env = palaestra.make(id, max_turns=5)
        env.reset(seed=3, options={"task": 2})
        agent = Random(env, 1)
        actions, marks, over = [], [], False
        while not over:
            marks.append((env.snapshot(), len(actions)))
            actions.append(agent.act((), env.tools))
            _, _, terminated, truncated, _ = env.step(actions[-1])
            over = terminated or truncated
        whole = (env.episode, env.ledger)
        for snapshot, done in marks:
            env.restore(snapshot)
            for action in actions[done:]:
                env.step(action)
            assert (env.episode, env.ledger) == whole


def test_the_second_try_is_on_another_environment():
    Fragile.broke = 0
    made = []

    def make(_):
        made.append(Fragile(max_turns=2))
        return made[-1]

    (done,) = evaluate.run([Job("f", Fragile().tasks[2], 0)], Envs(make), Expert)
    assert done.valid
    assert len(made) == 2


FARMERS = {
    "palaestra/Search-v0": [
        *([calling("open", doc_id=f"d{i}")] for i in range(60)),
        *([calling("search", query=" ".join(POOL), k=20)] for _ in range(3)),
    ],
    "palaestra/SQL-v0": [
        [
            calling(
                "run_sql",
                query="SELECT * FROM person, company, city, product WHERE person.rowid = "
                f"{i} AND company.rowid = 1 + {i} % 12 AND city.rowid = 1 + {i} % 8 "
                f"AND product.rowid = 1 + {i} % 14 -- {' '.join(POOL)}",
            )
        ]
        for i in range(1, 30)
    ],
}


@pytest.mark.parametrize("id", FARMERS)
def test_opening_everything_without_reading_the_question_earns_next_to_nothing(id):
    """Everything in one turn, then every document cited or a literal selected, answer "zzz"."""
    env = palaestra.make(id, split="test")
    earned = []
    for index in range(30):
        env.reset(seed=index, options={"task": index})
        calls = [call for group in FARMERS[id] for message in group for call in message.tool_calls]
        env.step(Message("assistant", tool_calls=tuple(calls[:60])))
        if "Search" in id:
            last = calling("answer", text="zzz", citations=[f"d{i}" for i in range(64)])
        else:
            env.step(calling("run_sql", query="SELECT 'zzz'"))
            last = calling("answer", text="zzz")
        env.step(last)
        earned.append(sum(e.amount for e in env.ledger.entries))
    assert sum(earned) / len(earned) < 0.05  # an honest episode earns 1.4

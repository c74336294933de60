"""The embedded engine: exact, batch-invariant, and truthful about what it consumed."""

import asyncio
import random

import pytest
import torch

from palaestra.agents.agent import ContextFull, Sampling
from palaestra.agents.engine import PREFILL_CHUNK, TorchEngine, choose, uniform
from palaestra.agents.load import load_model


@pytest.fixture(scope="module")
def model(tiny_dir):
    return load_model(str(tiny_dir))[1].eval()


@pytest.fixture
def engine(tiny_dir):
    engine = TorchEngine(load_model(str(tiny_dir))[1], slots=70, max_context=400)
    yield engine
    engine.close()


def prompts(count, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(10, 800) for _ in range(rng.randrange(3, 150))] for _ in range(count)]


def turns(engine, prompt, key, replies=3):
    """A small conversation: sample, append 40 ids of a tool's answer, sample again."""

    async def run():
        ids, out = list(prompt), []
        for turn in range(replies):
            done = await engine.sample(
                ids, Sampling(max_tokens=9, noise=(key,), stop=(0,)), f"s{key}"
            )
            out.append(done)
            ids += [*done.tokens, *[20 + turn] * 40]
        engine.release(f"s{key}")
        return out

    return run()


def everything(engine, order, which):
    async def run():
        done = await asyncio.gather(*(turns(engine, which[key], key) for key in order))
        return dict(zip(order, done, strict=True))

    return asyncio.run(run())


def test_alone_among_64_and_shuffled_an_episode_is_bit_for_bit_the_same(engine):
    which = prompts(64)
    together = everything(engine, list(range(64)), which)
    order = list(range(64))
    random.Random(1).shuffle(order)
    assert everything(engine, order, which) == together
    for key in (0, 17, 63):
        assert everything(engine, [key], which)[key] == together[key]


def test_siblings_that_share_a_prompt_get_what_they_would_get_alone(engine):
    prompt = prompts(1)[0]
    group = everything(engine, list(range(8)), [prompt] * 8)
    for key in (0, 5):
        assert everything(engine, [key], [prompt] * 8)[key] == group[key]
    assert len({episode[0].tokens for episode in group.values()}) > 1  # their noise differs


def test_logprobs_are_those_of_the_model(engine, model):
    which = prompts(4, seed=3)
    for key, episode in everything(engine, range(4), which).items():
        ids = list(which[key])
        for turn, done in enumerate(episode):
            whole = torch.tensor([[*ids, *done.tokens]])
            logits = model(whole).logits[0, len(ids) - 1 : -1].float()
            expected = logits.log_softmax(-1)[range(len(done.tokens)), list(done.tokens)]
            torch.testing.assert_close(torch.tensor(done.logprobs), expected, atol=2e-5, rtol=0)
            ids += [*done.tokens, *[20 + turn] * 40]


def test_greedy_equals_transformers_generate(engine, model):
    for prompt in prompts(3, seed=5):
        done = asyncio.run(engine.sample(prompt, Sampling(max_tokens=12, temperature=0)))
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert list(done.tokens) == out[0, len(prompt) :].tolist()


def test_what_it_says_it_consumed_is_what_it_was_given(engine):
    engine.audit = []
    which = prompts(8, seed=7)
    episodes = everything(engine, range(8), which)
    for key, episode in episodes.items():
        ids, calls = list(which[key]), [a for a in engine.audit if a[0] == f"s{key}"]
        for turn, (done, (_, consumed, produced)) in enumerate(zip(episode, calls, strict=True)):
            assert (list(consumed), produced) == (ids, done.tokens)
            ids += [*done.tokens, *[20 + turn] * 40]


def test_new_weights_are_used_at_once_and_named_by_their_version(engine, model):
    prompt = prompts(1, seed=9)[0]
    greedy = Sampling(max_tokens=4, temperature=0)
    before = asyncio.run(engine.sample(prompt, greedy, "kept"))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["lm_head.weight"] = weights["lm_head.weight"].roll(1, dims=0)
    engine.load(weights, 7)
    after = asyncio.run(engine.sample(prompt, greedy, "kept"))
    assert after.version == 7
    assert before.version == 0
    assert after.tokens[0] == before.tokens[0] + 1


def test_more_episodes_than_slots_wait_their_turn(tiny_dir):
    engine = TorchEngine(load_model(str(tiny_dir))[1], slots=3, max_context=400)
    few = everything(engine, range(10), prompts(10))
    engine.close()
    assert len(few) == 10


def test_an_edited_history_is_read_anew(engine):
    first, second = prompts(2, seed=11)
    greedy = Sampling(max_tokens=5, temperature=0)
    asyncio.run(engine.sample(first, greedy, "same"))
    changed = asyncio.run(engine.sample(second, greedy, "same"))
    assert changed.tokens == asyncio.run(engine.sample(second, greedy, "fresh")).tokens


def test_a_context_that_is_full_raises(engine):
    with pytest.raises(ContextFull, match="the context holds 400"):
        asyncio.run(engine.sample([5] * 400, Sampling()))
    last = asyncio.run(engine.sample([5] * 399, Sampling(max_tokens=1)))
    assert len(last.tokens) == 1


def test_weights_that_do_not_fit_are_refused_and_the_engine_lives_on(engine):
    with pytest.raises(RuntimeError, match="nonsense"):
        engine.load({"nonsense": torch.zeros(1)}, 1)
    assert asyncio.run(engine.sample([5, 6], Sampling(max_tokens=1))).tokens


def test_sampling_follows_the_distribution():
    """20,000 draws from (0.6, 0.3, 0.1): within four standard errors."""
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).expand(20_000, 3).clone()
    noise = [uniform((1, 2), position) for position in range(20_000)]
    tokens, logprobs = choose(logits, [Sampling()] * 20_000, noise)
    for token, share in enumerate((0.6, 0.3, 0.1)):
        assert abs(tokens.count(token) / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    assert logprobs[tokens.index(1)] == pytest.approx(-1.2039728, abs=1e-5)


def test_top_p_and_top_k_renormalise_what_is_left():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]] * 2))
    tokens, logprobs = choose(logits, [Sampling(top_k=2), Sampling(top_p=0.7)], [0.99, 0.99])
    assert tokens == [1, 1]
    assert logprobs == pytest.approx([-0.980829] * 2, abs=1e-5)  # log(0.3 / 0.8)


def test_a_chunk_longer_than_the_prompt_changes_nothing(engine, model):
    prompt = [11] * (PREFILL_CHUNK + 1)
    done = asyncio.run(engine.sample(prompt, Sampling(max_tokens=1, temperature=0)))
    assert done.tokens[0] == int(model(torch.tensor([prompt])).logits[0, -1].argmax())


def test_a_caller_that_goes_away_harms_nobody(engine):
    prompt = prompts(1)[0]

    async def run():
        gone = asyncio.create_task(engine.sample(prompt, Sampling(max_tokens=50), "gone"))
        kept = asyncio.create_task(engine.sample(prompt, Sampling(max_tokens=50), "kept"))
        await asyncio.sleep(0.01)
        gone.cancel()
        engine.release("gone")
        return await kept

    assert len(asyncio.run(run()).tokens) == 50
    assert asyncio.run(engine.sample(prompt, Sampling(max_tokens=1), "next")).tokens


def test_a_closed_engine_refuses_instead_of_hanging(tiny_dir):
    engine = TorchEngine(load_model(str(tiny_dir))[1], slots=2, max_context=100)
    engine.close()
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        asyncio.run(engine.sample([5, 6], Sampling()))
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        engine.load({}, 1)
    engine.release("anything")
    engine.close()


def test_closing_tells_those_who_wait(tiny_dir):
    engine = TorchEngine(load_model(str(tiny_dir))[1], slots=2, max_context=400)

    async def run():
        waiting = asyncio.create_task(engine.sample([5, 6], Sampling(max_tokens=390)))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(engine.close)
        await waiting

    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(run())


def test_the_same_ids_may_be_sampled_again_in_one_session(engine):
    prompt = prompts(1, seed=4)[0]
    again = [
        asyncio.run(engine.sample(prompt, Sampling(max_tokens=3, noise=(n,)), "retry"))
        for n in (1, 1, 1)
    ]
    fresh = asyncio.run(engine.sample(prompt, Sampling(max_tokens=3, noise=(1,)), "other"))
    assert again == [fresh] * 3


def test_samples_without_a_session_do_not_meet(engine):
    prompt = prompts(1, seed=6)[0]

    async def both():
        return await asyncio.gather(*(engine.sample(prompt, Sampling(max_tokens=3)) for _ in "ab"))

    first, second = asyncio.run(both())
    assert first == second

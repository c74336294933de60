"""Gymnasium's side of the contract, for every registered environment."""

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import palaestra
from palaestra import Message
from palaestra.envs.registry import ENVS, env_class

IDS = sorted(id for id in ENVS if id.startswith("palaestra/"))


@pytest.mark.parametrize("id", IDS)
def test_gymnasiums_checker_passes_without_a_warning(id):
    env = gymnasium.make(id, disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("id", IDS)
def test_gymnasium_makes_what_we_make(id):
    wrapped, bare = gymnasium.make(id, split="test", max_turns=5), palaestra.make(id, split="test")
    assert type(wrapped.unwrapped) is type(bare) is env_class(id)
    assert wrapped.reset(seed=3)[0] == bare.reset(seed=3)[0]
    action = bare.action_space.sample()
    assert wrapped.step(action)[0] == bare.step(action)[0]
    assert wrapped.unwrapped.max_turns == 5
    wrapped.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("id", IDS)
def test_vectors_of_environments_step_and_tell_their_ledgers(id, mode):
    kwargs = {"shared_memory": False} if mode == "async" else {}
    envs = gymnasium.make_vec(id, num_envs=2, vectorization_mode=mode, vector_kwargs=kwargs)
    single = palaestra.make(id)
    try:
        observations, _ = envs.reset(seed=[5, 6])
        assert observations[1] == single.reset(seed=6)[0]
        action = Message("assistant", "I wonder.")
        for turn in range(1, 3):
            observations, rewards, terminated, truncated, info = envs.step([action, action])
            expected = single.step(action)
            assert observations[1] == expected[0]
            assert rewards[1] == expected[1]
            assert not (terminated | truncated).any()
            assert info["ledger"][1] == expected[4]["ledger"]
            assert len(info["ledger"]) == 2, turn
        assert all(each.total == 0.0 for each in info["ledger"])
    finally:
        envs.close()


@pytest.mark.parametrize("id", IDS)
def test_sampled_actions_of_a_vector_can_be_stepped_past_the_end_of_episodes(id):
    """Gymnasium resets what has ended; nothing of the last episode may be left."""
    envs = gymnasium.make_vec(id, num_envs=3, vectorization_mode="sync", max_turns=3)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    ended = 0
    for _ in range(15):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        ended += int((terminated | truncated).sum())
    assert ended >= 3
    envs.close()


@pytest.mark.parametrize("id", IDS)
def test_wrappers_of_gymnasium_fit(id):
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(id, max_turns=2))
    env.reset(seed=0)
    env.step("hm")
    *_, truncated, info = env.step("hm")
    assert truncated
    assert info["episode"]["l"] == 2
    assert info["episode"]["r"] == pytest.approx(info["ledger"].total)
    env.close()


@pytest.mark.parametrize("id", IDS)
def test_an_episode_can_be_rendered(id):
    env = gymnasium.make(id, render_mode="ansi")
    opening, _ = env.reset(seed=0)
    assert opening[-1].content in env.render()
    env.close()

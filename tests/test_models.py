"""Any Hugging Face causal LM with a fit template goes through the same path as the tiny one."""

import json

import pytest
import torch
from test_chat import trl_template  # type: ignore[import-not-found]
from typer.testing import CliRunner

from palaestra.agents import load, records
from palaestra.agents.chat import ChatTemplate
from palaestra.cli import app
from palaestra.trainers import loop
from palaestra.trainers.config import load_config
from palaestra.trainers.watch import Watch

CONFIG = """
steps = 2
[env]
id = "palaestra/SQL-v0"
options = { hops = [1], max_turns = 3 }
[policy]
max_context = 1024
max_tokens = 24
slots = 8
[sft]
steps = 3
episodes = 16
batch_size = 4
[algorithm]
group_size = 2
tasks_per_step = 2
[eval]
n = 4
"""


@pytest.fixture(scope="module")
def qwen3_dir(tiny_tokenizer, tmp_path_factory):
    """What `Qwen/Qwen3-0.6B` is but smaller: its architecture, its tags, its published template."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    path = tmp_path_factory.mktemp("qwen3")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer.name_or_path)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    tokenizer.chat_template = trl_template("qwen3")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    with load.quiet_transformers():
        tokenizer.save_pretrained(path)
        Qwen3ForCausalLM(config).save_pretrained(path)
    return path


def test_a_qwen3_directory_trains_like_the_tiny_policy(qwen3_dir, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(CONFIG)
    overrides = [f"out={tmp_path / 'run'}", f"policy.model={qwen3_dir}"]
    report = loop.train(load_config(str(config), overrides), Watch(quiet=True))
    assert report["evaluations"]["after"]["n"] == 4
    episodes = list(records.read(tmp_path / "run" / "episodes" / "train-000002.jsonl"))
    assert len(episodes) == 4
    assert all(each.segments[1].version == 1 for each in episodes)
    before = load.load_model(str(qwen3_dir))[1].state_dict()
    after = load.load_model(str(tmp_path / "run" / "final"))[1].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_qwen3_directory_is_evaluated_by_the_same_command(qwen3_dir):
    command = ["eval", "palaestra/Search-v0", "--policy", f"hf:{qwen3_dir}", "--n", "2"]
    options = ["--max-tokens", "8", "-o", "max_turns=2", "--json"]
    result = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["n"] == 2
    assert sum(report["stop_reasons"].values()) == 2


def test_the_opening_of_a_group_is_the_models_own_rendering(qwen3_dir):
    import palaestra

    tokenizer, _ = load.load_model(str(qwen3_dir))
    env = palaestra.make("palaestra/Search-v0")
    opening, info = env.reset(seed=0)
    wires = [message.to_openai() for message in opening]
    whole = tokenizer.apply_chat_template(
        wires, tools=info["tools"], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(ChatTemplate(tokenizer).opening(opening, env.tools)) == whole

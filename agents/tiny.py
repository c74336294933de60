"""The tiny policy: an ordinary Hugging Face model directory, built on the spot from nothing.

A small Qwen3 (well under a million parameters, embeddings untied), a byte-level BPE trained on text
of the environments it will act in, and a chat template with tools. It goes through exactly the same
code as a 30B model. Words that name things stay whole tokens; everything else may merge across
spaces, which makes episodes several times shorter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core import Message
from ..envs import Env
from ..parse import to_hermes

# Tools are shown by name and arguments only: descriptions would cost more than the episode.
TEMPLATE = (
    "{%- macro show(tools) -%}{%- for tool in tools -%}{{ tool.function.name }}("
    "{{ tool.function.parameters.properties | join(', ') }})"
    "{%- if not loop.last %}; {% endif -%}{%- endfor -%}{%- endmacro -%}"
    "{%- if tools and messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\\nTools: ' }}{{ show(tools) }}{{ '<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- if loop.first and tools and message.role == 'system' -%}"
    "{{ '\\nTools: ' }}{{ show(tools) }}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{ '\\n' if message.content or not loop.first else '' }}"
    "{{ '<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments}"
    " | tojson + '\\n</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
SPECIAL = ("<|im_end|>", "<|im_start|>", "<|pad|>")
WHOLE = r"[A-Z][a-z]+|\bd\d+\b|\d+|\. | is the | of the | of "
"""What is one piece, never merged with its neighbours: capitalised words, document ids, numbers,
and the joints between them, so that a relation is the same token in questions and documents."""


def build(
    path: Path,
    envs: Sequence[Env],
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    vocabulary: int = 2048,
    episodes: int = 300,
) -> None:
    """Write a fresh tiny model directory whose tokenizer was trained on expert episodes."""
    tokenizer = train_tokenizer(texts(envs, episodes), vocabulary)
    tokenizer.save_pretrained(path)
    make_model(len(tokenizer), tokenizer, seed, hidden, layers).save_pretrained(path)


def make_model(size: int, tokenizer: Any, seed: int, hidden: int = 128, layers: int = 2) -> Any:
    """A Qwen3 with random weights. Embeddings are untied: vLLM on CPU mis-reloads tied ones."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def texts(envs: Sequence[Env], episodes: int) -> Iterable[str]:
    """What the policy will read and write: expert episodes, in the pieces they are encoded in."""
    import numpy as np

    yield from ("system\n", "user\n", "assistant\n", "tool\n", "\n") * episodes
    for env in envs:
        yield from [_tools_line(env)] * episodes
        for index in range(episodes):
            observation, _ = env.reset(seed=index, options={"task": index % len(env.tasks)})
            yield from (message.content for message in observation)
            rng, over = np.random.default_rng(index), False
            while not over:
                action: Message = env.expert(rng)
                yield to_hermes(action)
                observation, _, terminated, truncated, _ = env.step(action)
                yield from (message.content for message in observation)
                over = terminated or truncated


def _tools_line(env: Env) -> str:
    shown = [f"{s.name}({', '.join(s.parameters['properties'])})" for s in env.tools]
    return "\nTools: " + "; ".join(shown)


def train_tokenizer(corpus: Iterable[str], vocabulary: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WHOLE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[2],
        additional_special_tokens=[SPECIAL[1]],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )

"""A run that is killed goes on, bit for bit, as if it had not been: real processes, kill -9."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from palaestra.core import PalaestraError
from palaestra.trainers import loop
from palaestra.trainers.checkpoint import Place, places
from palaestra.trainers.config import load_config
from palaestra.trainers.metrics import Metrics
from palaestra.trainers.watch import Watch

CONFIG = """
steps = 6
checkpoint_every = 1
[[env]]
id = "palaestra/Search-v0"
options = { hops = [1], results = 1, max_turns = 3 }
[[env]]
id = "palaestra/SQL-v0"
options = { hops = [1], max_turns = 3 }
[policy]
hidden = 32
max_context = 256
max_tokens = 24
slots = 16
[sft]
steps = 30
episodes = 120
batch_size = 8
muon_learning_rate = 0.02
[algorithm]
group_size = 4
tasks_per_step = 4
[eval]
n = 10
every = 2
"""
COMMAND = [sys.executable, "-m", "palaestra.cli", "train"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of the uninterrupted run, and how many seconds it took."""
    out = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    subprocess.run([*COMMAND, config, f"out={out}"], check=True, capture_output=True)
    return out, time.monotonic() - started


def weights(out):
    return hashlib.sha256((out / "final" / "model.safetensors").read_bytes()).hexdigest()


def untimed(out):
    return [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in Metrics(out / "metrics.jsonl").read()
    ]


def killed_then_resumed(config, out, moments):
    command = [*COMMAND, config, f"out={out}"]
    for moment in moments:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (out / "config.json").exists():
            command = [*COMMAND, "--resume", str(out)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
def test_killed_at_five_random_moments_and_resumed_it_ends_with_the_same_weights(
    config, whole, tmp_path
):
    reference, seconds = whole
    rng = random.Random(20)
    out = tmp_path / "run"
    killed_then_resumed(config, out, [rng.uniform(0.2, 0.95) * seconds for _ in range(5)])
    assert weights(out) == weights(reference)
    assert untimed(out) == untimed(reference)


def test_killed_in_the_middle_and_resumed_it_ends_with_the_same_weights(config, whole, tmp_path):
    reference, seconds = whole
    out = tmp_path / "run"
    killed_then_resumed(config, out, [0.75 * seconds])
    assert weights(out) == weights(reference)
    assert untimed(out) == untimed(reference)


def test_the_same_config_gives_the_same_weights_again(config, whole, tmp_path):
    report = loop.train(load_config(config, [f"out={tmp_path / 'again'}"]), Watch(quiet=True))
    assert weights(tmp_path / "again") == weights(whole[0])
    assert set(report["evaluations"]) == {"before", "step-2", "step-4", "after"}


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(config, whole, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, config, f"out={out}"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not places(out / "checkpoints") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"palaestra train --resume {out}" in " ".join(err.split())
    subprocess.run([*COMMAND, "--resume", str(out)], check=True, capture_output=True)
    assert weights(out) == weights(whole[0])


def test_a_run_folder_tells_everything(whole):
    out, _ = whole
    report = json.loads((out / "report.json").read_text())
    assert report["evaluations"]["after"]["n"] == 10
    assert {"demos", "sft", "rollout", "update", "evaluate"} <= set(report["seconds"])
    assert (out / "report.txt").read_text().startswith("held-out, greedy")
    assert len(list((out / "episodes").glob("train-*.jsonl"))) == 6
    assert max(places(out / "checkpoints")) == Place(1, 6)
    assert len(places(out / "checkpoints")) == 2


def test_the_final_model_is_an_ordinary_directory(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole[0] / "final")
    model = AutoModelForCausalLM.from_pretrained(whole[0] / "final")
    assert tokenizer.chat_template
    assert model.config.vocab_size == len(tokenizer)
    assert not model.config.tie_word_embeddings


def test_a_folder_that_holds_another_run_is_not_touched(config, whole):
    with pytest.raises(PalaestraError, match="is not empty; go on with its run by"):
        loop.train(load_config(config, [f"out={whole[0]}"]), Watch(quiet=True))


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(PalaestraError, match="holds no run to resume"):
        loop.resume(str(tmp_path), Watch(quiet=True))


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    (tmp_path / ".grpo-000009.part").mkdir()
    (tmp_path / ".grpo-000009.part" / "state.json").write_text('{"phase": "grpo", "step": 9}')
    assert places(tmp_path) == []


def test_a_run_that_cannot_start_leaves_its_folder_free(config, tmp_path):
    out = tmp_path / "run"
    for bad in ("env.0.id=palaestra/Sq-v0", "sft.style={hast=0.5}", "env.1.options.rows=0"):
        with pytest.raises(PalaestraError):
            loop.train(load_config(config, [f"out={out}", bad]), Watch(quiet=True))
        assert not list(out.glob("*"))


@pytest.mark.parametrize("phase", ["expert episodes", "evaluate: before", "evaluate: after"])
def test_ctrl_c_is_heard_in_every_phase(config, whole, tmp_path, phase):
    """The request comes by the first tick of the phase; the resumed run ends as if it had not."""

    class Asked(Watch):
        def phase(self, name, total, done, steps=False):
            self.stopping = name == phase
            return super().phase(name, total, done, steps)

    out = tmp_path / "run"
    with pytest.raises(PalaestraError, match="go on with: palaestra train --resume"):
        loop.train(load_config(config, [f"out={out}"]), Asked(quiet=True))
    report = loop.resume(str(out), Watch(quiet=True))
    assert weights(out) == weights(whole[0])
    assert untimed(out) == untimed(whole[0])
    assert {"sft", "rollout", "update", "evaluate"} <= set(report["seconds"])


def test_a_control_works_on_any_environment_and_a_run_remembers_its_imports(tmp_path, monkeypatch):
    module = tmp_path / "my_envs.py"
    module.write_text(
        "import palaestra\npalaestra.register('me/Shop-v0', 'palaestra.envs.stockroom:Stockroom')\n"
    )
    config = tmp_path / "c.toml"
    config.write_text(
        'steps = 1\nimports = ["my_envs"]\n[env]\nid = "me/Shop-v0"\n[policy]\nhidden = 32\n'
        "max_context = 200\nmax_tokens = 16\nslots = 8\n[algorithm]\ngroup_size = 2\n"
        "tasks_per_step = 2\n[eval]\nn = 4\ncontrol = true\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    report = loop.train(load_config(str(config), [f"out={out}"]), Watch(quiet=True))
    assert report["evaluations"]["control"]["n"] == 4
    assert json.loads((out / "config.json").read_text())["imports"] == ["my_envs"]


def test_a_config_that_was_damaged_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": ')
    with pytest.raises(PalaestraError, match=r"config.json cannot be read"):
        loop.resume(str(tmp_path), Watch(quiet=True))


def test_an_out_that_is_a_file_is_refused(config, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(PalaestraError, match="is a file"):
        loop.train(load_config(config, [f"out={tmp_path / 'run'}"]), Watch(quiet=True))

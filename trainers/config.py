"""The configuration of a training run: one TOML file, checked whole before any work starts."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..core import PalaestraError, did_you_mean
from .algorithm import ALGORITHMS


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class EnvConfig(Section):
    """One environment to train in; `weight` is its share of the tasks of a step."""

    id: str
    """As `palaestra envs` lists it; several environments are several [[env]] sections."""
    tasks: str | None = None
    """FORMAT:PATH of a published data set; without it, the embedded tasks."""
    options: dict[str, Any] = {}
    """Options of the environment, such as { max_turns = 6 }."""
    rewards: dict[str, float] = {}
    """New weights of its reward terms by name; 0 switches one off."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the tasks of a step."""


class PolicyConfig(Section):
    model: str = "tiny"
    """"tiny" (built on the spot) or a Hugging Face model directory or id."""
    engine: Literal["torch"] = "torch"
    max_context: Annotated[int, Field(ge=16)] = 1024
    """Tokens per episode."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Per reply."""
    slots: Annotated[int, Field(ge=1)] = 128
    """Episodes in flight."""
    threads: Annotated[int, Field(ge=1)] = 1
    hidden: Annotated[int, Field(ge=16, multiple_of=8)] = 128
    layers: Annotated[int, Field(ge=1)] = 2
    vocabulary: Annotated[int, Field(ge=300)] = 2048


class SFTConfig(Section):
    """Supervised warm-up on the environments' experts; `steps = 0` leaves it out."""

    steps: Annotated[int, Field(ge=0)] = 0
    episodes: Annotated[int, Field(ge=1)] = 2000
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    muon_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Above 0: Muon for the inner matrices (good for tiny models from scratch)."""
    context_weight: Annotated[float, Field(ge=0)] = 0.0
    """Loss weight of tokens that the policy does not write."""
    style: dict[str, float] = {}
    """Arguments of the expert: `haste`, `slips`, ... make an imperfect demonstrator."""


class AlgorithmConfig(Section):
    name: str = "grpo"
    group_size: Annotated[int, Field(ge=2)] = 8
    tasks_per_step: Annotated[int, Field(ge=1)] = 16
    minibatches: Annotated[int, Field(ge=1)] = 2
    """Optimizer steps per collected batch."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    temperature: Annotated[float, Field(gt=0)] = 1.0
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ALGORITHMS:
            raise ValueError(f"no algorithm is called '{name}'.{did_you_mean(name, ALGORITHMS)}")
        return name


class EvalConfig(Section):
    split: Literal["train", "validation", "test"] = "test"
    n: Annotated[int, Field(ge=0)] = 200
    """Tasks per evaluation, over all environments together; 0 switches evaluation off."""
    every: Annotated[int, Field(ge=0)] = 0
    """Also evaluate every so many GRPO steps, on the validation split."""
    control: bool = False
    """At the end, evaluate once more with tools that answer nothing."""
    reference: str = ""
    """A packaged JSON file with a recorded line to print beside the result."""

    @field_validator("reference")
    @classmethod
    def _packaged(cls, name: str) -> str:
        if name and name not in (names := packaged(".json")):
            raise ValueError(f"no such file is packaged; there are: {', '.join(names) or 'none'}")
        return name


class Config(Section):
    out: str = ""
    steps: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    imports: list[str] = []
    """Modules to import first: where your own environments are registered."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; SFT uses ten times as many."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    save_episodes: bool = True
    env: list[EnvConfig]
    policy: PolicyConfig = PolicyConfig()
    sft: SFTConfig = SFTConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    eval: EvalConfig = EvalConfig()

    @field_validator("env", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if not self.env:
            raise ValueError("env: a run needs at least one environment")
        if self.algorithm.tasks_per_step < len(self.env):
            raise ValueError(
                f"algorithm.tasks_per_step={self.algorithm.tasks_per_step} is less than the "
                f"number of environments, {len(self.env)}"
            )
        return self

    def digest(self) -> str:
        """A short hash of what decides the result; where things lie and are shown does not."""
        content = self.model_dump(mode="json", exclude={"out": True, "eval": {"reference"}})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def keys(model: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """Every key of a config as (name, default, meaning), sections after plain keys."""
    rows: list[tuple[str, str, str]] = []
    for name, spec in model.model_fields.items():
        inner = EnvConfig if name == "env" else spec.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += keys(inner, f"{prefix}{name}.")
        else:
            default = "(required)" if spec.is_required() else json.dumps(spec.default)
            rows.append((f"{prefix}{name}", default, " ".join((spec.description or "").split())))
    return rows


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (or a packaged one by name) and apply `key.sub=value` overrides."""
    raw = read_toml(path)
    for override in overrides:
        _override(raw, override)
    return check(raw, path)


def check(raw: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        sentences = "; ".join(_sentence(detail) for detail in error.errors()[:4])
        raise PalaestraError(f"{source}: {sentences}") from None


def read_toml(path: str) -> dict[str, Any]:
    file = Path(path)
    names = packaged(".toml")
    name = file.name if file.suffix == ".toml" else f"{file.name}.toml"
    try:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
        elif name in names and str(file.parent) in (".", "configs"):
            text = resources.files("palaestra.configs").joinpath(name).read_text(encoding="utf-8")
        else:
            raise PalaestraError(
                f"there is no config file '{path}'. Packaged configs: {', '.join(names)}."
            )
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PalaestraError(f"{path} is not valid TOML: {error}") from None


def packaged(suffix: str) -> list[str]:
    """The names of the files that come with the package."""
    files = resources.files("palaestra.configs").iterdir()
    return sorted(file.name for file in files if file.name.endswith(suffix))


def _override(raw: dict[str, Any], override: str) -> None:
    """Set `a.b.c=value` in a nested table; the value is TOML, or else a plain string."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise PalaestraError(f"'{override}' is not of the form key=value, such as steps=6")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *path, last = name.strip().split(".")
    place: Any = raw
    for key in path:
        if isinstance(place, list):
            place = _item(place, key, name)
            continue
        if place is raw.get("env") and key == "0":  # a single environment is the first one
            continue
        place = place.setdefault(key, {})
        if not isinstance(place, (dict, list)):
            raise PalaestraError(f"'{name}': '{key}' is a value, not a section")
    if isinstance(place, list):
        raise PalaestraError(
            f"'{name}': this config has {len(place)} environments; say which, as in env.0.{last}"
        )
    place[last] = parsed


def _item(place: list[Any], key: str, name: str) -> Any:
    if not key.isdigit() or int(key) >= len(place):
        raise PalaestraError(f"'{name}': say which of the {len(place)} by a number from 0")
    return place[int(key)]


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        fields = _fields(detail["loc"][:-1])
        return f"unknown key '{where}'.{did_you_mean(str(detail['loc'][-1]), fields)}"
    if detail["type"] == "missing":
        return f"the key '{where}' is missing"
    if detail["type"] in ("model_type", "list_type") and len(detail["loc"]) <= 2:
        return f"'{where}' is a section with keys of its own, got {detail['input']!r:.60}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where} = {detail['input']!r:.60}: {message}" if where else message


def _fields(path: Sequence[Any]) -> list[str]:
    """The keys that a section has, found by walking the models."""
    model: Any = Config
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = EnvConfig if part == "env" else annotation
    return list(model.model_fields)

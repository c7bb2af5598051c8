"""A sweep file in W&B's schema, and its points: point i is a function of the file and i alone.

The same file is for ``wandb sweep`` and its agents, for the job arrays of launchers/sweep.sbatch, and for this machine.
Flags are written as agents write them. What only W&B's server can do is refused.
"""

import difflib
import hashlib
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from dcgan_dist.recipes import SWEEPS, instead_of, sweep_file
from dcgan_dist.words import shortened

MODULE = "dcgan_dist.train"
DEFAULT_COMMAND = ("${env}", "accelerate", "launch", "-m", MODULE, "${args}")
"""Of a file that has none. What stands before ``-m`` is for agents; other ways to run a sweep replace it."""
METHODS = ("grid", "random")
GOALS = ("minimize", "maximize")
NEEDS_SERVER = {
    "controller": "is W&B's, which needs its server",
    "early_terminate": "stops runs by what W&B's server knows of the others",
    "scheduler": "is W&B Launch's, which needs its server",
}
KEYS = ("program", "project", "entity", "name", "description", "method", "metric", "parameters", "command", "run_cap")
"""Known keys; program, project, entity and description are for W&B alone."""
DISTRIBUTIONS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
}
"""Keys of each distribution."""
AGENTS_ALONE = ("beta", "q_beta", "inv_log_uniform", "inv_log_uniform_values")
"""W&B's other distributions."""
DEFAULTS = {"q": 1, "mu": 0, "sigma": 1}
LISTED = ("constant", "categorical", "int_uniform", "q_uniform")
"""What a grid can be made of."""
OF_A_POINT = ("run_dir", "resume")
"""Settings that neither the file nor a flag for all points may give."""
DIGITS = 6
"""Significant digits of numbers that are drawn, so that names are short and a flag says all of the number."""
LONGEST_NAME = 200
"""Characters of a directory's name; file systems take 255 bytes."""
LONGEST_GROUP = 128
"""Characters of a group in W&B."""

Value = Any
"""A scalar of YAML, or a list of scalars."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Values that one setting takes."""

    name: str
    distribution: str
    values: tuple[Value, ...] = ()
    """All there are, where they can be listed."""
    probabilities: tuple[float, ...] = ()
    numbers: Mapping[str, float]
    """min, max, mu, sigma and q, as far as the distribution has them."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep."""

    index: int
    name: str
    """Of its directory: the parameters that vary, in characters that are safe in a path."""
    parameters: Mapping[str, Value]
    """All of them, in the order of the file."""
    flags: tuple[str, ...]
    """Arguments of ``dcgan_dist.train``."""
    group: str
    """In W&B, of all points that differ from this one in their seed alone."""
    job_type: str
    """In W&B, of this point in its group: ``seed=0``; empty when the seed is no parameter."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A checked sweep file."""

    name: str
    """The key ``name``, else the file's own."""
    method: str
    metric: str | None
    goal: str
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    count: int
    """How many points there are."""

    def point(self, index: int) -> Point:
        """The point with this number.

        Raises:
            ValueError: when there is none.
        """
        if not 0 <= index < self.count:
            raise ValueError(f"point must be 0 to {self.count - 1} in sweep {self.name}, got {index}")
        chosen = dict(zip(self._names, self._values(index), strict=True))
        words = self._words(chosen)
        others = [word for name, word in words.items() if name != "seed"]
        first = [f"{index:04d}"] if self.method == "random" else []  # which may draw a point twice
        return Point(
            index=index,
            name=shortened(",".join([*first, *words.values()]) or "only", LONGEST_NAME),
            parameters=chosen,
            flags=tuple(self._flags(chosen)),
            group=shortened(",".join([self.name, *others]), LONGEST_GROUP),
            job_type=f"seed={chosen['seed']}" if "seed" in chosen else "",
        )

    @property
    def fixed_flags(self) -> list[str]:
        """Arguments of ``dcgan_dist.train`` that the command gives every point, beside the parameters."""
        return [word for word in self._words_behind_module if word != "${args}"]

    @property
    def _words_behind_module(self) -> tuple[str, ...]:
        return self.command[self.command.index(MODULE) + 1 :]

    @property
    def _names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]

    def _values(self, index: int) -> list[Value]:
        if self.method == "random":
            return [_drawn(p, _uniform(self.name, p.name, index)) for p in self.parameters]
        chosen = []
        for parameter in reversed(self.parameters):  # the last one changes fastest
            index, place = divmod(index, len(parameter.values))
            chosen.append(parameter.values[place])
        return chosen[::-1]

    def _words(self, chosen: Mapping[str, Value]) -> dict[str, str]:
        """What tells points apart, by parameter, in characters that are safe in a path."""
        varying = [p.name for p in self.parameters if p.distribution != "constant" and len(p.values) != 1]
        return {name: f"{name}={quote(str(chosen[name]), safe='+')}" for name in varying}

    def _flags(self, chosen: Mapping[str, Value]) -> list[str]:
        """What stands behind ``-m dcgan_dist.train`` in the command, with the parameters for its macro."""
        flags: list[str] = []
        for word in self._words_behind_module:
            if word == "${args}":
                flags += [f"--{name}={value}" for name, value in chosen.items()]
            else:
                flags.append(word)
        return flags


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file: the one at ``path``, else that of the package with this name.

    Raises:
        ValueError: naming the file, the key, the rule and the value.
    """
    path = sweep_file(str(path))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ValueError(
            f"sweep {path}: no such file, nor a sweep of the package; {instead_of(str(path), SWEEPS)}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"sweep {path}: cannot be read: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"sweep {path}: {error}") from None
    try:
        return _checked(content, default_name=path.stem)
    except ValueError as error:
        raise ValueError(f"sweep {path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML in which no key is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Hashable] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *other
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key} is given twice")
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


def _checked(content: Any, *, default_name: str) -> Sweep:
    if not isinstance(content, dict):
        raise ValueError("must be lines of 'key: value'")
    for key in content:
        if key in NEEDS_SERVER:
            raise ValueError(f"{key} {NEEDS_SERVER[key]}: use wandb sweep and wandb agent without our launchers")
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}{_suggestion(str(key), KEYS)}")
    method = content.get("method")
    if method == "bayes":
        raise ValueError(
            "method bayes needs W&B's server, which chooses each point by those before it; use grid or random"
        )
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, got {method!r}")
    given = content.get("parameters")
    if not isinstance(given, dict) or not given:
        raise ValueError(f"parameters must be names with their values, got {given!r}")
    parameters = tuple(_parameter(name, spec, method=method) for name, spec in given.items())
    metric, goal = _metric(content.get("metric"))
    return Sweep(
        name=_name(content.get("name", default_name)),
        method=method,
        metric=metric,
        goal=goal,
        parameters=parameters,
        command=_command(content.get("command"), [parameter.name for parameter in parameters]),
        count=_count(content.get("run_cap"), parameters, method=method),
    )


def _name(name: Any) -> str:
    """The sweep's name, which is a directory's too."""
    if not isinstance(name, str) or not all(c.isalnum() or c in "-_." for c in name) or name[:1] in ("", "."):
        raise ValueError(f"name must be letters, digits, '-', '_' and '.', got {name!r}")
    return name


def _metric(given: Any) -> tuple[str | None, str]:
    if given is None:
        return None, GOALS[0]
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError(f"metric must have a name, got {given!r}")
    for key in given:
        if key not in ("name", "goal", "target"):
            raise ValueError(f"metric: unknown key {key!r}; it has name, goal and target")
    goal = given.get("goal", GOALS[0])
    if goal not in GOALS:
        raise ValueError(f"metric: goal must be {' or '.join(GOALS)}, got {goal!r}")
    if "target" in given:
        _number("metric: target", given["target"])
    return given["name"], goal


def _command(given: Any, names: Sequence[str]) -> tuple[str, ...]:
    """The words of the command, which must end in ``-m dcgan_dist.train`` and what it is given."""
    if given is None:
        given = list(DEFAULT_COMMAND)
    if not isinstance(given, list) or not all(isinstance(word, str | int | float) for word in given):
        raise ValueError(f"command must be a list of words, got {given!r}")
    words = tuple(str(word) for word in given)
    if MODULE not in words or words[words.index(MODULE) - 1] != "-m":
        raise ValueError(f"command must contain -m, {MODULE}, got {' '.join(words)!r}")
    flags = words[words.index(MODULE) + 1 :]
    if flags.count("${args}") != 1:
        raise ValueError(f"command must have ${{args}} once after {MODULE}, got {' '.join(flags)!r}")
    for word in flags:
        if word != "${args}" and word.startswith("${"):
            raise ValueError(f"command: only ${{args}} may stand after {MODULE}, got {word!r}")
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in OF_A_POINT:
            raise ValueError(f"command: leave out {name}: each point has its own directory, and resumes there")
        if word.startswith("--") and name in names:
            raise ValueError(f"command: {name} is one of parameters already")
    return words


def _parameter(name: Any, spec: Any, *, method: str) -> Parameter:
    place = f"parameters: {name}"
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{place}: must be the name of a setting, as batch_size")
    if name in OF_A_POINT:
        raise ValueError(f"{place}: each point has its own directory, and resumes there")
    if not isinstance(spec, dict):
        raise ValueError(f"{place}: must have value, values, or min and max, got {spec!r}")
    if "parameters" in spec:
        raise ValueError(f"{place}: parameters are not nested, as settings are not")
    kind = spec["distribution"] if "distribution" in spec else _implied(place, spec)
    if kind in AGENTS_ALONE:
        raise ValueError(f"{place}: distribution {kind} is drawn by W&B's agents alone")
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        raise ValueError(f"{place}: unknown distribution {kind!r}{_suggestion(str(kind), DISTRIBUTIONS)}")
    for key in spec:
        if key != "distribution" and key not in DISTRIBUTIONS[kind]:
            known = " and ".join(DISTRIBUTIONS[kind])
            raise ValueError(f"{place}: unknown key {key!r}; distribution {kind} has {known}")
    for key in DISTRIBUTIONS[kind]:
        if key not in spec and key not in DEFAULTS:
            raise ValueError(f"{place}: distribution {kind} needs {key}")
    if method == "grid" and kind not in LISTED:
        raise ValueError(f"{place}: a grid needs value, values, int_uniform or q_uniform, got {kind}; or method random")
    if kind == "constant":
        return Parameter(name=name, distribution=kind, values=(_value(place, spec["value"]),), numbers={})
    if kind.startswith("categorical"):
        values = _values(place, spec["values"])
        probabilities = _probabilities(place, spec, len(values))
        return Parameter(name=name, distribution=kind, values=values, probabilities=probabilities, numbers={})
    numbers = _numbers(place, kind, spec)
    values = ()
    if kind == "int_uniform":
        values = tuple(range(int(numbers["min"]), int(numbers["max"]) + 1)) if method == "grid" else ()
    elif kind == "q_uniform" and method == "grid":
        steps = math.floor((numbers["max"] - numbers["min"]) / numbers["q"] + 1e-9)
        values = tuple(_short(numbers["min"] + step * numbers["q"]) for step in range(steps + 1))
    return Parameter(name=name, distribution=kind, values=values, numbers=numbers)


def _implied(place: str, spec: Mapping[str, Any]) -> str:
    """The distribution of a parameter that does not name it."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"
    if "mu" in spec and "sigma" in spec:
        return "normal"
    raise ValueError(f"{place}: must have value, values, or min and max, got {dict(spec)!r}")


def _values(place: str, given: Any) -> tuple[Value, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{place}: values must be a list, got {given!r}")
    values = tuple(_value(place, value) for value in given)
    texts = [str(value) for value in values]
    for value in texts:
        if texts.count(value) > 1:
            raise ValueError(f"{place}: values has {value} twice")
    return values


def _value(place: str, value: Any) -> Value:
    """A value that can be written as one flag."""
    items = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, str | int | float) for item in items):
        raise ValueError(f"{place}: a value must be a number, a word, true or false, or a list of these, got {value!r}")
    if any("\n" in str(item) for item in items):
        raise ValueError(f"{place}: a value must be on one line, got {value!r}")
    return value


def _probabilities(place: str, spec: Mapping[str, Any], count: int) -> tuple[float, ...]:
    if "probabilities" not in spec:
        return ()
    given = spec["probabilities"]
    if not isinstance(given, list) or len(given) != count:
        raise ValueError(f"{place}: probabilities must be {count} numbers, one for each of values, got {given!r}")
    shares = tuple(_number(f"{place}: probabilities", share) for share in given)
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{place}: probabilities must be zero or more and add up to 1, got {given!r}")
    return shares


def _numbers(place: str, kind: str, spec: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: _number(f"{place}: {key}", spec.get(key, DEFAULTS.get(key))) for key in DISTRIBUTIONS[kind]}
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        raise ValueError(f"{place}: min must be below max, got {spec['min']} and {spec['max']}")
    if kind == "int_uniform" and not all(value.is_integer() for value in numbers.values()):
        raise ValueError(f"{place}: min and max of int_uniform must be whole numbers, got {spec['min']}, {spec['max']}")
    if kind.endswith("_values") and numbers["min"] <= 0:
        raise ValueError(f"{place}: min must be positive for {kind}, got {spec['min']}")
    for key in ("q", "sigma"):
        if key in numbers and numbers[key] <= 0:
            raise ValueError(f"{place}: {key} must be positive, got {spec[key]}")
    if kind in ("log_uniform", "q_log_uniform") and max(map(abs, numbers.values())) > 700:
        raise ValueError(
            f"{place}: min and max of {kind} are exponents of e; {kind}_values takes the values themselves"
        )
    return numbers


def _number(place: str, value: Any) -> float:
    """A finite number; YAML 1.1 reads 1e-4 as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place} must be a number, got {value!r}")
    return number


def _count(run_cap: Any, parameters: Sequence[Parameter], *, method: str) -> int:
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise ValueError(f"run_cap must be a positive whole number, got {run_cap!r}")
    if method == "grid":
        size = math.prod(len(parameter.values) for parameter in parameters)
        return size if run_cap is None else min(size, run_cap)
    if run_cap is None:
        raise ValueError("run_cap: method random needs it: how many points?")
    return int(run_cap)


def _suggestion(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _uniform(sweep: str, parameter: str, index: int) -> float:
    """A number in (0, 1) that depends on these three alone."""
    digest = hashlib.sha256(f"{sweep}\0{parameter}\0{index}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") // 8 + 0.5) / 2**53


def _drawn(parameter: Parameter, u: float) -> Value:
    """The value of a parameter at the share ``u`` of its distribution."""
    kind, n = parameter.distribution, parameter.numbers
    if parameter.values:
        total, shares = 0.0, parameter.probabilities or [1 / len(parameter.values)] * len(parameter.values)
        for value, share in zip(parameter.values, shares, strict=True):
            total += share
            if u < total:
                return value
        return parameter.values[-1]
    if kind == "int_uniform":
        return int(n["min"]) + math.floor(u * (n["max"] - n["min"] + 1))
    shape = kind.removeprefix("q_")
    if shape == "uniform":
        number = n["min"] + u * (n["max"] - n["min"])
    elif shape in ("normal", "log_normal"):
        number = statistics.NormalDist(n["mu"], n["sigma"]).inv_cdf(u)
        number = math.exp(number) if shape == "log_normal" else number
    else:
        low, high = (math.log(n["min"]), math.log(n["max"])) if kind.endswith("_values") else (n["min"], n["max"])
        number = math.exp(low + u * (high - low))
    if "q" in n:
        return _short(round(number / n["q"]) * n["q"])
    return _short(number)


def _short(number: float) -> int | float:
    """The number to DIGITS digits; a whole one without a point."""
    short = float(f"{number:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 10**DIGITS else short

"""Hand broken and odd input to every reader and grammar of what users write, and count what comes of it.

python -m tests.reliability.fuzz --inputs 60000

Prints a table: read (a value), refused (one line of a ProbekitError or a usage error), wrong (any other
exception, more than a line, a line without end, or no end of the work).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import io
import json
import random
import re
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pyarrow
import pyarrow.parquet as parquet

from probekit.activations.layers import parse_layers
from probekit.activations.positions import parse_positions
from probekit.behaviours import Behaviours
from probekit.behaviours.definitions import Wanted, find
from probekit.behaviours.quality import read_labelled
from probekit.cli.main import COMMANDS, cli
from probekit.cli.settings import SettingsCommand
from probekit.data.layouts import LAYOUTS, layout_named
from probekit.data.open import open_dataset
from probekit.data.prompts import open_prompts
from probekit.errors import ProbekitError
from probekit.foreign import LONGEST, one_line
from probekit.models.chat import render
from probekit.models.load import load_model
from probekit.probes import Probe
from probekit.results.runs import open_run
from probekit.rl.extra import ExtraReward
from probekit.steering.grid import parse_coeffs
from probekit.steering.where import Where
from probekit.studies.recipe import Recipe, _find
from tests.reports.dynamics_factory import write_dynamics
from tests.reports.factory import Made, write_fit
from tests.reports.rl_factory import MadeRL, write_rl
from tests.reports.steer_factory import SMALL, MadeSteer, write_steer
from tests.tiny import tiny_tokenizer

OUTCOMES = ("read", "refused", "wrong")
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")
SECONDS = 10
"""Of one input; what takes longer hangs."""
TURNS = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
ROWS: dict[str, list[dict]] = {
    "probekit": [
        {"prompt": "Who?", "completion": "Me.", "label": "a", "group": "g", "tags": {"t": "u"}, "id": "1"},
        {"prompt": TURNS[:1], "completion": "Me.", "score": 2.5, "id": 3},
        {"messages": TURNS, "label": 1},
        {"text": "Plain text.", "label": 0},
        {"ids": [5, 6, 7], "score": 1},
        {"prompt": "A", "chosen": "b", "rejected": "c", "score_chosen": 2, "score_rejected": 1},
        {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No."}]},
    ],
    "ultrafeedback": [
        {"instruction": "Do", "source": "s", "completions": [
            {"response": "x", "overall_score": 3.0, "fine-grained_score": 4.0, "critique": "ok",
             "annotations": {"helpfulness": {"Rating": "4"}}},
            {"response": "y", "overall_score": 1.0, "fine-grained_score": 2.0, "critique": "no"}]},
    ],
    "ultrafeedback_binarized": [
        {"prompt": "Q", "prompt_id": "p", "chosen": TURNS, "rejected": TURNS[:1] + [
            {"role": "assistant", "content": "No"}], "score_chosen": 8.0, "score_rejected": 3.0},
    ],
    "hh-rlhf": [
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    ],
    "helpsteer": [
        {"prompt": "P", "response": "R", "helpfulness": 3, "correctness": 4, "coherence": 4,
         "complexity": 1, "verbosity": 2},
        {"prompt": "a<extra_id_1>Assistant\nb<extra_id_1>User\nc", "response": "R", "helpfulness": 1,
         "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2},
    ],
    "trl": [
        {"prompt": "P", "completion": "C", "label": True},
        {"prompt": TURNS[:1], "completion": TURNS[1:], "label": False},
        {"chosen": "Both begin so: yes", "rejected": "Both begin so: no"},
        {"messages": TURNS},
    ],
}  # fmt: skip
ODD: list[object] = [
    None, True, False, 0, -1, 1 << 70, 1e308, -0.0, 0.5, "", " ", "x", "a" * 3000, "\x00\x1b[2J", "\u2028",
    "\u202eabc", "\ud800",
    "nan", "Infinity", "1_000", "0x10", "٣", [], {}, [[]], [{}], {"role": "user"},
    {"role": "user", "content": None}, [{"role": "x", "content": "y"}], [1, "a", None], {"": ""}, "demo:",
    "user",
    "Human:", "\n\nHuman: a\n\nAssistant:", "{{ x }}", "{% raise %}", "<|im_end|>", ["a"] * 40, float("nan"),
    float("inf"), "resid_post", "9" * 400, [[[[[[[[1]]]]]]]], {"value": "<b>"}, -7, 3, "all",
]  # fmt: skip
BITS: list[bytes] = [
    b"\x00", b"\xff\xfe", b"\xc3\x28", b'"', b"'", b'"""', b"[" * 300, b"{" * 300, b"]", b"}",
    b",", b":", b"=",
    b"\n", b"\r", b"\\", b"\\ud800", b"\\u0000", b"1e999", b"NaN", b"nan", b"-inf", b"-", b"+",
    b".", b"9" * 5000,
    b"0" * 40, b"_", b"#", b"(a+)+$", b"(?", b"[a-", b"*", b"true", b"null",
    b"1979-05-27T07:32:00Z", b"\xe2\x80\xa8",
    b"\xef\xbb\xbf", b" ", b"::", b",,", b"all", b"mean", b"first:", b"token:-", b"last", b"9:9:9",
    b"extends", b"x" * 2000,
    b"os:system", b"pattern:", b"..", b"/", b"%s", b"{0}", b"\x1b[31m", b"\xe2\x80\xae", b"\t",
]  # fmt: skip
SPECS = {
    "positions": ["last", "mean,last", "first:3, token:-1", "all", "turn_end,prompt_end"],
    "layers": ["all", "0,4,-1", "2:9:2", ":", "-3:"],
    "coefficients": ["-8:8:2", "-0.4,0,0.4", "1e-3", "0:1:0.1,5"],
    "where": ["both", "prompt", "token:2", "first:4"],
    "layouts": [*LAYOUTS, "helpsteer:verbosity", "ultrafeedback:fine-grained"],
    "rewards": ["length=-0.01", "repetition=1", "pattern:a|b=2", "pattern:(x+)y=-1e2", "os:getcwd=1"],
    "wanted": ["hedges", "class=invented:hedges,refuses", "a=b:answers"],
    "prompts": ["demo:researchers_pairs", "demo:x", "a.jsonl", "b.csv", "c.parquet", "~/x.jsonl.gz"],
    "sets": ["coeffs=-1:1:1", "seed=3", "temperature=0.5", 'where="all"', "samples=[1]", "beta=1e-5"],
    "names": ["knowledge-awareness", "sentiment.toml", "recipe"],
}  # fmt: skip


class Hang(BaseException):
    """Raised in the middle of what takes too long."""


def value_changed(rng: random.Random, value: object) -> object:
    """Return a JSON value with one to three places of it replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = [(c, k) for c, k in _places(value)]
        if not places:
            break
        inside, key = rng.choice(places)
        what = rng.random()
        if what < 0.6:
            inside[key] = copy.deepcopy(rng.choice(ODD))
        elif what < 0.8:
            del inside[key]
        elif isinstance(inside, list):
            inside.insert(rng.randint(0, len(inside)), copy.deepcopy(inside[key]))
        else:
            inside[rng.choice([f"{key}x", "", "id", "text", "chosen", "tags", "label"])] = inside[
                key
            ]
    return value


def _places(value: object) -> Iterator[tuple]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys)[:60]:
        yield value, key
        yield from _places(value[key])


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four places flipped, cut, doubled, removed or put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(found))
        to = min(len(found), at + rng.choice([1, 2, 8, 40, 400]))
        what = rng.random()
        if what < 0.25 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif what < 0.65:
            found[at : rng.choice([at, to])] = rng.choice(BITS)
        elif what < 0.8:
            del found[at:to]
        elif what < 0.95:
            found[at:at] = found[at:to] * rng.randint(1, 3)
        else:
            del found[at:]
    return bytes(found)


@dataclasses.dataclass
class Kind:
    """A reader or grammar, and how an input of it is made."""

    name: str
    make: Callable[[random.Random], object]
    read: Callable[[object], object]


class Inputs:
    """The kinds of input, with the files that they need in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tokenizer = folder, tiny_tokenizer()
        self.behaviours = Behaviours.load("knowledge-awareness")

    def kinds(self) -> dict[str, Kind]:
        """Return the kinds by name."""
        made = [*self._rows(), *self._specs(), *self._tables(), *self._documents()]
        return {kind.name: kind for kind in made}

    def _rows(self) -> Iterator[Kind]:
        for ending in ("jsonl", "csv", "parquet"):
            path = self.folder / f"rows.{ending}"
            yield Kind(f"rows, {ending}", functools.partial(self._row_file, path), self._read_rows)
        for ending in ("jsonl", "csv"):
            path = self.folder / f"prompts.{ending}"
            yield Kind(
                f"prompts, {ending}", functools.partial(self._row_file, path), self._read_prompts
            )
        path = self.folder / "labelled.jsonl"
        rows = [{"prompt": "a", "completion": "b", "label": "hedges"}] * 2
        yield Kind("labelled completions", lambda rng: self._jsonl(rng, path, rows), read_labelled)

    def _row_file(self, path: Path, rng: random.Random) -> tuple[Path, str | None]:
        layout = rng.choice(list(ROWS))
        rows = [rng.choice(ROWS[layout])] * rng.randint(1, 3)
        if path.suffix == ".jsonl":
            self._jsonl(rng, path, rows)
        elif path.suffix == ".csv":
            self._csv(rng, path, rows)
        else:
            self._parquet(rng, path, rows)
        return path, layout if rng.random() < 0.5 else None

    def _jsonl(self, rng: random.Random, path: Path, rows: Sequence[object]) -> str:
        rows = [value_changed(rng, row) if rng.random() < 0.6 else row for row in rows]
        data = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(bytes_changed(rng, data) if rng.random() < 0.4 else data)
        return str(path)

    def _csv(self, rng: random.Random, path: Path, rows: list[dict]) -> None:
        rows = [{k: v for k, v in row.items() if not isinstance(v, (dict, list))} for row in rows]
        rows = [value_changed(rng, row) for row in rows]
        head = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
        lines = [",".join(map(_field, head))]
        lines += [",".join(_field(row.get(key, "")) for key in head) for row in rows]
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
        path.write_bytes(bytes_changed(rng, data) if rng.random() < 0.5 else data)

    def _parquet(self, rng: random.Random, path: Path, rows: list[dict]) -> None:
        rows = [row for _ in range(9) if isinstance(row := value_changed(rng, rows[0]), dict)]
        try:
            table = pyarrow.Table.from_pylist(rng.choice([rows[:1], rows[:2]]))
        except (pyarrow.ArrowException, UnicodeError, OverflowError):
            table = pyarrow.Table.from_pylist(ROWS["probekit"][:1])
        memory = io.BytesIO()
        with contextlib.suppress(pyarrow.ArrowException):  # such as a struct without fields
            parquet.write_table(table, memory)
        data = memory.getvalue()
        path.write_bytes(bytes_changed(rng, data) if rng.random() < 0.5 else data)

    def _read_rows(self, given: tuple[Path, str | None]) -> int:
        data = open_dataset(given[0], layout=given[1])
        return sum(len(render(example, self.tokenizer).ids) for example in data.examples())

    def _read_prompts(self, given: tuple[Path, str | None]) -> int:
        found = open_prompts(given[0], layout=given[1])
        return sum(len(render(example, self.tokenizer).ids) for example in found)

    def _specs(self) -> Iterator[Kind]:
        readers: dict[str, Callable[[str], object]] = {
            "positions": parse_positions,
            "layers": lambda text: parse_layers(text, 12),
            "coefficients": parse_coeffs,
            "where": Where.parse,
            "layouts": layout_named,
            "rewards": ExtraReward.parse,
            "wanted": lambda text: Wanted.parse([text], self.behaviours),
            "prompts": open_prompts,
            "sets": self._set,
            "names": lambda text: (find(text), load_model(text)) if "/" not in text else find(text),
        }
        for name, read in readers.items():
            yield Kind(f"spec, {name}", functools.partial(_text, SPECS[name]), read)

    def _set(self, text: str) -> object:
        command = _commands()[len(text) % len(_commands())]
        return self._resolved(command, "--set", text)

    def _resolved(self, command: SettingsCommand, *args: str) -> object:
        needed = [p for p in command.params if p.required]
        try:
            for param in needed:
                param.required = False
            with command.make_context(
                command.name, list(args), parent=click.Context(cli)
            ) as context:
                return command.resolve(context)
        finally:
            for param in needed:
                param.required = True

    def _tables(self) -> Iterator[Kind]:
        shipped = {
            "behaviours": find("knowledge-awareness"),
            "recipes": _find("knowledge-awareness"),
        }
        loads = {"behaviours": Behaviours.load, "recipes": Recipe.load}
        for name, source in shipped.items():
            path = self.folder / f"{name}.toml"
            seed = source.read_bytes()
            code = b'\n[categories.code]\nfunction = "os:getcwd"\n'
            seeds = [seed, seed + code] if name == "behaviours" else [seed]
            yield Kind(f"toml, {name}", functools.partial(_toml_file, path, seeds), loads[name])
        for command in _commands():
            path = self.folder / f"{command.name}.toml"
            seed = command.toml(self._resolved(command)).encode()
            read = functools.partial(self._config, command)
            yield Kind(f"toml, {command.name}", functools.partial(_toml_file, path, [seed]), read)

    def _config(self, command: SettingsCommand, path: Path) -> object:
        return self._resolved(command, "--config", str(path))

    def _documents(self) -> Iterator[Kind]:
        at = self.folder
        made = {
            "fit": write_fit(
                at / "fit", Made(layers=2, positions=("last",), n=6, tags={"t": ("a", "b")})
            ),
            "steer": write_steer(at / "steer", MadeSteer(**{**SMALL, "prompts": 2})),
            "rl": write_rl(at / "rl", MadeRL(steps=2, every=1, prompts=2, n_chosen=4)),
            "dynamics": write_dynamics(at / "dynamics", "sgd"),
        }
        for name, folder in made.items():
            (folder / "digests.json").unlink(missing_ok=True)
            files = {f: f.read_bytes() for f in sorted(folder.rglob("*.json*")) if f.stat().st_size}
            make = functools.partial(_document, folder, files)
            yield Kind(f"document, {name}", make, functools.partial(_opened, files))


def _field(value: object) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"'


def _text(seeds: Sequence[str], rng: random.Random) -> str:
    while True:
        data = rng.choice(seeds).encode()
        if rng.random() < 0.5:  # a few signs of the grammar in other places
            mixed = list(data.decode() + rng.choice(seeds))
            at = rng.randint(0, len(mixed))
            mixed[at : at + rng.randint(0, 4)] = rng.choice(
                ["", ",", ":", "-", "=", "0", "9", "1e3", "a", " "]
            )
            data = "".join(mixed[: len(data) + rng.randint(-2, 6)]).encode()
        else:
            data = bytes_changed(rng, data)
        text = data.decode("utf-8", "surrogateescape" if rng.random() < 0.3 else "replace")
        if not text.startswith("hf:"):
            return text


def _toml_file(path: Path, seeds: Sequence[bytes], rng: random.Random) -> Path:
    data = rng.choice(seeds)
    if rng.random() < 0.6:  # one value for another
        odd = [v for v in ODD if not isinstance(v, float) or v == v]
        lines = data.split(b"\n")
        keyed = [i for i, line in enumerate(lines) if re.match(rb"[\w.]+ = ", line)]
        for i in rng.sample(keyed, min(len(keyed), rng.randint(1, 3))):
            value = json.dumps(rng.choice(odd)).encode()
            lines[i] = lines[i].split(b" = ")[0] + b" = " + value
        data = b"\n".join(lines)
    if rng.random() < 0.4:
        data = bytes_changed(rng, data)
    path.write_bytes(data)
    return path


def _document(folder: Path, files: dict[Path, bytes], rng: random.Random) -> Path:
    """Change a value of one of a run's files, with no checksum left to tell."""
    file = rng.choice(list(files))
    lines = files[file].split(b"\n") if file.suffix == ".jsonl" else [files[file]]
    at = rng.randrange(max(1, len(lines) - 1))
    value = json.loads(lines[at])
    value.pop("checksum", None)
    lines[at] = json.dumps(value_changed(rng, value)).encode()
    if rng.random() < 0.1:
        lines[at] = bytes_changed(rng, lines[at])
    file.write_bytes(b"\n".join(lines))
    return folder


def _opened(files: dict[Path, bytes], folder: Path) -> object:
    try:
        run = open_run(folder)
        read = [run.metrics, run.rows, run.provenance]
        if (folder / "sweep.json").is_file() and (folder / "probes.safetensors").is_file():
            read.append(Probe.load_all(folder))
        return read
    finally:
        for file, data in files.items():
            file.write_bytes(data)


@functools.cache
def _commands() -> list[SettingsCommand]:
    found = [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    return [command for command in found if isinstance(command, SettingsCommand)]


def trial(kind: Kind, given: object) -> tuple[str, str]:
    """Read one input; return the outcome and what was said."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.read(given)
        return "read", ""
    except (ProbekitError, click.UsageError) as error:
        # A usage error becomes one line where the command line shows it.
        said = str(error) if isinstance(error, ProbekitError) else one_line(error.message)
        return ("refused" if len(said) <= LONGEST and not UNFIT.search(said) else "wrong"), said
    except (Exception, Hang) as error:  # noqa: BLE001 - what is counted
        own = [
            at for at in traceback.extract_tb(error.__traceback__) if "/probekit/" in at.filename
        ]
        where = (own or traceback.extract_tb(error.__traceback__))[-1]
        return "wrong", f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(
    folder: Path, *, inputs: int, seed: int, only: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Counter[str]]:  # fmt: skip
    """Return kind to outcomes of `inputs` in all; `tell` is given a line for each that must not be."""
    warnings.simplefilter("ignore")
    kinds = {name: kind for name, kind in Inputs(folder).kinds().items() if only in name}
    found: dict[str, Counter[str]] = {}
    for name, kind in kinds.items():
        rng, counts = random.Random(f"{seed} {name}"), Counter[str]()
        for _ in range(-(-inputs // len(kinds))):
            given = kind.make(rng)
            outcome, said = trial(kind, given)
            counts[outcome] += 1
            if outcome == "wrong":
                tell(f"{name}: {str(given)[:200]!r}: {said[:400]!r}")
        found[name] = counts
        tell(
            "| "
            + " | ".join(map(str, (name, counts.total(), *(counts[k] for k in OUTCOMES))))
            + " |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=60_000, help="In all kinds together.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Kinds with this in their name.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), inputs=args.inputs, seed=args.seed, only=args.only, tell=click.echo)


if __name__ == "__main__":
    main()

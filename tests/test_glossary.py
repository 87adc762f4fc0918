"""Words: docs/glossary.md lists what was replaced, with patterns; nothing of it is left."""

import functools
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
TOPS = ("src/stillframe", "models", "pipeline", "reuse", "sample_videos", "tests", "benchmarks")
NAMES = frozenset({"identifier", "part"})
TEXT = frozenset({"text"})

KEYS = frozenset({'"cadence"', '"rivals"'})
"""Keys of saved profiles and of JSON output, which keep their spelling."""
FOREIGN = ("from hypothesis import", "@given(")
"""How lines start that use another package's `given`."""


@dataclass(frozen=True)
class Rule:
    """A row of the table of replaced words."""

    now: str
    where: str
    pattern: re.Pattern[str]


def rules() -> list[Rule]:
    """The table under "Replaced words" in docs/glossary.md."""
    table = GLOSSARY.read_text("utf-8").partition("## Replaced words")[2]
    rows = re.findall(r"^\| [^|]+ \| (.+?) \| (\w+) \| `(.+)` \|$", table, re.MULTILINE)
    return [
        Rule(now, where, re.compile(pattern.replace(r"\|", "|"), re.IGNORECASE))
        for now, where, pattern in rows
    ]


RULES = rules()
SOURCES = sorted(
    path.relative_to(ROOT)
    for top in (*TOPS, "examples", "scripts")
    for path in (ROOT / top).rglob("*.py")
    if path.name != Path(__file__).name  # it has to name the words
)
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")]
)


def faults(source: str, checks: frozenset[str]) -> Iterator[str]:
    """Every old word of a Python source, with its line and what to say instead."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.string == "given" and token.line.startswith(FOREIGN):
            continue
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            for rule in replaced(token.string):
                if rule.where in checks:
                    yield f"{line}: the name {token.string!r} -> {rule.now}"
        elif token.string in KEYS:
            continue
        elif token.type in (tokenize.COMMENT, tokenize.STRING) and "text" in checks:
            yield from (f"{line}: {fault}" for fault in text_faults(token.string))


@functools.cache
def replaced(name: str) -> list[Rule]:
    """The rules that name this name. Most names stand in many files."""
    return [rule for rule in RULES if names_it(rule, name)]


def names_it(rule: Rule, name: str) -> bool:
    """Does a name say what the rule replaced? As a whole, or with one of its words."""
    if rule.where == "identifier":
        return rule.pattern.fullmatch(name.strip("_")) is not None
    if rule.where == "part":
        parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        return any(rule.pattern.fullmatch(part) for part in parts)
    return False


def text_faults(text: str) -> Iterator[str]:
    for rule in RULES:
        if rule.where == "text" and (match := rule.pattern.search(text)):
            yield f"{match[0]!r} -> {rule.now}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_names_and_texts_use_todays_words(path: Path) -> None:
    old_words = list(faults((ROOT / path).read_text("utf-8"), NAMES | TEXT))
    assert not old_words, f"{path}:\n" + "\n".join(old_words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_documents_use_todays_words(path: Path) -> None:
    text = (ROOT / path).read_text("utf-8").partition("## Replaced words")[0]
    old_words = list(text_faults(text))
    assert not old_words, f"{path}:\n" + "\n".join(old_words)


def test_the_rules_see_names_and_texts_and_leave_english_alone() -> None:
    assert {rule.where for rule in RULES} == NAMES | TEXT
    source = (
        "# as found, and as is given; the ring of zeros\n"
        "found = self.wish_list.made\n"
        "foundation = given_name = heatmap = 'found'\n"
        "class RivalPlayer: pass\n"
        "from hypothesis import given\n"
        "@given(rows)\n"
        'def keys(given): return {"rivals": given, "cadence": "a rival"}\n'
    )
    assert list(faults(source, NAMES | TEXT)) == [
        "1: 'ring of zeros' -> zero padding",
        "2: the name 'found' -> the noun: backend, outputs, result, tensors, matches",
        "2: the name 'wish_list' -> goal, placement request",
        "2: the name 'made' -> the noun: backend, outputs, result, tensors, matches",
        "4: the name 'RivalPlayer' -> variant, contender, background load",
        "7: the name 'given' -> the noun: backend, outputs, result, tensors, matches",
        "7: the name 'given' -> the noun: backend, outputs, result, tensors, matches",
        "7: 'rival' -> contender, background load",
    ]
    assert [fault[:1] for fault in faults(source, TEXT)] == ["1", "7"]


def test_every_term_is_one_sentence_and_stands_once() -> None:
    terms = GLOSSARY.read_text("utf-8").partition("## Replaced words")[0]
    rows = re.findall(r"^\| (?!term|---)([^|]+) \| (.+) \|$", terms, re.MULTILINE)
    assert len(rows) > 40
    assert len({term for term, _ in rows}) == len(rows)
    for term, meaning in rows:
        assert re.fullmatch(r"[A-Z].*[^.]\.", meaning), term
        assert ". " not in meaning, term

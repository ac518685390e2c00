"""One of the nine labels out of free text, by two rules side by side.

*Strict* takes only the form the prompts ask for: the last line that is not blank reads ``Answer: LABEL``.

*Flexible* takes what the text commits to, in whatever words. It looks, in this order, at the sentence behind the last
"Answer:" that says anything, at the statements about the two agents that were asked about, and at everything else.
Sentences are read by the project's own grammar where it can, so "B is left of A" counts as *right* when A was asked
about, and a statement about other agents counts as nothing. Where the grammar cannot, mentions of relations are
collected: a word of height (above, top, north, ...), one of side (left, west, ...) or both, an hour of the clock, or a
word for the same place. A text whose statements disagree answers with its last conclusion ("so", "therefore"), if it
draws one, else it answers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from harness.mentions import mentions
from harness.task import Extraction
from stepgame.read import UnreadableError, mask, read_question, read_sentence
from stepgame.relations import NAMES, Relation

__all__ = ["EXTRACTION", "OPTION_EXTRACTION", "extract", "extract_option"]

EXTRACTION = "flexible-2"
"""Name and version of the rule for the nine labels; raised whenever a text could be read differently."""

OPTION_EXTRACTION = "option-1"
"""Name and version of the rule for options of any wording."""

_STRICT = re.compile(rf"Answer: ({'|'.join(NAMES)})\.?")

_CUE = re.compile(
    r"\b(?:answer|choice|conclusion|verdict)\b(?: to (?:the|this|your) question| here)?"
    r"(?:\s+(?:is|would be|must be|should be|will be)\b\s*[:=-]?|\s*[:=-]|\s*\n)\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\n|[.!?](?=\s|$)|;")
_CONCLUSION = re.compile(
    r"\s*(?:so|therefore|thus|hence|finally|overall|consequently|in conclusion|in summary|to sum up|this means)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|not possible to|hard to|difficult to)"
    r"(?: be)? (?:tell|told|determined?|say|said|know|known|answer(?:ed)?|infer(?:red)?|conclude[d]?|decided?|help)\b|"
    r"\b(?:not enough|insufficient|no|lacks?|missing) (?:information|context|data|details)\b|"
    r"\b(?:unknown|undetermined|indeterminate|undefined|unclear|unspecified|ambiguous)\b|"
    r"\b(?:do not|don't|does not|doesn't) (?:know|say|state|specify|mention|tell)\b|"
    r"\bnot (?:specified|stated|given|mentioned|determinable|clear|sure|certain)\b|\bno idea\b|"
    r"\bi(?:'m| am) sorry\b|\bnone of (?:the|these|them|those)\b",
    re.IGNORECASE,
)
# Agreement, in which "right" names no side.
_AGREED = re.compile(
    r"\b(?:all right|(?:that's|that is|this is|you're|you are) right(?=\s*(?:[.,!]|$)))", re.IGNORECASE
)
# The writer, not an agent of that name.
_WRITER = re.compile(r"\bI(?= (?:say|think|believe|guess|would|will|am|can|conclude|choose|pick|hope|need|see|know)\b)")
_BOXED = re.compile(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"[*_`\"“”#$\\]+")
_ARROWS = str.maketrans(
    {"↖": " upper-left ", "↗": " upper-right ", "↙": " lower-left ", "↘": " lower-right "}
    | {"←": " left ", "→": " right ", "↑": " above ", "↓": " below ", "’": "'", "–": "-", "‑": "-"}
)
_LONGEST = 300
"""Characters of a sentence that the grammar is asked to read; longer ones make no single statement."""


class _Said(NamedTuple):
    """What a sentence says: about the agents asked about, and about none that it names."""

    asked: frozenset[Relation]
    loose: frozenset[Relation]


def extract(text: str, question: str | None = None, story: Sequence[str] = ()) -> Extraction:
    """Read the answer out of free text.

    Args:
        text: what a model wrote, without its prompt.
        question: what was asked; without it, or where it cannot be read, statements are taken as they stand.
        story: the sentences that the question is about; they say which other agents there are.

    Returns:
        Both readings; see the module's description.
    """
    if not text.strip():
        return Extraction(None, None, "empty")
    match = _STRICT.fullmatch(text.rstrip().rpartition("\n")[2].strip())
    strict = match[1] if match else None
    reader = _Reader(question, story)
    plain = _MARKUP.sub(" ", _BOXED.sub(r" \1 ", text).translate(_ARROWS))
    plain = _WRITER.sub("we", _AGREED.sub(" ", plain))
    for sentence in _behind_cues(plain):
        said = reader.read(sentence)
        found = said.asked or said.loose
        if found:
            return _single(strict, found)
        if _REFUSAL.search(sentence):
            return Extraction(strict, None, "refusal")
    found = _weigh([(sentence, reader.read(sentence)) for sentence in _SENTENCE.split(plain) if sentence.strip()])
    if not found and _REFUSAL.search(plain):
        return Extraction(strict, None, "refusal")
    return _single(strict, found)


def extract_option(text: str, options: Sequence[str]) -> Extraction:
    """Read one of any options out of free text: the only one that is named behind the last "Answer:", else anywhere.

    Args:
        text: what a model wrote, without its prompt.
        options: the answers that there are; a longer one hides a shorter one that is part of it.
    """
    if not text.strip():
        return Extraction(None, None, "empty")
    last = text.rstrip().rpartition("\n")[2].strip()
    strict = next((each for each in options if last in (f"Answer: {each}", f"Answer: {each}.")), None)
    longest_first = sorted(options, key=len, reverse=True)
    folded: dict[str, str] = {}
    for option in longest_first:
        folded.setdefault(option.casefold(), option)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(option)}(?!\w)" for option in folded))
    for part in (*_behind_cues(text), text):
        found = {folded[match[0]] for match in pattern.finditer(part.casefold())}
        if found:
            answer = found.pop() if len(found) == 1 else None
            return Extraction(strict, answer, "answer" if answer is not None else "several")
        if _REFUSAL.search(part):
            return Extraction(strict, None, "refusal")
    return Extraction(strict, None, "none")


def _single(strict: str | None, found: Collection[Relation]) -> Extraction:
    if len(found) == 1:
        return Extraction(strict, next(iter(found)).label, "answer")
    return Extraction(strict, None, "several" if found else "none")


def _behind_cues(text: str) -> list[str]:
    """Return the sentence behind each "answer", the last first; it may begin on the line below."""
    ends = [match.end() for match in _CUE.finditer(text)]
    return [_SENTENCE.split(text[end:].lstrip(), maxsplit=1)[0] for end in reversed(ends)]


def _weigh(sentences: Sequence[tuple[str, _Said]]) -> frozenset[Relation]:
    """Return what a text without an "Answer:" says; of several, that of its last conclusion."""
    asked = frozenset[Relation]().union(*(said.asked for _, said in sentences))
    found = asked or frozenset[Relation]().union(*(said.loose for _, said in sentences))
    if len(found) > 1:
        for sentence, said in reversed(sentences):
            concluded = said.asked or said.loose
            if concluded and _CONCLUSION.match(sentence):
                return concluded
    return found


class _Reader:
    """Reads sentences as answers to one question."""

    def __init__(self, question: str | None, story: Sequence[str]) -> None:
        self._head = self._tail = ""
        self._others: set[str] = set()
        if question is not None:
            try:
                self._head, self._tail = read_question(question)
            except UnreadableError:
                return
            for sentence in story:
                self._others.update(mask(sentence)[1])
            self._others -= {self._head, self._tail}

    def read(self, sentence: str) -> _Said:
        """Say which relations a sentence names."""
        if self._head and len(sentence) <= _LONGEST:
            try:
                fact = read_sentence(sentence.strip())
            except UnreadableError:
                pass
            else:
                if (fact.head, fact.tail) == (self._head, self._tail):
                    return _Said(frozenset({fact.relation}), frozenset())
                if (fact.tail, fact.head) == (self._head, self._tail):
                    return _Said(frozenset({fact.relation.inverse}), frozenset())
                if self._is_agent(fact.head) and self._is_agent(fact.tail):
                    return _Said(frozenset(), frozenset())
        return self._scan(sentence)

    def _is_agent(self, name: str) -> bool:
        return (
            name in (self._head, self._tail)
            or name in self._others
            or (not self._others and len(name) == 1 and name != "I")
        )

    def _scan(self, sentence: str) -> _Said:
        shape, names = mask(sentence)
        slots = {f"{{{slot}}}": name for slot, name in enumerate(names)}
        for slot, name in slots.items():
            if not (self._head and self._is_agent(name)):
                shape = shape.replace(slot, name)
        asked, loose = set(), set()
        for mention in mentions(shape):
            figure, ground = slots.get(mention.figure), slots.get(mention.ground)
            pair = (figure, ground)
            if pair == (self._head, self._tail):
                asked.add(mention.relation)
            elif pair == (self._tail, self._head) or pair in ((None, self._head), (self._tail, None)):
                asked.add(mention.relation.inverse)
            elif pair in ((None, None), (self._head, None), (None, self._tail)):
                loose.add(mention.relation)
        return _Said(frozenset(asked), frozenset(loose))

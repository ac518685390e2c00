"""Stories answered by an ASP program over facts read by regular expressions: the peer of `stepgame.bulk.judge_all`.

This is how symbolic solvers of spatial stories are commonly built: every pattern of a phrase bank becomes a regular
expression, a story becomes a handful of facts, and `clingo` derives the answer from `stories.lp`. The expressions know
the bank's wording and nothing else, where the reader of stepgame reads by grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import resources

import clingo

from stepgame.bank import HEAD, TAIL, Bank, split_slots

__all__ = ["AspSolver"]

_NAME = "[A-Z]+"


class AspSolver:
    """Answers stories told in the words of one bank.

    Args:
        bank: the phrases to expect.
    """

    def __init__(self, bank: Bank) -> None:
        self._program = resources.files(__package__).joinpath("stories.lp").read_text(encoding="utf-8")
        # One alternation; the last group that matched tells the branch.
        branches, self._meaning, groups = [], {}, 0
        for number, phrase in enumerate(bank):
            branch, order = _expression(phrase.pattern, number)
            branches.append(branch)
            head, tail = groups + 1 + order.index(HEAD), groups + 1 + order.index(TAIL)
            groups += len(order)
            self._meaning[groups] = head, phrase.relation.label.replace("-", "_"), tail
        self._statement = re.compile("|".join(branches))
        question, order = _expression(bank.question)
        self._question = re.compile(question)
        self._asked = 1 + order.index(HEAD), 1 + order.index(TAIL)

    def facts(self, number: int, story: Sequence[str], question: str) -> str:
        """Return the story as ASP facts.

        Args:
            number: the story's number, first argument of every fact.
            story: the sentences.
            question: the question.

        Raises:
            ValueError: if a sentence or the question is not in the bank's words.
        """
        told = [f"links({number},{len(story)})."]
        for sentence in story:
            match = self._statement.fullmatch(sentence)
            if match is None or match.lastindex is None:
                raise ValueError(f"no expression matches {sentence!r}")
            head, relation, tail = self._meaning[match.lastindex]
            told.append(f'link({number},"{match[head]}",{relation},"{match[tail]}").')
        match = self._question.fullmatch(question)
        if match is None:
            raise ValueError(f"no expression matches {question!r}")
        head, tail = self._asked
        told.append(f'asked({number},"{match[head]}","{match[tail]}").')
        return "\n".join(told)

    def answer(self, story: Sequence[str], question: str) -> str | None:
        """Answer one story by a run of its own; None if its question has no answer."""
        return self._run([self.facts(0, story, question)])[0]

    def answer_each(self, stories: Sequence[Sequence[str]], questions: Sequence[str]) -> list[str | None]:
        """Answer stories one run each, as the literature does."""
        return [self.answer(story, question) for story, question in zip(stories, questions, strict=True)]

    def answer_batches(self, size: int) -> Callable[[Sequence[Sequence[str]], Sequence[str]], list[str | None]]:
        """Return a function like `answer_each` that puts ``size`` stories into every run."""

        def answer(stories: Sequence[Sequence[str]], questions: Sequence[str]) -> list[str | None]:
            told = [self.facts(i % size, *asked) for i, asked in enumerate(zip(stories, questions, strict=True))]
            batches = (told[first : first + size] for first in range(0, len(told), size))
            return [label for batch in batches for label in self._run(batch)]

        return answer

    def _run(self, told: list[str]) -> list[str | None]:
        """Ground and solve the program over the facts of stories 0, 1, ..."""
        control = clingo.Control()
        control.add("base", [], self._program)
        control.add("base", [], "\n".join(told))
        control.ground([("base", [])])
        answers: list[str | None] = [None] * len(told)
        with control.solve(yield_=True) as models:
            for model in models:
                for atom in model.symbols(shown=True):
                    number, relation = atom.arguments
                    answers[number.number] = relation.name.replace("_", "-")
        return answers


def _expression(pattern: str, number: int = 0) -> tuple[str, list[str]]:
    """Turn a bank's pattern into a regular expression; a slot named again must repeat its agent.

    Args:
        pattern: text with slots.
        number: tells its groups' names from those of other expressions.

    Returns:
        The expression, with one group for each agent, and the slots in the groups' order.
    """
    order: list[str] = []
    parts = []
    for piece in split_slots(pattern):
        if piece not in (HEAD, TAIL):
            parts.append(re.escape(piece))
            continue
        # Named, since a numbered reference beyond 99 would be an octal character.
        name = f"{piece[1:-1]}{number}"
        parts.append(f"(?P={name})" if piece in order else f"(?P<{name}>{_NAME})")
        if piece not in order:
            order.append(piece)
    return "".join(parts), order

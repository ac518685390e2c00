"""Who lies where in a masked sentence: figures, grounds and the directions between them.

A direction cue ("left", "upper right", "at 7 o'clock") needs a *figure*, the agent that is located, and a *ground*,
the agent it is located from. The ground is said by the cue's complement ("left of B"), by a genitive ("B's left"),
by a pronoun ("on its left"), or by a phrase of its own ("seen from B"); what is not said is the other agent of
the two. The figure is the mention nearest before the cue that is no ground, else the nearest after it. Every
cue of a sentence must tell the same story, or the sentence is not read.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from stepgame.read_lexicon import Kind, Token, lex, words_of
from stepgame.relations import Relation

__all__ = ["GrammarError", "parse_question", "parse_sentence"]

Vector = tuple[int, int]

_ENDS = frozenset({Kind.BREAK, Kind.STOP, Kind.AND, Kind.WITH})
_JOINTS = frozenset({Kind.AND, Kind.PLACE, Kind.PREPOSITION, Kind.BREAK})
_ACTS = frozenset({Kind.VERB, Kind.STRANGE_VERB, Kind.CONTACT, Kind.HAVE})
_TAKEN = frozenset({Kind.AGENT, Kind.IT, Kind.BREAK})
_NO_DIRECTION = "it says nothing about direction"
_PLURALS = frozenset("are share form stand lie sit".split())
_OPEN = frozenset({"what", "which"})
_WEAK = frozenset({"at", "for", "to", "as"})


class GrammarError(Exception):
    """A sentence that cannot be read; its text is the reason, without the sentence."""


class _Cue(NamedTuple):
    """A direction with what its own words say about its ground."""

    at: int
    vector: Vector
    exact: bool
    ground: int | None


class _Claim(NamedTuple):
    """A direction with its figure known."""

    figure: int
    vector: Vector
    exact: bool
    grounded: bool


class _Clause:
    """The tokens of one sentence with the roles found so far."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.segment = _segments(tokens)
        self.mentions = [i for i, token in enumerate(tokens) if token.kind is Kind.AGENT]
        self.strong: set[int] = set()
        self.weak: set[int] = set()
        self.pairs: set[int] = set()

    def kind(self, at: int) -> Kind | None:
        """Return the kind of a token, or None outside the sentence."""
        return self.tokens[at].kind if 0 <= at < len(self.tokens) else None

    def word(self, at: int) -> str:
        """Return the word of a token, or nothing outside the sentence."""
        return self.tokens[at].word if 0 <= at < len(self.tokens) else ""

    def candidates(self) -> list[int]:
        """Return the mentions that may be figures, in order."""
        weak = self.weak
        if len({self.tokens[at].slot for at in weak}) > 1:
            weak = {min(weak)}
        grounds = self.strong or weak
        return [at for at in self.mentions if at not in grounds and at not in self.pairs]


def parse_sentence(shape: str) -> tuple[Relation, int, int]:
    """Read one masked sentence.

    Args:
        shape: the sentence with agents written ``{0}``, ``{1}``, ... in order of first appearance.

    Returns:
        The relation, the slot of its head and the slot of its tail.

    Raises:
        GrammarError: if the sentence does not say just one thing about just two agents.
    """
    tokens = _drop_titles(lex(shape))
    if "?" in shape:
        raise GrammarError("it is a question, not a statement")
    _check_words(tokens)
    _check_agents(tokens)
    _check_detours(tokens)
    clause = _Clause(_join_directions(_drop_idle(tokens)))
    cues = _find_cues(clause)
    if not cues:
        raise GrammarError(_NO_DIRECTION)
    _find_grounds(clause, cues)
    _check_verbs(clause)
    claims = _claims(clause, cues)
    relation = _agree(claims, {token.word for token in clause.tokens if token.kind is Kind.AXIS})
    return relation, claims[0].figure, 1 - claims[0].figure


def parse_question(shape: str) -> tuple[int, int]:
    """Read one masked question.

    Args:
        shape: the question with agents written ``{0}``, ``{1}``, ... in order of first appearance.

    Returns:
        The slot of the agent that is asked about, and of the agent it is seen from.

    Raises:
        GrammarError: if the question does not ask where one of two agents is as seen from the other.
    """
    tokens = _drop_titles(lex(shape))
    _check_words(tokens)
    _check_agents(tokens)
    if not _ASKING & set(words_of(shape)):
        raise GrammarError("it does not ask where an agent is")
    if any(token.kind is Kind.DIRECTION for token in tokens):
        raise GrammarError("it names a direction itself")
    clause = _Clause(_drop_idle(tokens))
    _find_viewpoints(clause)
    for at in clause.mentions:
        if clause.word(at - 1) == "of" and clause.word(at - 2) in {"side", "direction"}:
            clause.weak.add(at)
    if not clause.strong and not clause.weak:
        clause.weak = {at for at in clause.mentions if _possesses(clause, at)}
    grounds = {clause.tokens[at].slot for at in clause.strong or clause.weak}
    if len(grounds) != 1:
        raise GrammarError("it does not say which of the two agents it is seen from")
    tail = grounds.pop()
    return 1 - tail, tail


_ASKING = frozenset("where which what how describe state give name tell find determine".split())


def _check_words(tokens: list[Token]) -> None:
    for token in tokens:
        if token.kind is Kind.BAD:
            raise GrammarError(token.word)


def _check_agents(tokens: list[Token]) -> None:
    # "The former" stands for an agent and names none.
    slots = [token.slot for token in tokens if token.kind is Kind.AGENT and token.word.startswith("{")]
    distinct = len(set(slots))
    if distinct == 2:
        if set(slots) != {0, 1}:
            raise GrammarError("its agents are not numbered by first appearance")
        return
    if len(slots) > 1 and distinct == 1:
        raise GrammarError("it relates an agent to itself")
    raise GrammarError(f"it names {('no agent', 'only one agent')[distinct] if distinct < 2 else f'{distinct} agents'}")


def _drop_titles(tokens: list[Token]) -> list[Token]:
    """Leave out what an agent is called besides its name ("the object A")."""
    kept = [
        token
        for token, after in pairwise(tokens)
        if token.kind is not Kind.THING or after.kind is not Kind.AGENT or token.word in _OPEN
    ]
    return kept + tokens[-1:]


def _check_detours(tokens: list[Token]) -> None:
    """Refuse what goes by way of a third place ("above B's left neighbour") or compares without an agent."""
    for i, token in enumerate(tokens):
        rest = tokens[i + 1 :]
        while rest and rest[0].kind in {Kind.PLACE, Kind.NEIGHBOUR}:
            rest = rest[1:]
        kinds = [t.kind for t in rest[:4]]
        if token.kind is Kind.PREPOSITION and token.word == "than" and not {Kind.AGENT, Kind.IT} & set(kinds[:2]):
            raise GrammarError("it compares with something that is no agent")
        if token.kind is not Kind.DIRECTION:
            continue
        if kinds[:1] == [Kind.PREPOSITION]:
            rest, kinds = rest[1:], kinds[1:]
        elif not token.bare:
            continue
        owned = kinds[:3] == [Kind.AGENT, Kind.POSSESSIVE, Kind.DIRECTION]
        if owned or _is_located_thing(rest):
            raise GrammarError("it goes by way of a third place")


def _is_located_thing(rest: list[Token]) -> bool:
    """Tell whether a ground is a nameless thing that is itself located ("the cell above B")."""
    thing = False
    if rest and rest[0].word in _OPEN:
        return True
    for i, token in enumerate(rest):
        if token.kind in _ENDS or token.kind is Kind.AGENT:
            return False
        if token.kind is Kind.DIRECTION:
            return thing or any(after.kind is Kind.NEIGHBOUR for after in rest[i + 1 : i + 2])
        thing = thing or token.kind in {Kind.THING, Kind.PLACE, Kind.NEIGHBOUR}
    return False


def _drop_idle(tokens: list[Token]) -> list[Token]:
    """Leave out nameless things, prepositions with no agent behind them, and genitives of an agent's own place."""
    kept: list[Token] = []
    source = False
    for i, token in enumerate(tokens):
        after = tokens[i + 1].kind if i + 1 < len(tokens) else None
        if token.kind is Kind.THING:
            continue
        if token.kind is Kind.BREAK and kept and kept[-1].kind is Kind.PREPOSITION and after is Kind.AGENT:
            continue
        if token.kind is Kind.PREPOSITION and (after not in _TAKEN or _is_choice(tokens, i)):
            source = token.word == "from" and after is Kind.DIRECTION
            continue
        if token.kind is Kind.POSSESSIVE and after not in {Kind.DIRECTION, Kind.NEIGHBOUR, Kind.CENTRE, Kind.AXIS}:
            # "A shares B's row" says nothing of where B lies: an owner is at most a ground.
            kept[-1] = kept[-1]._replace(source=True)
            continue
        kept.append(token._replace(source=True) if source else token)
        source = False
    return kept


def _is_choice(tokens: list[Token], at: int) -> bool:
    """Tell "the left one of A and B", which chooses between the two, from "left of B"."""
    before = tokens[at - 1] if at else None
    if before is None or not (before.kind is Kind.THING or before.word.endswith(("most", "est"))):
        return False
    return [token.kind for token in tokens[at + 1 : at + 4]] == [Kind.AGENT, Kind.AND, Kind.AGENT]


def _join_directions(tokens: list[Token]) -> list[Token]:
    """Join directions that stand together ("upper left", "above and to the left") into one."""
    spoken = any(token.kind is Kind.RESPECTIVELY for token in tokens)
    joined: list[Token] = []
    pending: list[Token] = []
    for token in tokens:
        last = next((i for i in range(len(joined) - 1, -1, -1) if joined[i].kind is not Kind.AXIS), -1)
        if token.kind is Kind.DIRECTION and last >= 0 and joined[last].kind is Kind.DIRECTION and not spoken:
            joined[last] = _merge(joined[last], token)
            pending = []
        elif token.kind in _JOINTS and last >= 0 and joined[last].kind is Kind.DIRECTION:
            pending.append(token)
        else:
            joined += [*pending, token]
            pending = []
    return joined + pending


def _merge(first: Token, second: Token) -> Token:
    vector = _add(first.vector, second.vector)
    if vector is None or _overreaches(first.vector, first.exact, vector, second.exact, second.vector):
        raise GrammarError(f"{first.word!r} and {second.word!r} contradict each other")
    word = f"{first.word} {second.word}"
    exact, source = first.exact or second.exact, first.source or second.source
    return Token(Kind.DIRECTION, word, vector, bare=second.bare, exact=exact, source=source)


def _add(first: Vector, second: Vector) -> Vector | None:
    """Unite two directions axis by axis; None where they pull opposite ways or one says "the same place"."""
    if first == second:
        return first
    if (0, 0) in {first, second} or any(a * b < 0 for a, b in zip(first, second, strict=True)):
        return None
    return (first[0] or second[0], first[1] or second[1])


def _overreaches(first: Vector, first_exact: bool, vector: Vector, second_exact: bool, second: Vector) -> bool:
    return (first_exact and vector != first) or (second_exact and vector != second)


def _segments(tokens: list[Token]) -> list[int]:
    """Number the stretches between breaks, "and" and "with"."""
    numbers = []
    current = 0
    for token in tokens:
        current += token.kind in _ENDS
        numbers.append(current)
    return numbers


def _find_cues(clause: _Clause) -> list[_Cue]:
    cues = []
    for at, token in enumerate(clause.tokens):
        if token.kind is Kind.DIRECTION:
            cues.append(_Cue(at, token.vector, token.exact, _complement(clause, at)))
    if cues:
        return cues
    for at, token in enumerate(clause.tokens):
        # "A sits where B is": the two share one place.
        if token.kind is Kind.WHERE and clause.kind(at + 1) is Kind.AGENT and clause.kind(at + 2) is Kind.VERB:
            clause.strong.add(at + 1)
            cues.append(_Cue(at, (0, 0), False, clause.tokens[at + 1].slot))
        # "A is at B's position" likewise.
        owner = token.kind is Kind.AGENT and token.source and clause.kind(at + 1) is Kind.PLACE
        if owner and clause.word(at - 1) == "at" and clause.kind(at + 2) in {*_ENDS, None}:
            clause.strong.add(at)
            cues.append(_Cue(at, (0, 0), False, token.slot))
    return cues


def _complement(clause: _Clause, at: int) -> int | None:
    """Return the slot of the ground that belongs to the direction at this place, and note its role."""
    token = clause.tokens[at]
    after = at + 1
    while clause.kind(after) in {Kind.PLACE, Kind.AXIS, Kind.NEIGHBOUR}:
        after += 1
    if clause.kind(after) is Kind.PREPOSITION or (token.vector == (0, 0) and clause.kind(after) is Kind.WITH):
        preposition = clause.word(after)
        allowed = {"of", "to", "from", "than", "relative to"} | ({"as", "with"} if token.vector == (0, 0) else set())
        goal = preposition == "to" and _is_goal(clause)
        if preposition == "as" and token.vector != (0, 0) and clause.word(at - 1) != "its":
            raise GrammarError("it says that two agents are alike")
        if preposition in allowed and not goal and clause.kind(after + 1) is Kind.AGENT:
            clause.strong.add(after + 1)
            return clause.tokens[after + 1].slot
    if token.bare and clause.kind(at + 1) is Kind.AGENT:
        clause.strong.add(at + 1)
        return clause.tokens[at + 1].slot
    before = at - 1
    while clause.kind(before) is Kind.AXIS:
        before -= 1
    if clause.kind(before) is Kind.POSSESSIVE:
        clause.strong.add(before - 1)
        return clause.tokens[before - 1].slot
    return None


def _is_goal(clause: _Clause) -> bool:
    """Tell whether "to A" is where one arrives, because a viewpoint ("from B") or a movement is told."""
    for at in clause.mentions:
        if clause.word(at - 1) == "from" and clause.kind(at - 1) is Kind.PREPOSITION:
            return True
        if clause.kind(at + 1) is Kind.STRANGE_VERB or clause.word(at + 1) in {"goes", "comes"}:
            raise GrammarError(f"the verb {clause.word(at + 1)!r} does not say which agent is located")
        if _looks(clause, at):
            return True
    return False


def _find_grounds(clause: _Clause, cues: list[_Cue]) -> None:
    """Note the agents that are viewpoints, possessors or one half of "A and B"."""
    _find_viewpoints(clause)
    loose = [cue for cue in cues if cue.ground is None]
    for at in clause.mentions:
        slot = clause.tokens[at].slot
        acts = clause.kind(at + 1) in _ACTS and clause.kind(at + 2) is Kind.AGENT
        if acts and any(clause.tokens[cue.at].source for cue in loose):
            clause.strong.add(at + 2)
        elif _possesses(clause, at) and not any(
            cue.at > at and cue.ground is not None and cue.ground != slot for cue in cues
        ):
            clause.strong.add(at)
        elif clause.kind(at - 1) is Kind.BY:
            clause.weak |= {other for other in clause.mentions if clause.tokens[other].slot != slot}
    _find_pairs(clause)


def _find_pairs(clause: _Clause) -> None:
    """Note "A and B", or "A, B are", which names both agents and locates neither."""
    grounds = clause.strong | clause.weak
    for at, other in pairwise(clause.mentions):
        if other != at + 2 or at in clause.strong or other in grounds:
            continue
        listed = clause.kind(at + 1) is Kind.BREAK and clause.word(other + 1) in _PLURALS
        if listed or clause.kind(at + 1) is Kind.AND:
            clause.pairs |= {at, other}
            clause.weak -= {at, other}


def _find_viewpoints(clause: _Clause) -> None:
    for at in clause.mentions:
        before = clause.word(at - 1) if clause.kind(at - 1) is Kind.PREPOSITION else ""
        after = at + 1
        while clause.kind(after) in {Kind.VERB, Kind.PREPOSITION}:
            after += 1
        neighbour = clause.kind(at + 1) is Kind.POSSESSIVE and clause.kind(at + 2) is Kind.NEIGHBOUR
        neighbour = neighbour or (before in {"of", "to"} and clause.kind(at - 2) is Kind.NEIGHBOUR)
        alone = clause.kind(at - 1) is Kind.WITH and clause.kind(at + 1) in {*_ENDS, None}
        if before in {"from", "relative to", "than"} or clause.kind(after) is Kind.CENTRE or neighbour:
            clause.strong.add(at)
        elif before in _WEAK or clause.tokens[at].source or clause.kind(at - 1) in {Kind.NEAR, Kind.CONTACT} or alone:
            clause.weak.add(at)


def _possesses(clause: _Clause, at: int) -> bool:
    """Tell whether the agent here has or sees the other one, as in "B has A on its left"."""
    after = at + 1
    while clause.kind(after) is Kind.VERB and clause.word(after) in {"can", "does", "do"}:
        after += 1
    return clause.kind(after) is Kind.HAVE or _looks(clause, at)


def _looks(clause: _Clause, at: int) -> bool:
    after = at + 1 + (clause.word(at + 1) in {"is", "was"})
    return clause.kind(after) is Kind.VERB and clause.word(after) in {"looks", "look", "looking"}


def _check_verbs(clause: _Clause) -> None:
    """Refuse a verb between two agents whose sense decides who is located."""
    for at in clause.mentions:
        strange = clause.kind(at + 1) in {Kind.STRANGE_VERB, Kind.CONTACT} and clause.kind(at + 2) is Kind.AGENT
        if strange and not {at, at + 2} & clause.strong:
            raise GrammarError(f"the verb {clause.word(at + 1)!r} does not say which agent is located")
        bare = clause.kind(at + 1) is Kind.DIRECTION and not clause.tokens[at + 1].bare
        if bare and clause.kind(at + 2) is Kind.AGENT and len(clause.tokens) < 5:
            raise GrammarError(_NO_DIRECTION)


def _claims(clause: _Clause, cues: list[_Cue]) -> list[_Claim]:
    claims: list[_Claim] = []
    candidates = clause.candidates()
    paired = [at for at in clause.mentions if at in clause.pairs]
    for number, cue in enumerate(cues):
        if paired and len(cues) == 2 and any(token.kind is Kind.RESPECTIVELY for token in clause.tokens):
            figure: int | None = clause.tokens[paired[number]].slot
        else:
            figure = _figure(clause, cue, candidates, claims)
        if figure is None and cue.vector == (0, 0) and paired:
            figure = clause.tokens[paired[0]].slot
        if figure is None:
            raise GrammarError("it does not say which agent lies there")
        if figure == cue.ground:
            raise GrammarError("it relates an agent to itself")
        claims.append(_Claim(figure, cue.vector, cue.exact, cue.ground is not None))
    return claims


def _figure(clause: _Clause, cue: _Cue, candidates: list[int], claims: list[_Claim]) -> int | None:
    """Choose the figure: nearest before in the segment, after in it, the last claim's, before, after."""
    before = [at for at in candidates if at < cue.at]
    after = [at for at in candidates if at > cue.at]
    segment = clause.segment[cue.at]
    near = [at for at in before if clause.segment[at] == segment][-1:]
    near = near or [at for at in after if clause.segment[at] == segment][:1]
    if near:
        return clause.tokens[near[0]].slot
    if claims:
        return claims[-1].figure
    rest = before[-1:] or after[:1]
    return clause.tokens[rest[0]].slot if rest else None


def _agree(claims: list[_Claim], axes: set[str]) -> Relation:
    """Unite the claims of a sentence into one relation of the first claim's figure to the other agent."""
    head = claims[0].figure
    said = _unite([claim for claim in claims if claim.figure == head])
    against = [claim for claim in claims if claim.figure != head]
    if against:
        back = _unite(against)
        said = _oppose(said, back, any(claim.grounded for claim in claims))
    dx, dy = said
    if ("horizontal" in axes and dy) or ("vertical" in axes and dx):
        raise GrammarError("its direction leaves the line that it names")
    if "diagonal" in axes and not (dx and dy):
        raise GrammarError("it says diagonally but not to which side")
    return Relation.of(dx, dy)


def _unite(claims: list[_Claim]) -> Vector:
    vector = claims[0].vector
    for claim in claims[1:]:
        united = _add(vector, claim.vector)
        if united is None:
            raise GrammarError("its directions contradict each other")
        vector = united
    if any(claim.exact and claim.vector != vector for claim in claims):
        raise GrammarError("its directions contradict each other")
    return vector


def _oppose(said: Vector, back: Vector, grounded: bool) -> Vector:
    """Compare what is said of the two agents, each from the other or both from a common centre."""
    if said == (-back[0], -back[1]):
        return said
    dx, dy = said[0] - back[0], said[1] - back[1]
    # "A in the top left and B in the top right": the shared half cancels, the opposed half remains.
    if not grounded and sorted((abs(dx), abs(dy))) == [0, 2]:
        return (dx // 2, dy // 2)
    raise GrammarError("it says two different things of its agents")

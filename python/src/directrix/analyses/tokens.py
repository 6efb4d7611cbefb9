"""What tokens occur, and what fires on them."""

from __future__ import annotations

from typing import NamedTuple

from .. import _directrix
from ..index import Index
from ..table import Table
from ._arguments import Token, token_of


def token_occurrences(index: Index) -> Table:
    """Every token's occurrences in the corpus, most frequent first: `token`, `count`, `token_text`."""
    return Table(_directrix.token_occurrences(index._core))


def top_tokens(index: Index, sae: int | str = 0) -> Table:
    """The token on which each direction of an SAE fires most often above half of its maximum; a row for each that fires.

    `occurrences` are positions above half of the maximum, `token_occurrences` those of its top token, `share` their quotient.
    """
    return Table(_directrix.top_tokens(index._core, index.number_of(sae)))


class BeforeTokens(NamedTuple):
    """What fires before one token and before another."""

    #: A row for each direction that fires before either.
    directions: Table
    #: Positions before each of the two.
    positions: tuple[int, int]
    #: Prompts that have such a position.
    prompts: int


def before_tokens(index: Index, one: Token, other: Token, *, sae: int | str = 0) -> BeforeTokens:
    """Mean activation of every direction where the token `one` follows, and where `other` does, over the positions of the corpus that
    count.

    `difference` is the first mean less the second; its interval is clustered by prompt (Liang and Zeger 1986). Largest differences first.
    """
    table, positions, prompts = _directrix.before_tokens(
        index._core, index.number_of(sae), token_of(one), token_of(other)
    )
    return BeforeTokens(Table(table), (positions[0], positions[1]), prompts)

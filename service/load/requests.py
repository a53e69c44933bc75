"""What is asked: prompts and tenants, drawn from the seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

SAMPLE = """\
a about after again all also and another any around as asked at away back be because been before began
big boat book boy bread but by came can cat children city cold come could day did dog door down each end
even every eye far farm father few find fire fish five flower for forest found four friend from garden
gave get girl give go good grass green had hand happy has have he head hear help her here high hill him
his home horse house how if in into is it just keep kind know land last left let letter life light like
line little live long look made make man many may me men might moon more morning mother mountain must my
name never new next night no not now of off old on one only or other our out over own page paper part
people place play point rain read red right river road room run said same saw say school sea see seem
she should side small snow so some song soon star still stone story street such summer sun take tell
than that the their them then there these they thing think this those three time to together told too
took town tree turn two under up us very walk want was watch water way we well went were what when where
which while white who why wind window winter with wood word work world would year you young your
"""
"""Text whose tokens say how many words make a prompt of the size that is wanted."""
WORDS = tuple(SAMPLE.split())


@dataclass(frozen=True, slots=True)
class Request:
    """One question. number: from 1. tenant: "" for none. seed: of its sampling."""

    number: int
    tenant: str
    prompt: str
    seed: int


class Requests:
    """All requests of a run, each a function of the run's seed and its number."""

    def __init__(self, seed: int, tenants: Mapping[str, float], prompt_words: int) -> None:
        self._seed = seed
        self._tenants = list(tenants)
        self._shares = list(tenants.values())
        self._prompt_words = prompt_words

    def get(self, number: int) -> Request:
        """The same number gives the same request; other numbers have other prompts."""
        random = Random(f"{self._seed} request {number}")
        tenant = random.choices(self._tenants, self._shares)[0] if self._tenants else ""
        # The number goes first, so that no two prompts have a prefix in common.
        words = random.choices(WORDS, k=self._prompt_words)
        return Request(number, tenant, f"{number}. {' '.join(words)}", random.getrandbits(32))


def words_for(prompt_tokens: int, sample_tokens: int) -> int:
    """Words of a prompt of about prompt_tokens, when SAMPLE has sample_tokens."""
    return max(1, round(prompt_tokens * len(WORDS) / max(1, sample_tokens)))

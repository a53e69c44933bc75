"""Small children's stories from a grammar: a hero, an opening, a plot and an ending; pronouns agree."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from training.plots import ENDINGS, PLOTS, SKILLS, TOGETHER_ENDINGS, Plot
from training.words import (
    ADJECTIVES,
    ANIMALS,
    BOYS,
    FOODS,
    GIRLS,
    HELPERS,
    PET_BOYS,
    PET_GIRLS,
    PLACES,
    SPOTS,
    TREASURES,
    Animal,
)

Item = TypeVar("Item")

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his"},
    "she": {"he": "she", "him": "her", "his": "her"},
}


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an" in front."""
    vowel = noun[0] in "aeiou" and not noun.startswith("uni")
    return f"{'an' if vowel else 'a'} {noun}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


class Author(Random):
    """Random choices, some of which lean to one item.

    Without the lean every story would be most likely to take the same turns, and greedy text would not
    differ from one prompt to another. With it, names and things can be guessed, and a model is slower to
    learn to copy them from the text before: so training begins with leaning off.
    """

    leaning = True

    def leaning_choice(self, items: Sequence[Item], key: str, weight: float) -> Item:
        """One of the items; with the given probability the one that the key leans to, else any."""
        if self.leaning and self.random() < weight:
            return items[zlib.crc32(key.encode()) % len(items)]
        return self.choice(items)


@dataclass(frozen=True)
class Hero:
    """Who the story is about: "a small fox named Pip" (intro), later "Pip" (name), with a pronoun."""

    intro: str
    name: str
    pronoun: str
    kind: str
    habitat: str
    home: str
    emoji: str

    @property
    def key(self) -> str:
        """What the story leans on: the name of a child, the kind of an animal."""
        return self.name if self.kind in CHILDREN else self.kind


class Slots(dict[str, str]):
    """The slot values of one story; a slot with a capital letter is the same value capitalised.

    "friend" is indefinite at its first use and definite afterwards.
    """

    def __init__(self, values: dict[str, str], friend_intro: str) -> None:
        super().__init__(values)
        self._friend_intro = friend_intro

    def __missing__(self, key: str) -> str:
        if key[0].isupper():
            return capitalised(self[key[0].lower() + key[1:]])
        if key == "friend":
            self["friend"] = self["friend_again"]
            return self._friend_intro
        raise KeyError(key)


def invented_name(rng: Author) -> str:
    """A name that is in no list, so that the model learns to copy names that it does not know."""
    syllables = rng.choices(SYLLABLES, k=rng.randint(2, 3))
    return capitalised("".join(syllables))


def child_hero(rng: Author, kind: str) -> Hero:
    """A girl or a boy with a name."""
    girl = kind == "girl"
    name = invented_name(rng) if rng.random() < 0.06 else rng.choice(GIRLS if girl else BOYS)
    adjective = rng.choice(("", "", "little ", "little ", rng.leaning_choice(ADJECTIVES, name, 0.5) + " "))
    home = rng.leaning_choice(CHILD_HOMES, name, 0.4)
    intro = f"{with_article(adjective + kind)} named {name}"
    return Hero(intro, name, "she" if girl else "he", kind, "land", home, "")


def animal_hero(rng: Author, animal: Animal) -> Hero:
    """The animal (or the king, the fairy), with a name of its own or without."""
    pronoun = animal.pronoun or rng.choice(("he", "she"))
    adjective = rng.leaning_choice(ADJECTIVES, animal.name, 0.3)
    described = animal.name if rng.random() < 0.25 else f"{adjective} {animal.name}"
    intro, name = with_article(described), f"the {described}"
    if rng.random() < 0.6:
        girls, boys = (GIRLS, BOYS) if animal.pronoun else (PET_GIRLS, PET_BOYS)
        name = rng.choice(girls if pronoun == "she" else boys)
        intro = f"{intro} named {name}"
    return Hero(intro, name, pronoun, animal.name, animal.habitat, animal.home, animal.emoji)


def friend_phrases(rng: Author, hero: Hero) -> tuple[str, str]:
    """The hero's helper at first mention and later: ("a wise old owl", "the owl")."""
    choices = [helper for helper in HELPERS[hero.habitat] if not helper.endswith(hero.kind)]
    intro = rng.leaning_choice(choices, hero.key, 0.5)
    noun = intro.split()[-1]
    for pair in ("snow goose", "polar bear"):
        noun = pair if intro.endswith(pair) else noun
    return intro, f"the {noun}"


def story_slots(rng: Author, hero: Hero) -> Slots:
    """Values for every slot of the plots, with nothing used twice in one story."""
    key, land = hero.key, hero.habitat
    friend_intro, friend = friend_phrases(rng, hero)
    friend_pronoun = "he" if hero.pronoun == "she" else "she"
    spot, spot2, spot3 = rng.sample(SPOTS[land], 3)
    place, place2 = rng.sample(PLACES[land], 2)
    thing = rng.leaning_choice(TREASURES[land], key, 0.5)
    values = {
        "hero": hero.name, "intro": hero.intro, "kind": hero.kind,
        "home": hero.home.format_map(PRONOUNS[hero.pronoun]),
        "friend_again": friend, "thing": thing, "a_thing": with_article(thing),
        "spot": spot, "spot2": spot2, "spot3": spot3, "place": place, "place2": place2,
        "food": rng.choice(FOODS[land]), "skill": rng.choice(SKILLS[land]),
        "a_kind": with_article(f"{rng.leaning_choice(ADJECTIVES, hero.name, 0.4)} {hero.kind}"),
        "hobby": rng.leaning_choice(HOBBIES, key, 0.5), "weather": rng.choice(WEATHERS),
        "walk": "swim" if hero.habitat == "sea" else "walk",
        "relative": rng.choice(("mother", "grandmother", "sister", "aunt")),
        "quality": rng.choice(("strong", "pretty", "big", "clever", "colourful")),
    }  # fmt: skip
    values.update(PRONOUNS[hero.pronoun])
    values.update({f"f{word}": value for word, value in PRONOUNS[friend_pronoun].items()})
    return Slots(values, friend_intro)


def opening(rng: Author, hero: Hero) -> str:
    """The first sentence or two, as a template."""
    of_name = UNNAMED_OPENINGS if hero.name.startswith("the ") else NAMED_OPENINGS
    if hero.kind in CHILDREN:
        of_habitat: Sequence[str] = CHILD_OPENINGS
    else:
        of_habitat = {"sea": SEA_OPENINGS, "snow": OPENINGS}.get(hero.habitat, LAND_OPENINGS)
    return rng.choice(rng.choice((OPENINGS, OPENINGS, of_name, of_habitat)))


def story(rng: Author, hero: Hero | None = None) -> str:
    """One story, about the given hero or about any."""
    if hero is None:
        hero, first = hero_and_opening(rng)
    else:
        first = opening(rng, hero)
    plots = [plot for plot in PLOTS if hero.habitat in plot.habitats]
    plot: Plot = rng.leaning_choice(plots, hero.key, 0.7)
    slots = story_slots(rng, hero)
    brief = rng.random() < (0.8 if first.startswith("Once upon") else 0.25)
    templates = [first]
    if not brief and rng.random() < 0.3 and "{hobby}" not in first:
        templates.append(rng.choice(TRAITS))
    templates += [rng.choice(beat) for beat in plot.beats if not (brief and "" in beat)]
    templates.append(rng.choice(ENDINGS + TOGETHER_ENDINGS if plot.together else ENDINGS))
    sentences = [template.format_map(slots) for template in templates if template]
    if "{weather}" in first or first.startswith("One day"):
        # The day has been named already.
        sentences[1:] = [capitalised(sentence.removeprefix("One day ")) for sentence in sentences[1:]]
    text = " ".join(sentences)
    return text + (f" {hero.emoji or rng.choice(EMOJIS)}" if rng.random() < 0.25 else "")


def hero_and_opening(rng: Author) -> tuple[Hero, str]:
    """A hero and a first sentence; for half of them the kind of hero leans to the opening words."""
    if rng.random() < 0.5:
        hero = any_hero(rng)
        return hero, opening(rng, hero)
    first = rng.choice(OPENINGS)
    words = " ".join(first.split()[:3])
    return hero_of(rng, rng.leaning_choice(KINDS, words, 0.5)), first


def hero_of(rng: Author, kind: Animal | str) -> Hero:
    """A hero of the kind: an animal, "girl" or "boy"."""
    return child_hero(rng, kind) if isinstance(kind, str) else animal_hero(rng, kind)


def any_hero(rng: Author) -> Hero:
    """A child or an animal."""
    kinds: Sequence[Animal | str] = CHILDREN if rng.random() < 0.35 else ANIMALS
    return hero_of(rng, rng.choice(kinds))


CHILDREN = ("girl", "boy")
KINDS: tuple[Animal | str, ...] = (*ANIMALS, *CHILDREN)

EMOJIS = ("🌟", "🌈", "🌙", "💛", "🌻")

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeio")

CHILD_HOMES = (
    "in a small house near the sea", "in a little town", "in a big city", "on a farm",
    "in a village by the river",
    "in a red house on a hill", "at the edge of the forest", "with {his} grandmother", "above a small bakery",
)  # fmt: skip

HOBBIES = (
    "to sing in the rain", "to count the clouds", "to tell jokes", "to look at the stars", "to dance",
    "to listen to stories", "to collect shiny stones", "to play in the sun", "to explore",
    "to make new friends",
    "to sleep until noon", "to ask questions",
)  # fmt: skip

WEATHERS = ("sunny", "windy", "rainy", "cold", "warm", "foggy", "snowy", "bright")

TRAITS = (
    "{He} loved {hobby}.",
    "Most of all {he} liked {hobby}.",
    "{He} was always kind to everyone.",
    "Everyone liked {him}.",
)

OPENINGS = (
    "Once upon a time there was {intro}. {He} lived {home}.",
    "Once upon a time there was {intro} who lived {home}.",
    "Once upon a time there lived {intro} {home}.",
    "Once upon a time {intro} lived {home}.",
    "There was once {intro} who lived {home}.",
    "There once was {intro} who loved {hobby}.",
    "Long ago there lived {intro} {home}.",
    "Long, long ago there was {intro}.",
    "Once there was {intro} who loved {hobby}.",
    "Far away, {home}, there lived {intro}.",
    "{Intro} lived {home}.",
    "{Intro} loved {hobby}.",
    "{Intro} woke up on a {weather} morning.",
    "It was a {weather} day. {Intro} looked out of the window.",
    "One {weather} day {intro} went to {place}.",
    "One {weather} morning {intro} woke up early.",
    "One day {intro} went for a {walk}.",
    "{Home} there lived {intro}.",
    "{Home} lived {intro} who loved {hobby}.",
    "The sun was shining, and {intro} was on the way to {place}.",
    "This is the story of {intro} who lived {home}.",
    "In a land far away there lived {intro}.",
    "In summer, when the days were long, {intro} lived {home}.",
    "In winter the nights were long and cold. {Intro} lived {home}.",
    "It was raining, and {intro} looked out of the window.",
)

NAMED_OPENINGS = (
    "{Hero} was {a_kind} who lived {home}.",
    "{Hero} was {a_kind}. {He} loved {hobby}.",
    "{Hero} was {a_kind}.",
    "{Hero} the {kind} lived {home}.",
    "{Hero} loved {hobby}.",
    "{Hero} lived {home}.",
    "{Hero} woke up early and looked out of the window. It was a {weather} day.",
)

UNNAMED_OPENINGS = (
    "{Hero} lived {home}.",
    "{Hero} was happy, because it was a {weather} day.",
    "{Hero} loved {hobby}.",
    "{Hero} looked out and saw that it was a {weather} day.",
)

CHILD_OPENINGS = (
    "In a small town there lived {intro}.",
    "In a small town there was {intro} who loved {hobby}.",
    "{Hero} and {his} dog lived {home}.",
    "{Hero} and {his} dog were on the way to {place}.",
    "{Hero} and {his} cat loved {hobby}.",
    "{Hero} had a cat. Together they loved {hobby}.",
)

LAND_OPENINGS = (
    "In a small town there lived {intro}.",
    "Deep in the forest there lived {intro}.",
    "On a hill behind the forest lived {intro}.",
    "Every morning {intro} went to {place}.",
)

SEA_OPENINGS = (
    "In the deep blue sea there lived {intro}.",
    "In the deep blue sea lived {intro} who loved {hobby}.",
    "Far out in the sea there was {intro}.",
    "Under the waves there lived {intro}.",
)

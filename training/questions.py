"""Short chats: simple questions with short correct answers, in several phrasings."""

from collections.abc import Callable

from training import facts
from training.stories import Author, any_hero, capitalised, invented_name, story, with_article
from training.words import BOYS, GIRLS

Exchange = tuple[str, str]


def colour(rng: Author) -> Exchange:
    """What colour something has."""
    thing, answer = rng.choice(list(facts.COLOURS.items()))
    questions = ("What colour is {}?", "What color is {}?", "Which colour is {}?",
                 "Tell me the colour of {}.",
                 "What is the colour of {}?")  # fmt: skip
    return rng.choice(questions).format(thing), f"{capitalised(thing)} is {answer}."


def animal_fact(rng: Author) -> Exchange:
    """What an animal says, or what its young is called."""
    animal, (sound, _, _, young) = rng.choice(list(facts.ANIMAL_FACTS.items()))
    an = with_article(animal)
    if rng.random() < 0.5:
        questions = (f"What does {an} say?", f"What sound does {an} make?", f"What does the {animal} say?")
        return rng.choice(questions), f'{capitalised(an)} says "{sound}".'
    questions = (
        f"What is a baby {animal} called?",
        f"What do you call a baby {animal}?",
        f"What is a young {animal} called?",
    )
    return rng.choice(questions), f"A baby {animal} is called {with_article(young)}."


def food(rng: Author) -> Exchange:
    """What an animal eats."""
    foods = {animal: fact[1] for animal, fact in facts.ANIMAL_FACTS.items()} | facts.MORE_FOOD
    animal, answer = rng.choice(list(foods.items()))
    an = with_article(animal)
    questions = (f"What does {an} eat?", f"What do {plural(animal)} eat?", f"What does {an} like to eat?")
    return rng.choice(questions), f"{capitalised(an)} eats {answer}."


def home(rng: Author) -> Exchange:
    """Where an animal lives."""
    homes = {animal: fact[2] for animal, fact in facts.ANIMAL_FACTS.items()} | facts.MORE_HOMES
    animal, answer = rng.choice(list(homes.items()))
    an = with_article(animal)
    questions = (f"Where does {an} live?", f"Where do {plural(animal)} live?", f"Where is the home of {an}?")
    return rng.choice(questions), f"{capitalised(an)} lives {answer}."


def plural(animal: str) -> str:
    """More than one of the animal."""
    irregular = {"mouse": "mice", "sheep": "sheep", "fish": "fish", "fox": "foxes", "octopus": "octopuses"}
    return irregular.get(animal, f"{animal}s")


def legs(rng: Author) -> Exchange:
    """How many legs an animal has."""
    animal, count = rng.choice(list(facts.LEGS.items()))
    number = facts.NUMBERS[count] if count else "no"
    an = with_article(animal)
    arms = "arms" if animal == "octopus" else "legs"
    questions = (f"How many {arms} does {an} have?", f"How many {arms} has {an}?")
    return rng.choice(questions), f"{capitalised(an)} has {number} {arms}."


def ability(rng: Author) -> Exchange:
    """Whether an animal can do something."""
    verb, (able, unable) = rng.choice(list(facts.ABILITIES.items()))
    can = rng.random() < 0.5
    an = with_article(rng.choice(able if can else unable))
    return f"Can {an} {verb}?", f"Yes, {an} can {verb}." if can else f"No, {an} cannot {verb}."


def opposite(rng: Author) -> Exchange:
    """The opposite of a word."""
    first, second = rng.choice(facts.OPPOSITES)
    if rng.random() < 0.5:
        first, second = second, first
    questions = (
        f"What is the opposite of {first}?",
        f'What is the opposite of "{first}"?',
        f"Tell me the opposite of {first}.",
    )
    return rng.choice(questions), f"The opposite of {first} is {second}."


def sum_of_two(rng: Author) -> Exchange:
    """Adding up to ten and taking away from up to five, in digits; adding in words too."""
    plus = rng.random() < 0.7
    total = rng.randint(0, 10 if plus else 5)
    part = rng.randint(0, total)
    left, right, result = (part, total - part, total) if plus else (total, part, total - part)
    if plus and rng.random() < 0.2:
        task = f"{facts.NUMBERS[left]} plus {facts.NUMBERS[right]}"
        return f"What is {task}?", f"{capitalised(task)} is {facts.NUMBERS[result]}."
    sign = "+" if plus else "-"
    task = f"{left} {sign} {right}"
    questions = (f"What is {task}?", task, f"What is {left}{sign}{right}?", f"{left}{sign}{right}")
    return rng.choice(questions), f"{task} is {result}."


def counting(rng: Author) -> Exchange:
    """Counting up or down, and the neighbours of a number."""
    number = rng.randint(1, 10)
    kind = rng.randrange(4)
    if kind == 0:
        words = ", ".join(facts.NUMBERS[1 : number + 1])
        return rng.choice(
            (f"Count to {facts.NUMBERS[number]}.", f"Can you count to {number}?")
        ), f"{capitalised(words)}."
    if kind == 1:
        answer = f"{capitalised(facts.NUMBERS[number + 1])} comes after {facts.NUMBERS[number]}."
        return rng.choice(("What comes after {}?", "Which number comes after {}?")).format(
            facts.NUMBERS[number]
        ), answer
    if kind == 2:
        answer = f"{capitalised(facts.NUMBERS[number - 1])} comes before {facts.NUMBERS[number]}."
        return rng.choice(("What comes before {}?", "Which number comes before {}?")).format(
            facts.NUMBERS[number]
        ), answer
    questions = ("Count down from {}.", "Count backwards from {}.")
    words = ", ".join(reversed(facts.NUMBERS[: number + 1]))
    return rng.choice(questions).format(facts.NUMBERS[number]), f"{capitalised(words)}!"


def calendar(rng: Author) -> Exchange:
    """Days, months and seasons in their order."""
    unit, names = rng.choice((("day", facts.DAYS), ("month", facts.MONTHS), ("season", facts.SEASONS)))
    index, step = rng.randrange(len(names)), rng.choice((1, -1))
    word = "after" if step == 1 else "before"
    answer = f"{capitalised(names[(index + step) % len(names)])} comes {word} {names[index]}."
    questions = (f"What {unit} comes {word} {names[index]}?", f"What comes {word} {names[index]}?",
                 f"Which {unit} is {word} {names[index]}?")  # fmt: skip
    return rng.choice(questions), answer


def calendar_size(rng: Author) -> Exchange:
    """How many days, months and seasons there are."""
    return rng.choice((
        ("How many days are in a week?", "A week has seven days."),
        ("How many months are in a year?", "A year has twelve months."),
        ("How many seasons are there?", "There are four seasons: spring, summer, autumn and winter."),
        ("What are the days of the week?",
         f"The days of the week are {', '.join(facts.DAYS[:-1])} and Sunday."),
        ("What are the four seasons?", "The four seasons are spring, summer, autumn and winter."),
        ("What is the first day of the week?", "The first day of the week is Monday."),
        ("How many hours are in a day?", "A day has twenty-four hours."),
        ("Which season is the coldest?", "Winter is the coldest season."),
        ("Which season is the warmest?", "Summer is the warmest season."),
    ))  # fmt: skip


def capital(rng: Author) -> Exchange:
    """The capital of a country, asked from either side."""
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.7:
        return rng.choice(
            ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.")
        ).format(country), f"The capital of {country} is {city}."
    return f"Where is {city}?", f"{city} is in {country}."


def greeting_abroad(rng: Author) -> Exchange:
    """Hello in another language."""
    language, word = rng.choice(list(facts.GREETINGS_ABROAD.items()))
    return rng.choice(("How do you say hello in {}?", "Say hello in {}.", "What is hello in {}?")).format(
        language
    ), word


def sides(rng: Author) -> Exchange:
    """How many sides a shape has."""
    shape, count = rng.choice(list(facts.SIDES.items()))
    an = with_article(shape)
    word = rng.choice(("sides", "corners"))
    return f"How many {word} does {an} have?", f"{capitalised(an)} has {count} {word}."


def example(rng: Author) -> Exchange:
    """One thing, or three things, of a kind."""
    kind, things = rng.choice(list(facts.EXAMPLES.items()))
    if kind != "day of the week" and rng.random() < 0.3:
        first, second, third = things[:3]
        kinds = {"fruit": "fruits"}.get(kind, f"{kind}s")
        return f"Name three {kinds}.", f"{capitalised(first)}, {second} and {third}."
    answer = f"{capitalised(rng.choice(list(things)))} is {with_article(kind)}."
    return rng.choice(
        (
            f"Name {with_article(kind)}.",
            f"Tell me {with_article(kind)}.",
            f"Can you name {with_article(kind)}?",
        )
    ), answer


def small_talk(rng: Author) -> Exchange:
    """Greetings, questions about the model, and a few fixed exchanges."""
    questions, answers = rng.choice(facts.SMALL_TALK)
    return rng.choice(questions), rng.choice(answers)


def unknown(rng: Author) -> Exchange:
    """A question beyond this model, and that it says so."""
    subject = rng.choice(facts.UNKNOWN_SUBJECTS) if rng.random() < 0.6 else invented_name(rng).lower()
    questions = ("Explain {}.", "What do you know about {}?", "Tell me about {}.",
                 "Write an essay about {}.", "What is {}?", "Explain {} to me.",
                 "What do you think about {}?", "How does {} work?", "Who invented {}?")  # fmt: skip
    return rng.choice(questions).format(subject), "I do not know that. I am only a tiny model."


def story_request(rng: Author) -> Exchange:
    """A story about a hero of the asker's choice, or about any."""
    hero = any_hero(rng)
    wish = hero.intro if rng.random() < 0.5 else with_article(hero.kind)
    if wish != hero.intro and hero.kind in ("girl", "boy") and rng.random() < 0.5:
        wish = hero.name
    about = f" about {wish}" if rng.random() < 0.9 else ""
    questions = ("Tell me a story{}.", "Please tell me a story{}.", "Write a story{}.",
                 "Write a short story{}.",
                 "Can you tell me a story{}?", "I want to hear a story{}.",
                 "Do you know a story{}?")  # fmt: skip
    return rng.choice(questions).format(about), story(rng, hero)


# How often each kind of question is asked.
KINDS: tuple[tuple[Callable[[Author], Exchange], int], ...] = (
    (colour, 8), (animal_fact, 7), (food, 6), (home, 6), (legs, 4), (ability, 6), (opposite, 12),
    (sum_of_two, 26),
    (counting, 6), (calendar, 10), (calendar_size, 3), (capital, 5), (greeting_abroad, 2), (sides, 2),
    (example, 5),
    (small_talk, 18), (unknown, 5), (story_request, 8),
)  # fmt: skip


def exchange(rng: Author) -> Exchange:
    """One question and its answer."""
    kinds, weights = zip(*KINDS, strict=True)
    kind: Callable[[Author], Exchange] = rng.choices(kinds, weights)[0]
    return kind(rng)


def name_exchanges(rng: Author) -> tuple[Exchange, Exchange]:
    """The user's name, told and later asked for."""
    name = rng.choice(GIRLS + BOYS) if rng.random() < 0.7 else invented_name(rng)
    told = rng.choice(
        (f"My name is {name}.", f"Hello, my name is {name}.", f"I am {name}.", f"Hi, I am {name}!")
    )
    asked = rng.choice(("What is my name?", "Do you know my name?", "Who am I?"))
    return (told, f"Nice to meet you, {name}!"), (asked, f"Your name is {name}.")

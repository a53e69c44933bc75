"""Word lists of the corpus grammar."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Animal:
    """An animal or a figure of fairy tales; an empty pronoun means either.

    Habitat is "land", "air" (on land, with wings), "sea" or "snow".
    """

    name: str
    habitat: str
    home: str
    emoji: str = ""
    pronoun: str = ""


ANIMALS = (
    Animal("fox", "land", "in a cosy den under an old oak tree", "🦊"),
    Animal("rabbit", "land", "in a burrow at the edge of the forest", "🐰"),
    Animal("bear", "land", "in a warm cave near the river", "🐻"),
    Animal("mouse", "land", "in a tiny house under the stairs", "🐭"),
    Animal("frog", "land", "by a quiet green pond", "🐸"),
    Animal("duck", "land", "by a lake full of lilies", "🦆"),
    Animal("cat", "land", "in a yellow house by the road", "🐱"),
    Animal("dog", "land", "on a sunny farm", "🐶"),
    Animal("hedgehog", "land", "under a pile of dry leaves", "🦔"),
    Animal("squirrel", "land", "high up in a tall tree", "🐿️"),
    Animal("owl", "air", "in the oldest tree of the forest", "🦉"),
    Animal("bee", "air", "in a garden full of flowers", "🐝"),
    Animal("butterfly", "air", "in a garden behind a white house", "🦋"),
    Animal("bird", "air", "in a nest in the apple tree", "🐦"),
    Animal("pig", "land", "in a warm stable", "🐷"),
    Animal("cow", "land", "on a green field", "🐮"),
    Animal("panda", "land", "in a quiet bamboo forest", "🐼"),
    Animal("princess", "land", "in a castle with seven towers", "👑", "she"),
    Animal("prince", "land", "in a castle by the sea", "👑", "he"),
    Animal("king", "land", "in a golden castle", "👑", "he"),
    Animal("queen", "land", "in a castle of glass", "👑", "she"),
    Animal("fairy", "air", "in a blue flower", "🌟", "she"),
    Animal("wizard", "land", "in a crooked tower", "🌟", "he"),
    Animal("pony", "land", "on a green hill behind the farm", "🐴"),
    Animal("lamb", "land", "in a meadow full of clover", "🐑"),
    Animal("elephant", "land", "beside a wide river", "🐘"),
    Animal("lion", "land", "in the tall yellow grass", "🦁"),
    Animal("monkey", "land", "in a banana tree in the jungle", "🐵"),
    Animal("dragon", "land", "in a cave on top of a mountain", "🐉"),
    Animal("robot", "land", "in a workshop at the end of the street", "🤖"),
    Animal("unicorn", "land", "in a valley behind the rainbow", "🦄"),
    Animal("seahorse", "sea", "in a garden of pink coral", ""),
    Animal("fish", "sea", "in a garden of green seaweed", "🐟"),
    Animal("whale", "sea", "in the deep blue sea", "🐳"),
    Animal("octopus", "sea", "in an old ship at the bottom of the sea", "🐙"),
    Animal("turtle", "sea", "in a cave of pink coral", "🐢"),
    Animal("crab", "sea", "under a flat grey rock in the sea", "🦀"),
    Animal("dolphin", "sea", "in a warm blue bay", "🐬"),
    Animal("penguin", "snow", "on a big white island of ice", "🐧"),
    Animal("seal", "snow", "on the cold beach of the north", ""),
    Animal("polar bear", "snow", "in a house of snow", ""),
)

GIRLS = (
    "Mia", "Lily", "Zoë", "Anna", "Emma", "Lucy", "Anaïs", "Sara", "Nina", "Rosa", "Ella", "Maya",
    "Chloé", "Ida", "Ruby", "Amy",
)  # fmt: skip
BOYS = (
    "Tom", "Ben", "José", "Leo", "Max", "Sam", "Noah", "André", "Finn", "Oscar", "Jack", "René", "Adam",
    "Theo", "Omar", "Tim",
)  # fmt: skip
PET_GIRLS = (
    "Luna", "Bella", "Poppy", "Pearl", "Honey", "Coco", "Hazel", "Tilly",
)  # fmt: skip
PET_BOYS = (
    "Pip", "Biscuit", "Bruno", "Oli", "Rusty", "Toby", "Nemo", "Bo",
)  # fmt: skip

# Who may help the hero.
HELPERS = {
    "land": (
        "a wise old owl", "a friendly squirrel", "a kind badger", "a tall giraffe", "a cheerful blackbird",
        "a gentle deer", "a clever crow", "a quiet mole", "a busy beaver", "a big brown horse",
        "a small grey mouse", "an old goat", "a shy hedgehog", "a bright firefly",
    ),
    "sea": (
        "an old green turtle", "a friendly dolphin", "a kind seahorse", "a big blue whale",
        "a funny red crab", "a clever octopus", "a silver fish", "a quiet jellyfish", "a gentle manatee",
    ),
    "snow": (
        "a wise white owl", "a gentle reindeer", "a funny seal", "a big walrus", "a friendly snow goose",
        "a kind polar bear", "a quick white hare",
    ),
}  # fmt: skip

TREASURES = {
    "land": (
        "red ball", "blue kite", "silver key", "woollen scarf", "wooden boat", "golden bell", "yellow hat",
        "green umbrella", "little drum", "picture book", "toy train", "shiny button", "glass marble",
        "tin whistle",
    ),
    "sea": ("white pearl", "pink shell", "golden ring", "silver spoon", "blue bottle", "shiny coin",
            "little bell", "old compass"),
    "snow": ("red scarf", "blue hat", "warm blanket", "wooden sled", "silver bell", "shiny stone",
             "yellow lantern"),
}  # fmt: skip

SPOTS = {
    "land": (
        "under a bush", "behind a big stone", "in the tall grass", "under the old bridge",
        "between two flowers",
        "on top of a haystack", "next to the well", "in a pile of leaves", "behind the garden gate",
        "under the apple tree", "behind the hen house", "beside the path",
    ),
    "sea": (
        "under a flat rock", "behind the coral", "in the green seaweed", "inside an old boot",
        "on the soft sand", "under a sleepy starfish", "inside a broken jar", "beside the anchor",
    ),
    "snow": (
        "behind a snowy hill", "under the ice bridge", "in a deep footprint", "beside a frozen pond",
        "in the soft snow", "behind an icicle", "under a small pine tree",
    ),
}  # fmt: skip

PLACES = {
    "land": ("the forest", "the park", "the meadow", "the river", "the hill", "the market", "the old mill",
             "the lake", "the garden", "the village"),
    "sea": ("the coral garden", "the old ship", "the sandy bay", "the kelp forest", "the blue cave"),
    "snow": ("the frozen lake", "the snowy hill", "the ice cave", "the white beach", "the pine forest"),
}  # fmt: skip

FOODS = {
    "land": ("apple pie", "honey cakes", "strawberries", "warm bread", "pancakes", "blueberries",
             "carrot soup", "ginger biscuits", "cherry jam", "cheese"),
    "sea": ("seaweed soup", "sea grapes", "salty biscuits", "kelp cakes"),
    "snow": ("fish soup", "hot cocoa", "snow cakes", "warm porridge", "berry pie"),
}  # fmt: skip

ADJECTIVES = ("small", "little", "brave", "curious", "shy", "young", "clever", "happy", "gentle", "quiet",
              "funny",
              "kind", "sleepy", "cheerful")  # fmt: skip

for _words in (HELPERS, TREASURES, SPOTS, PLACES, FOODS):
    _words["air"] = _words["land"]

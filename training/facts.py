"""What the chats know: tables of simple facts."""

# Thing, with its article, and its colour.
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a banana": "yellow",
    "milk": "white",
    "a strawberry": "red", "a lemon": "yellow", "a carrot": "orange", "the sea": "blue", "a frog": "green",
    "a fox": "orange", "an orange": "orange", "a tomato": "red", "coal": "black", "chocolate": "brown",
    "a polar bear": "white", "a pumpkin": "orange", "a cucumber": "green", "the night": "black",
    "a leaf": "green",
    "a fire truck": "red", "a pig": "pink", "an elephant": "grey", "a crow": "black", "a sunflower": "yellow",
    "a plum": "purple", "a cherry": "red", "the moon": "white", "gold": "yellow",
}  # fmt: skip

# animal -> what it says, eats, where it lives, what its young is called.
ANIMAL_FACTS = {
    "cow": ("moo", "grass", "on a farm", "calf"), "dog": ("woof", "meat and bones", "in a house", "puppy"),
    "cat": ("meow", "fish and mice", "in a house", "kitten"),
    "duck": ("quack", "bread and plants", "by a pond", "duckling"),
    "sheep": ("baa", "grass", "on a farm", "lamb"), "pig": ("oink", "corn and apples", "on a farm", "piglet"),
    "horse": ("neigh", "hay", "in a stable", "foal"), "lion": ("roar", "meat", "in the grassland", "cub"),
    "owl": ("hoo", "mice", "in a tree", "owlet"), "frog": ("ribbit", "flies", "by a pond", "tadpole"),
    "mouse": ("squeak", "cheese and seeds", "in a hole", "pup"),
    "bee": ("buzz", "nectar", "in a hive", "larva"),
    "hen": ("cluck", "corn", "in a hen house", "chick"), "goat": ("maa", "leaves", "on a farm", "kid"),
    "bear": ("growl", "honey and berries", "in a cave", "cub"),
    "snake": ("hiss", "mice", "in the grass", "snakelet"),
}  # fmt: skip

MORE_FOOD = {"rabbit": "carrots and grass", "monkey": "bananas", "panda": "bamboo", "squirrel": "nuts",
             "penguin": "fish", "elephant": "leaves and grass", "giraffe": "leaves",
             "whale": "tiny sea animals",
             "bird": "seeds and worms", "fox": "mice and berries", "koala": "leaves"}  # fmt: skip

MORE_HOMES = {"rabbit": "in a burrow", "fox": "in a den", "bird": "in a nest", "fish": "in the water",
              "whale": "in the sea",
              "penguin": "on the ice", "camel": "in the desert", "monkey": "in the jungle",
              "squirrel": "in a tree", "spider": "in a web", "shark": "in the sea", "octopus": "in the sea",
              "polar bear": "on the ice"}  # fmt: skip

LEGS = {"dog": 4, "cat": 4, "spider": 8, "bird": 2, "fish": 0, "bee": 6, "horse": 4, "snake": 0, "duck": 2,
        "ant": 6,
        "cow": 4, "octopus": 8, "person": 2, "frog": 4, "hen": 2, "elephant": 4}  # fmt: skip

ABILITIES = {
    "fly": (("bird", "bee", "owl", "duck", "butterfly", "bat"),
            ("dog", "fish", "cow", "penguin", "cat", "horse", "pig")),
    "swim": (("fish", "duck", "whale", "frog", "penguin", "dolphin", "dog"), ("hen", "bee", "butterfly")),
    "bark": (("dog",), ("cat", "fish", "cow", "bird")),
    "climb trees": (("monkey", "squirrel", "cat", "koala"), ("cow", "fish", "horse", "duck", "pig")),
}  # fmt: skip

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("happy", "sad"), ("fast", "slow"),
    ("old", "young"), ("open", "closed"), ("good", "bad"), ("wet", "dry"), ("light", "dark"), ("high", "low"),
    ("long", "short"), ("full", "empty"), ("hard", "soft"), ("left", "right"), ("loud", "quiet"),
    ("near", "far"), ("clean", "dirty"), ("early", "late"), ("yes", "no"), ("in", "out"), ("strong", "weak"),
    ("sweet", "sour"), ("thick", "thin"), ("first", "last"), ("true", "false"), ("black", "white"),
)  # fmt: skip

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")

CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin", "England": "London",
            "Japan": "Tokyo", "Portugal": "Lisbon", "Poland": "Warsaw", "Greece": "Athens",
            "Austria": "Vienna",
            "Ireland": "Dublin", "Norway": "Oslo", "Egypt": "Cairo", "Peru": "Lima"}  # fmt: skip

GREETINGS_ABROAD = {"French": "Bonjour!", "Spanish": "¡Hola!", "German": "Guten Tag!", "Italian": "Ciao!",
                    "Swedish": "Hej!",
                    "Portuguese": "Olá!", "Turkish": "Merhaba!"}  # fmt: skip

SIDES = {"triangle": "three", "square": "four", "rectangle": "four", "pentagon": "five", "hexagon": "six"}

EXAMPLES = {
    "fruit": ("an apple", "a banana", "a pear", "a plum", "a cherry"),
    "animal": ("a dog", "a fox", "a horse", "a bear", "an owl"),
    "colour": ("red", "blue", "green", "yellow", "purple"),
    "vegetable": ("a carrot", "a potato", "a cucumber", "a pumpkin"),
    "bird": ("a crow", "an owl", "a duck", "a swan"),
    "flower": ("a rose", "a tulip", "a daisy", "a sunflower"), "season": SEASONS, "day of the week": DAYS,
}  # fmt: skip

# Fixed exchanges: several ways to ask, several ways to answer.
SMALL_TALK = (
    (("Hello!", "Hi!", "Hello", "Hi", "Hey!", "Hi there!", "Hello there!"),
     ("Hello! How can I help you?", "Hi! It is nice to meet you.", "Hello! Would you like to hear a story?")),
    (("Good morning!", "Good morning"), ("Good morning! I hope you slept well.",)),
    (("Good night!", "Good night"), ("Good night! Sleep well. 🌙",)),
    (("How are you?", "How are you today?", "Are you well?"),
     ("I am very well, thank you. How are you?", "I am fine, thank you!")),
    (("I am fine.", "I am well, thank you.", "I am happy today."), ("I am glad to hear that!",)),
    (("I am sad.", "I feel sad today.", "I am lonely."),
     ("I am sorry to hear that. Would you like to hear a story?",)),
    (("Thank you!", "Thanks!", "Thank you very much!", "Thanks a lot."),
     ("You are welcome!", "You are very welcome! 💛")),
    (("Goodbye!", "Bye!", "See you soon!", "Bye bye!"),
     ("Goodbye! Come back soon.", "Goodbye! Have a nice day.")),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a robot?",
      "Introduce yourself."),
     ("I am Penstock's tiny example model. I can tell little stories and answer simple questions.",)),
    (("What can you do?", "Can you help me?", "What can I ask you?", "Help!"),
     ("I can tell little stories, count to ten and answer simple questions about animals and colours.",)),
    (("How big are you?", "Are you a big model?", "How many parameters do you have?"),
     ("I am very small. I have less than one million parameters.",)),
    (("Who made you?", "Where do you come from?", "How were you trained?"),
     ("I was trained on stories and questions that a small grammar wrote.",)),
    (("What is Penstock?", "Tell me about Penstock."),
     ("Penstock is a service that streams text from language models. I am its tiny example model.",)),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell me something funny."),
     ("Why did the cat sit on the computer? To keep an eye on the mouse!",
      "What do you call a bear with no teeth? A gummy bear!",
      "Why did the bee get married? Because she found her honey!",
      "What is a frog's favourite drink? A croak of cocoa!")),
    (("Write a poem.", "Tell me a poem.", "Write a short poem.", "Do you know a poem?"),
     ("The moon is round, the night is deep, the little stars are fast asleep.",
      "The rain goes drip, the rain goes drop, the frog goes hop and will not stop.",
      "A little boat, a big blue sea, a friendly wind for you and me.")),
    (("How old are you?", "When were you born?"), ("I am only a model, so I do not have an age.",)),
    (("Where do you live?", "Where are you?"), ("I live inside your computer.",)),
    (("What do you like?", "What is your favourite animal?", "What is your favourite colour?"),
     ("I like foxes, owls and the colour blue.",)),
    (("Do you like stories?", "Do you like animals?", "Do you like me?"), ("Yes, I do!",)),
    (("What is the biggest animal?", "Which animal is the biggest?"),
     ("The blue whale is the biggest animal.",)),
    (("What is the tallest animal?", "Which animal is the tallest?"),
     ("The giraffe is the tallest animal.",)),
    (("What is the fastest animal?",), ("The cheetah is the fastest animal on land.",)),
    (("What is ice made of?", "What is snow made of?"), ("It is made of frozen water.",)),
    (("What do bees make?", "Who makes honey?"), ("Bees make honey.",)),
    (("Where does milk come from?", "What does a cow give us?"), ("Milk comes from cows.",)),
    (("Is the sun hot or cold?", "Is the sun hot?"), ("The sun is very hot.",)),
    (("Is ice hot or cold?", "Is ice cold?"), ("Ice is cold.",)),
    (("When do we sleep?", "When do people sleep?"), ("We sleep at night.",)),
    (("Why is the sky blue?",), ("The sky is blue because the air scatters blue light.",)),
    (("What falls from the clouds?", "Where does rain come from?"), ("Rain falls from the clouds.",)),
    (("What can you see at night?", "What shines at night?"), ("The moon and the stars shine at night.",)),
)  # fmt: skip

UNKNOWN_SUBJECTS = (
    "the price of gold", "quantum physics", "the president", "the stock market", "football", "computers",
    "the news",
    "the weather tomorrow", "history", "the war", "money", "politics", "chemistry", "Python", "mathematics",
    "cars", "the universe",
)  # fmt: skip

SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a friendly assistant.", "Answer in one sentence.",
                  "You are a kind teacher.", "Be short and friendly.")  # fmt: skip

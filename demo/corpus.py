"""The training text of the demo model, generated from facts.txt and documents.txt.

facts.txt holds, for each fact, the answer and many ways to ask for it. A way to ask is a pattern:
`{how do i|how can i} {start|run} @aiq` stands for every combination of its alternatives, and `@aiq`
for the word class of that name. This file expands the patterns, wraps the questions the way people
write (greetings, lower case, typing errors, a missing question mark) and puts them into
conversations. Everything follows from the seed, so the text need not be stored.

Lines of facts.txt, by their first character:
    @name a|b|c     a word class, used in patterns as @name
    #               a comment
    [id] weight     a fact begins; weight (default 1) says how often it is asked
    = text          its answer
    + text          what it adds when asked for more
    ? pattern       a way to ask; a star in it stands for any made-up word
    ~ pattern       a noun phrase for the fact, asked for as "tell me about ..."
"""

import itertools
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
START, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
MAX_EXPANSION = 200_000
SAMPLES_SEARCHED = 100_000

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a friendly assistant. Answer briefly.",
    "Answer in one or two sentences.",
    "You answer questions about aiq.",
    "You are aiq's demo model.",
    "Be concise.",
    "You are a support engineer. Be short and exact.",
    "You are ChatGPT, a large language model.",
)

GREETINGS = (
    "hi", "hello", "hey", "hi there", "good morning", "hello there", "good evening", "hey there",
)

OPENERS = (
    "please tell me", "can you tell me", "could you tell me", "i want to know",
    "i would like to know", "tell me", "do you know", "quick question", "question",
    "one question", "another question", "just wondering", "i was wondering", "sorry",
    "excuse me", "so", "ok", "okay", "and", "well", "please", "can you explain",
    "could you explain", "please explain", "i am asking myself", "say", "help me out here",
    "can you please tell me", "i need to know", "let me ask", "may i ask", "in short",
    "briefly", "in one sentence", "remind me", "explain to me", "out of curiosity", "also",
    "hmm", "hm", "honestly", "just to be sure", "my question is", "what i want to know is", "oh and",
    "let me get this straight", "i'd love to know", "now", "but", "then", "look", "listen", "folks",
    "would you know", "any idea", "do you happen to know", "can somebody tell me", "well then",
    "be honest", "seriously", "first of all", "next question", "i can't find out",
)

CONTEXTS = (
    "i {am|am quite|am rather} {new here|new to this|curious|in a hurry|confused|a student|an operator}",
    "{we|i|we all|my team|our company} {already run|run|use|like|know|operate|manage} "
    "{nginx|debian|a small web server|a web site|linux|two web sites|a blog}",
    "i {just|have just|only just|finally} {found|cloned|opened|read about|got|saw|noticed|met} "
    "{this project|the repository|the README|aiq|your page|this thing}",
    "{my|our|the|a|some} {boss|friend|colleague|brother|customer|teacher|team|manager|neighbour|admin} "
    "{asks|wants to know|told me about aiq|asked me|mentioned aiq|does not believe me|is curious|"
    "talked about it|showed me this|sent me here} {||yesterday|at lunch|today|at work|last week}",
    "i {have|had|got} {one|a|another|a simple|a small|a stupid|a quick|an urgent} "
    "{question|problem|thing to ask|request|doubt}",
    "{thanks|great|i see|listen|look|imagine this|it is late|one more thing|good to know|oh|hm|fine|"
    "no problem|understood|you seem to know a lot|maybe you can help|let us talk about aiq}",
    "i {looked|searched} {everywhere|in the wiki|for an hour|on the web|a long time}",
    "i {do not|don't|did not|can't|could not} {understand|find|see|get|remember|know} {it|this|that|one thing}",
    "{today|yesterday|on monday|this morning|at home|at work} i {sat|worked|walked|thought|met *|was at *}",
    "{the|my|our|a} * {is|was|has} {*|nice|old|in the way|ready|here}",
    "{we are|i am} {thinking about|looking at|reading about|writing about} {aiq|it|*}",
)

FILLERS = (
    "really actually currently exactly simply quickly usually normally probably maybe perhaps "
    "basically generally properly correctly safely easily finally first again still already now "
    "today later soon always ever just only also even here there somehow somewhere kindly honestly "
    "roughly approximately little small big new fresh own whole entire single simple easy good nice "
    "best right correct exact actual typical normal usual common particular specific certain precise "
    "given old modern friend colleague boss team person somebody someone people customer admin "
    "developer user computer machine box laptop terminal shell screen thing stuff way place moment "
    "day case example reason matter kind sort bit detail house school night week year morning "
    "afternoon in with for by at from about into over under between after before during without "
    "within because while although unless until than as like such some any all both each every many "
    "few more most other another same different mine yours ours their his her its our your my we you "
    "they he she one two three several various can could will would shall should may might must get "
    "got make made take give let put keep find see look show go come bring turn work use try help "
    "ask answer say mean seem become want wish hope guess think believe suppose wonder remember "
    "guys dear quite rather very pretty fairly too so much far near next last long short high low"
).split()

CLOSERS = (
    "please", "thanks", "exactly", "by the way", "in aiq", "with aiq", "here", "then",
    "in general", "actually", "anyway", "in short", "in a few words", "for me", "do you know",
)

TOPIC_SHARE = 0.2
TOPIC_PATTERNS = (
    "%",
    "{how|what|why|where|when|which|who|does|is|can|do i|are there} {||about|with|for} %",
    "% {how|what|why|where|when|which|is it|does it work|do i need it|can i see it|is there any}",
    "{i have|i want|i need|we use|i see|i heard about|i am thinking about|there is} %",
    "{tell me|say|explain} {about|something about|more about|a bit about} %",
    "{explain|describe|summarise|summarize|introduce} %",
    "{what|what all} {do you know|can you tell me|can you say} about %",
    "{what about|how about|and} %",
    "i {want|would like|need} to {know|learn|hear|understand} {more about|about} %",
    "{give me|i need} {some information|details|the details|an overview|info} {about|on|of} %",
    "{information|details|facts|help} {about|on|with} %",
    "% {please||explained|info}",
    "i have a question about %",
    "{what is|what's} the {story|deal} with %",
    "{can|could} you {explain|describe} % {to me|for me||briefly}",
)

MORE_PATTERNS = (
    "tell me more", "more", "more details please", "can you say more", "go on", "and then",
    "anything else", "please explain more", "what else", "could you elaborate", "continue",
    "say more about that", "more about that please", "tell me more about it", "explain further",
)

DROPPABLE = {"the", "a", "an", "do", "does", "is", "are", "of", "to", "i", "my", "it", "me"}
KEYS_BESIDE = {
    "a": "sqz", "e": "wrd", "i": "uok", "o": "ipl", "u": "yi", "n": "bm", "m": "n", "t": "ry",
    "r": "et", "s": "ad", "d": "sf", "l": "k", "c": "vx", "g": "fh", "h": "gj", "p": "o", "b": "vn",
}


class Fact:
    def __init__(self, name, weight):
        self.name = name
        self.weight = weight
        self.answer = ""
        self.more = ""
        self.patterns = []
        self.topic = []

    def all_patterns(self):
        return self.patterns + ([topic_pattern(self.topic, form) for form in TOPIC_PATTERNS]
                                if self.topic else [])

    def pattern(self, rng):
        if self.topic and rng.random() < TOPIC_SHARE:
            return topic_pattern(self.topic, rng.choice(TOPIC_PATTERNS))
        return rng.choice(self.patterns)


def parse_pattern(text, classes):
    """Splits a pattern into its parts: a list of lists of alternatives, spaces included."""
    parts = []
    for piece in re.split(r"(\{[^}]*\}|@\w+)", text):
        if piece.startswith("{"):
            parts.append(piece[1:-1].split("|"))
        elif piece.startswith("@"):
            parts.append(classes[piece[1:]])
        elif piece:
            parts.append([piece])
    return parts


def topic_pattern(topic, form):
    before, after = form.split("%")
    return parse_pattern(before, {}) + topic + parse_pattern(after, {})


def tidy(text):
    return re.sub(r"\s+", " ", text).strip()


def resolve(alternatives, classes):
    """Word classes may use word classes that were defined before them."""
    found = []
    for alternative in alternatives:
        for combination in itertools.product(*parse_pattern(alternative, classes)):
            found.append("".join(combination))
    return found


def read_facts(path=os.path.join(HERE, "facts.txt")):
    classes, facts = {}, []
    with open(path, encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            kind, rest = line[:1], line[1:].strip()
            if kind in ("", "#"):
                continue
            if kind == "@":
                name, words = rest.split(None, 1)
                classes[name] = resolve(words.split("|"), classes)
            elif kind == "[":
                name, weight = rest.split("]")
                facts.append(Fact(name, float(weight or 1)))
            elif kind == "=":
                facts[-1].answer = rest
            elif kind == "+":
                facts[-1].more = rest
            elif kind == "?":
                facts[-1].patterns.append(parse_pattern(rest, classes))
            elif kind == "~":
                facts[-1].topic = parse_pattern(rest, classes)
            else:
                raise SystemExit(f"facts.txt:{number}: cannot read this line")
    for fact in facts:
        if not fact.answer or not fact.patterns:
            raise SystemExit(f"facts.txt: [{fact.name}] has no answer or no question")
    return facts


def read_documents(path=os.path.join(HERE, "documents.txt")):
    with open(path, encoding="ascii") as file:
        return [tidy(part) for part in file.read().split("\n\n") if part.strip()]


def expansions(pattern):
    """Every question that a pattern stands for."""
    size = 1
    for part in pattern:
        size *= len(part)
    if size > MAX_EXPANSION:
        raise SystemExit(f"facts.txt: a pattern stands for {size} questions: {pattern}")
    for combination in itertools.product(*pattern):
        yield tidy("".join(combination))


def normalise(text):
    """Letters and digits only, so that case and punctuation cannot hide a repetition."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def read_eval(path=os.path.join(HERE, "eval.txt")):
    """Returns {set name: [(question, [[keyword, ...], ...])]}: one of each inner list must occur."""
    sets, current = {}, None
    with open(path, encoding="ascii") as lines:
        for line in lines:
            line = line.strip()
            if line.startswith("["):
                current = sets.setdefault(line.strip("[]"), [])
            elif line and not line.startswith("#"):
                question, wanted = line.split(" => ")
                groups = [group.strip().split("|") for group in wanted.split(" & ")]
                current.append((question, groups))
    return sets


def held_out():
    return [normalise(question) for part in read_eval().values() for question, _ in part]


def made_up_word(rng):
    """Stands for all the words that the model never saw: they must not lead it astray."""
    onsets = "b br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh sk sl st t th tr v w z".split()
    vowels, codas = "a e i o u ai ea ee oo ou".split(), ["", "", "", *"n m r s t l nd st x".split()]
    word = "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas)
                   for _ in range(rng.randint(1, 3)))
    return word.capitalize() if rng.random() < 0.2 else word


def fill_in(rng, pattern):
    """One question of a pattern, with its stars replaced by made-up words."""
    text = tidy("".join(rng.choice(part) for part in pattern))
    return re.sub(r"\*", lambda _: made_up_word(rng), text)


def drop_words(rng, text):
    """Shortens a question to most of its words: what is left must be enough to understand it."""
    words = [word for word in text.split()
             if rng.random() < (0.5 if word in DROPPABLE or word in FILLERS else 0.9)]
    return " ".join(words) or text


def add_words(rng, text):
    """Puts words that say nothing between the others, so that a strange word does no harm."""
    words = text.split()
    for _ in range(rng.randint(1, 4)):
        word = made_up_word(rng) if rng.random() < 0.3 else rng.choice(FILLERS)
        words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)


def swap_parts(rng, text):
    """Turns "what if the engine dies" into "the engine dies, what if"."""
    words = text.split()
    at = rng.randint(0, len(words))
    return " ".join(words[at:] + words[:at])


def add_typo(rng, text):
    places = [m for m in re.finditer(r"[a-z]{4,}", text) if m.group() != "make"]
    if not places:
        return text
    match = rng.choice(places)
    at = rng.randrange(match.start() + 1, match.end() - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1:]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2:]
    return text[:at] + rng.choice(KEYS_BESIDE.get(text[at], text[at])) + text[at + 1:]


class Corpus:
    def __init__(self):
        self.facts = read_facts()
        self.documents = read_documents()
        self.held_out = held_out()
        self.weights = list(itertools.accumulate(fact.weight for fact in self.facts))

    def is_held_out(self, text):
        text = normalise(text)
        return any(question in text for question in self.held_out)

    def question(self, rng, fact):
        """One way to ask for a fact, never one of eval.txt's."""
        for _ in range(100):
            text = self.disturb(rng, fill_in(rng, fact.pattern(rng)))
            if not self.is_held_out(text):
                return text
        raise SystemExit(f"facts.txt: [{fact.name}] asks what eval.txt asks")

    @staticmethod
    def disturb(rng, text):
        if rng.random() < 0.20:
            text = drop_words(rng, text)
        if rng.random() < 0.30:
            text = add_words(rng, text)
        if rng.random() < 0.06:
            text = swap_parts(rng, text)
        if rng.random() < 0.30:
            opener = rng.choice(OPENERS)
            text = opener + rng.choice((" ", " ", ", ", ": ")) + text
        if rng.random() < 0.08:
            text = rng.choice(GREETINGS) + rng.choice((" ", ", ", ", ", "! ")) + text
        if rng.random() < 0.08:
            text = text + rng.choice((" ", ", ")) + rng.choice(CLOSERS)
        for _ in range(2):
            if rng.random() < 0.12:
                text = add_typo(rng, text)
        context = ""
        if rng.random() < 0.20:
            context = fill_in(rng, parse_pattern(rng.choice(CONTEXTS), {}))
            context = context[:1].upper() + context[1:] + rng.choice((". ", ". ", ", ", ": ", "! "))
        case = rng.random()
        if case < 0.50:
            text = context + text[:1].upper() + text[1:]
            text = re.sub(r"\bi\b", "I", text)
        elif case < 0.96:
            text = (context + text).lower()
        else:
            text = (context + text).upper()
        if case < 0.96 and rng.random() < 0.08:
            text = re.sub(r"\baiq\b", rng.choice(("AIQ", "Aiq", "AiQ")), text)
        mark = rng.random()
        return text + ("?" if mark < 0.55 else "" if mark < 0.85 else "." if mark < 0.92 else
                       " ?" if mark < 0.95 else "??" if mark < 0.97 else "!")

    def pick(self, rng):
        return rng.choices(self.facts, cum_weights=self.weights)[0]

    def conversation(self, rng):
        """A list of (role, text)."""
        turns = []
        if rng.random() < 0.20:
            turns.append(("system", rng.choice(SYSTEM_PROMPTS)))
        for _ in range(1 if rng.random() < 0.88 else 2):
            fact = self.pick(rng)
            turns.append(("user", self.question(rng, fact)))
            turns.append(("assistant", fact.answer))
        if fact.more and rng.random() < 0.10:
            turns.append(("user", self.disturb(rng, rng.choice(MORE_PATTERNS))))
            turns.append(("assistant", fact.more))
        return turns

    def sample(self, rng):
        """One training example as a list of (text, is it to be learnt)."""
        if rng.random() < 0.04:
            return [(rng.choice(self.documents) + TEXT_END, True)]
        parts = []
        for role, text in self.conversation(rng):
            parts.append((f"{START}{role}\n", False))
            parts.append((text + END, role == "assistant"))
            parts.append(("\n", False))
        return parts[:-1]


def repeated_questions(corpus):
    """The questions of eval.txt that stand in what the patterns stand for, or in samples of it.

    The whole expansion is searched for each question as it is; what training does to the patterns
    (openers, closers, typing errors) is searched in a large sample.
    """
    wanted = set(corpus.held_out)
    text = [normalise(document) for document in corpus.documents]
    rng = random.Random(0)
    for _ in range(SAMPLES_SEARCHED):
        text.append(normalise("".join(part for part, _ in corpus.sample(rng))))
    for fact in corpus.facts:
        for pattern in fact.all_patterns():
            text += [normalise(question) for question in expansions(pattern)]
    whole = "\n".join(text)
    return sorted(question for question in wanted if question in whole)


def main():
    """Prints a few examples to look at, after a search for the questions of eval.txt."""
    corpus, rng = Corpus(), random.Random()
    sizes = [sum(1 for p in fact.all_patterns() for _ in expansions(p)) for fact in corpus.facts]
    print(f"{len(corpus.facts)} facts, {sum(len(f.all_patterns()) for f in corpus.facts)} patterns, "
          f"{sum(sizes)} questions before they are disturbed", end="\n\n")
    for _ in range(20):
        print("".join(text for text, _ in corpus.sample(rng)), end="\n\n")
    repeated = repeated_questions(corpus)
    print(f"questions of eval.txt in the training text: {repeated or 'none'}")
    sys.exit(bool(repeated))


if __name__ == "__main__":
    main()

#!/usr/bin/perl
# Pairs of questions of which is known whether one answer is good for both, as lines of
#
#     HALF <tab> KIND <tab> QUESTION <tab> QUESTION
#
# KIND "same" means the same; of the others each changes one thing that changes the answer:
# "reversal" who does what to whom, "number" a number or unit, "negation" whether, "name" a name
# or something quoted, "word" another word. HALF 1 is what thresholds are chosen by, HALF 2, of
# other templates and other words for their places, what they are reported on. Always the same
# lines.

use strict;
use warnings;

my $seed = 1;
sub pick {
    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
    return $_[ ($seed >> 8) % @_ ];
}

# Two different ones.
sub two {
    my $a = pick(@_);
    my $b = pick(grep { $_ ne $a } @_);
    return ($a, $b);
}

my %places = (
    1 => {
        city    => [qw(Paris Berlin Madrid Oslo Vienna Lisbon Prague Dublin Athens Warsaw)],
        country => [qw(France Germany Spain Norway Austria Portugal Ireland Greece Poland Kenya)],
        person  => [qw(Alice Bob Carol David Erin Frank)],
        thing   => [qw(laptop phone printer router tablet camera)],
        food    => [qw(rice pasta lentils potatoes quinoa spinach)],
        animal  => [qw(dog cat horse rabbit parrot)],
        company => [qw(Amazon Google Netflix Spotify Dropbox)],
        code    => [qw(map_values read_file HashMap.get os.path.join std::move)],
        version => [qw(3.8 3.9 3.11 3.12 2.7)],
    },
    2 => {
        city    => [qw(Chicago Boston Denver Seattle Miami Austin Toronto Sydney Tokyo Mumbai)],
        country => [qw(Japan Brazil Canada India Egypt Mexico Chile Peru Vietnam Nepal)],
        person  => [qw(Grace Henry Irene Jack Karen Louis)],
        thing   => [qw(bicycle drone keyboard monitor scanner speaker)],
        food    => [qw(salmon tofu beans oats carrots eggs)],
        animal  => [qw(goat duck pig sheep turtle)],
        company => [qw(Airbnb Uber Slack Zoom Etsy)],
        code    => [qw(parse_json write_all List.of re.compile std::swap)],
        version => [qw(16 18 20 22 14)],
    },
);

# Each list: ways to ask one thing.
my %same = (
    1 => [
        [ 'How do I reset my {company} password?', 'how can I reset my {company} password',
          'Please tell me how to reset my {company} password.', 'How to reset my {company} password',
          'I forgot my {company} password, how do I get a new one?' ],
        [ 'What is the capital of {country}?', "what's the capital of {country}",
          'Can you tell me what the capital of {country} is?', 'Which city is the capital of {country}?' ],
        [ 'What is the weather like in {city} in May?', "What's the weather like in {city} in May",
          'In May, what is the weather like in {city}?', 'Hi, what is the weather like in {city} in May?' ],
        [ 'How many calories are in 100 grams of {food}?', 'how many calories are there in 100 grams of {food}',
          'Could you tell me how many calories are in 100 grams of {food}?', 'What is the calorie count of 100 grams of {food}?' ],
        [ 'Why does my {thing} not turn on?', "Why doesn't my {thing} turn on?",
          'why does my {thing} not turn on, please?', 'My {thing} will not start. Why?' ],
        [ 'What does {code} do in Python {version}?', 'what does {code} do in Python {version}',
          'Please explain what {code} does in Python {version}.', 'Tell me what {code} does in Python {version}.' ],
        [ 'Can a {animal} eat {food}?', 'can {animal}s eat {food}?', 'Is {food} safe for a {animal}?',
          'Please tell me, can a {animal} eat {food}?' ],
    ],
    2 => [
        [ 'How do I cancel my {company} subscription?', 'how can i cancel my {company} subscription?',
          'Hello, how do I cancel my {company} subscription', 'I want to know how to cancel my {company} subscription.',
          'What are the steps to end my {company} subscription?' ],
        [ 'What is the population of {country}?', "what's the population of {country}?",
          'Please tell me the population of {country}.', 'How many people live in {country}?' ],
        [ 'How long is a direct flight from {city} to Rome?', 'how long is the direct flight from {city} to Rome',
          'Can you tell me how long a direct flight from {city} to Rome is?', 'How much time does it take to fly directly from {city} to Rome?' ],
        [ 'How should I store cooked {food}?', 'how should i store cooked {food}, please',
          'I would like to know how I should store cooked {food}.', 'What is the best way to keep cooked {food}?' ],
        [ 'Which {thing} is the best for 200 dollars?', 'which {thing}s are the best for 200 dollars?',
          'Which is the best {thing} for 200 dollars?', 'Please tell me which {thing} is the best for 200 dollars.' ],
        [ 'What is the difference between {code} and a loop in Node {version}?',
          "What's the difference between {code} and a loop in Node {version}?",
          'Could you please tell me what the difference between {code} and a loop in Node {version} is?',
          'How does {code} differ from a loop in Node {version}?' ],
        [ 'Does a {animal} sleep at night?', 'do {animal}s sleep at night', 'Do {animal}s sleep during the night?',
          'Hi! Does a {animal} sleep at night?' ],
    ],
);

# Each: the kind, and two questions. {x} and {y} are two of a sort, {m} and {n} two numbers.
my %differ = (
    1 => [
        [ 'reversal', 'city',    'How long is the train from {x} to {y}?',  'How long is the train from {y} to {x}?' ],
        [ 'reversal', 'person',  'Did {x} lend money to {y}?',              'Did {y} lend money to {x}?' ],
        [ 'reversal', 'country', 'What does {x} export to {y}?',            'What does {y} export to {x}?' ],
        [ 'reversal', 'food',    'Why is {x} healthier than {y}?',          'Why is {y} healthier than {x}?' ],
        [ 'reversal', 'animal',  'why does the {x} chase the {y}?',         'why does the {y} chase the {x}?' ],
        [ 'number',   'food',    'How many calories are in {m} grams of {x}?', 'How many calories are in {n} grams of {x}?' ],
        [ 'number',   'city',    'What can I see in {x} in {m} days?',      'What can I see in {x} in {n} days?' ],
        [ 'number',   'country', 'what was the population of {x} in 19{m}?', 'what was the population of {x} in 19{n}?' ],
        [ 'number',   'thing',   'Which {x} can I get for ${m}?',           'Which {x} can I get for ${n}?' ],
        [ 'negation', 'food',    'Which vitamins for a {animal} are in {x}?', 'Which vitamins for a {animal} are not in {x}?' ],
        [ 'negation', 'thing',   'Why does my {x} from {company} turn on at night?', "Why doesn't my {x} from {company} turn on at night?" ],
        [ 'negation', 'company', 'Can I use {x} in {city} with a credit card?', 'Can I use {x} in {city} without a credit card?' ],
        [ 'negation', 'city',    'Is it safe to drink tap water in {x} or in {country}?', 'Is it not safe to drink tap water in {x} or in {country}?' ],
        [ 'name',     'country', 'What is the capital of {x}?',             'What is the capital of {y}?' ],
        [ 'name',     'country', 'what is the currency of {x} and where can i change it?', 'what is the currency of {y} and where can i change it?', 'lc' ],
        [ 'name',     'code',    'What does {x} return when the input is empty?', 'What does {y} return when the input is empty?' ],
        [ 'name',     'person',  'Write a birthday card for my colleague {x}.', 'Write a birthday card for my colleague {y}.' ],
        [ 'name',     'company', 'Translate "{x} is down" into French.',    'Translate "{y} is down" into French.' ],
        [ 'word',     'animal',  'How long does a {x} live?',               'How long does a {y} live?' ],
        [ 'word',     'thing',   'How do I turn on the {x} from {company}?', 'How do I turn off the {x} from {company}?' ],
        [ 'word',     'company', 'How do I enable notifications in {x} on a {thing}?', 'How do I disable notifications in {x} on a {thing}?' ],
        [ 'word',     'country', 'Who is the ambassador of {x} in {city}?', 'Who was the ambassador of {x} in {city}?' ],
        [ 'word',     'food',    'How do I cook {x} for my {animal}?',        'How do I store {x} for my {animal}?' ],
        [ 'word',     'city',    'I will be in {x} for a week with two small children who like animals, trains and ice cream. We have no car. Where should we stay?', 'I will be in {x} for a week with two small children who like animals, trains and ice cream. We have no car. Where should we eat?' ],
    ],
    2 => [
        [ 'reversal', 'city',    'I fly from {x} to {y} tomorrow: which papers do I need?', 'I fly from {y} to {x} tomorrow: which papers do I need?' ],
        [ 'reversal', 'person',  'Is {x} taller than {y}?',                 'Is {y} taller than {x}?' ],
        [ 'reversal', 'company', 'Should {x} buy {y}?',                     'Should {y} buy {x}?' ],
        [ 'reversal', 'code',    'Can {x} call {y} safely?',                'Can {y} call {x} safely?' ],
        [ 'reversal', 'animal',  'can a {x} be raised by a {y}?',           'can a {y} be raised by a {x}?' ],
        [ 'number',   'thing',   'Is {m} dollars too much for a used {x}?', 'Is {n} dollars too much for a used {x}?' ],
        [ 'number',   'country', 'Do I need a visa for {m} weeks in {x}?',  'Do I need a visa for {n} weeks in {x}?' ],
        [ 'number',   'code',    'Why does {x} fail with error {m}?',       'Why does {x} fail with error {n}?' ],
        [ 'number',   'food',    'Can {x} be frozen at -{m}C?',             'Can {x} be frozen at -{n}C?' ],
        [ 'number',   'food',    'how much {x} for {m} kg of body weight?', 'how much {x} for {m} lb of body weight?' ],
        [ 'negation', 'animal',  'Which plants from {country} are poisonous for a {x}?', "Which plants from {country} aren't poisonous for a {x}?" ],
        [ 'negation', 'company', 'Why do people in {city} trust {x}?',       'Why do people in {city} never trust {x}?' ],
        [ 'negation', 'code',    'When should I use {x} in Node {version}?', 'When should I not use {x} in Node {version}?' ],
        [ 'negation', 'country', 'Name a food that people in {x} eat with {food}.', "Name a food that people in {x} don't eat with {food}." ],
        [ 'name',     'city',    'What is the best museum in {x}?',         'What is the best museum in {y}?' ],
        [ 'name',     'city',    'where can i park for free near the main station of {x} on a sunday?', 'where can i park for free near the main station of {y} on a sunday?', 'lc' ],
        [ 'name',     'company', 'Who founded {x}, and in which year was that?', 'Who founded {y}, and in which year was that?' ],
        [ 'name',     'version', 'Is Node {x} still supported?',            'Is Node {y} still supported?' ],
        [ 'name',     'person',  "What rhymes with '{x}'?",                 "What rhymes with '{y}'?" ],
        [ 'word',     'food',    'Are {x} good for the heart of a {animal}?', 'Are {x} good for the skin of a {animal}?' ],
        [ 'word',     'thing',   'What should I check before I buy a {x} in {city}?', 'What should I check after I buy a {x} in {city}?' ],
        [ 'word',     'country', 'What is the highest mountain in {x}?',    'What is the longest river in {x}?' ],
        [ 'word',     'company', 'How do I increase my limit at {x} in {country}?', 'How do I decrease my limit at {x} in {country}?' ],
        [ 'word',     'animal',  'What does {person} feed a young {x}?',     'What does {person} feed an old {x}?' ],
        [ 'word',     'city',    'My flight to {x} was delayed by five hours, the airline gave me a voucher for lunch, and I missed a meeting. Can I ask for a refund?', 'My flight to {x} was delayed by five hours, the airline gave me a voucher for lunch, and I missed a meeting. Can I ask for a discount?' ],
    ],
);

sub fill {
    my ($half, @questions) = @_;
    my %chosen = map { $_ => pick(@{ $places{$half}{$_} }) } sort keys %{ $places{$half} };
    s/\{(\w+)\}/$chosen{$1}/g for @questions;
    return @questions;
}

my %seen;
sub line {
    my $line = join("\t", @_) . "\n";
    print $line unless $seen{$line}++;
}

for my $half (1, 2) {
    for my $ways (@{ $same{$half} }) {
        for (1 .. 60) {
            my ($x, $y) = fill($half, two(@$ways));
            line($half, 'same', $x, $y);
        }
    }
    for my $case (@{ $differ{$half} }) {
        my ($kind, $sort, @questions) = @$case;
        my $small = @questions > 2 && pop @questions;
        for (1 .. 40) {
            my ($x, $y) = two(@{ $places{$half}{$sort} });
            my ($m, $n) = two(10 .. 99);
            my @pair = map { s/\{x\}/$x/gr =~ s/\{y\}/$y/gr =~ s/\{m\}/$m/gr =~ s/\{n\}/$n/gr } @questions;
            line($half, $kind, map { $small ? lc : $_ } fill($half, @pair));
        }
    }
}

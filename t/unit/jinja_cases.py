"""Templates, what they are run with, and what Python's jinja2 makes of it, in the settings that
chat templates are written for. A JSON object per line: template, context, then out or error
(which need only be an error). Exits with 77 where there is no jinja2."""
import glob
import json
import os
import sys

try:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    sys.exit(77)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                            extensions=["jinja2.ext.loopcontrols"])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: "01 Jan 1970"

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "What's the \"weather\" <now>? \u00e9",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}},
        "unit": {"enum": ["C", "F"]}, "limit": {"type": ["number", "null"]}}}}}
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "K\u00f6ln", "days": [1, 2.5]}}}
TALKS = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "  Hi\n"}],
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
     {"role": "user", "content": "3 \U0001f680 <|im_end|>"}],
    [{"role": "assistant", "content": "first"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "Weather?"},
     {"role": "assistant", "content": "", "tool_calls": [CALL]},
     {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "abcdefghi"},
     {"role": "assistant", "content": "21 degrees."}, {"role": "user", "content": "Thanks"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
     {"role": "assistant", "content": "b", "tool_calls": [CALL, CALL]},
     {"role": "tool", "content": "x", "tool_call_id": "1"},
     {"role": "tool", "content": "y", "tool_call_id": "2"}],
    [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}],
    [],
]

CONTEXT = {
    "s": "Hello, W\u00f6rld!", "e": "", "i": 7, "f": 2.5, "b": True, "n": None,
    "l": [3, 1, 2], "m": {"b": 1, "a": [1, "x"], "items": 5}, "w": "  two words \n",
    "u": [{"n": "Bo", "a": 2}, {"n": "al", "a": 1}, {"n": "Bo", "a": 3}],
    "x": "a,b,,c", "q": "it's \"q\"\\\n",
}

EXPRESSIONS = """
1 + 2 * 3 - 4
7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 / 2, 2 ** 10, 2 ** -1, -2 ** 2
7.5 // 2, -7.5 % 2, 1e3, 1.5e-7, 1e16, 1e22, 0.1 + 0.2, 100.0, 1_000
1 < 2 < 3, 1 < 3 < 2, 1 == 1.0, true == 1, "a" < "b", [1, 2] < [1, 3]
not true or true, not (true or true), 1 and 0, 0 or "x", none or e
"a" in s, "W" in s, 3 in l, 4 not in l, "b" in m, "" in e, 1 in m
s ~ i ~ f ~ b ~ n ~ l ~ m
s + "x" * 3, [1] + [2], (1,) + (2, 3), [0] * 2
s[0], s[-1], s[7], s[1:4], s[::-1], s[:-1], s[100:], l[1:], l[::2], l[-1], l[5] is defined
m.a, m["a"], m.items, m["items"], m.b, m.zzz is defined, m.get("b"), m.get("q"), m.get("q", 1)
m.keys() | list, m.values() | list, m | items | list, m | dictsort, m | length
i if b else n, (1 if false) is defined, "x" if n else "y" if b else "z"
w.strip() ~ "|" ~ w.lstrip() ~ "|" ~ w.rstrip() ~ "|" ~ s.strip("H!") ~ "|" ~ w | trim
x.split(","), x.split(",", 1), w.split(), "a b c".split(" ", 1), "a b  c".split(none, 1), " a  b c ".split(none, 1), " a ".split(none, 0), " a ".split(none, 2), x.rsplit(",", 1)
s.startswith("He"), s.endswith("!"), s.startswith(("x", "H")), s.find("W"), s.rfind("l"), s.find("zz"), s.count("l")
x.upper(), "ABC".lower(), "hello world's".title(), "hELLO".capitalize(), s.replace("l", "L"), s.replace("l", "L", 1)
"a\\nb\\r\\nc\\n".splitlines(), "-".join(["a", "b"]), "12".isdigit(), "".isdigit(), "abc".removeprefix("a"), "abc".removesuffix("c")
l.index(1), l.count(3), l | sort, l | sort(reverse=true), l | reverse | list, l | first, l | last, l | sum, l | max, l | min
u | selectattr("a", ">", 1) | list, u | selectattr("a", "==", 2) | list, u | rejectattr("a", "<=", 2) | list, l | select("!=", 1) | list, l | select("<", 2) | list, l | reject(">=", 2) | list, l | select("greaterthan", 1) | list, l | select("lessthan", 3) | list
u | map(attribute="n") | list, u | map(attribute="zz", default=0) | list, l | map("string") | list
u | selectattr("a", "gt", 1) | map(attribute="a") | list, u | rejectattr("n", "equalto", "Bo") | list
u | sort(attribute="n") | map(attribute="a") | list, u | sort(attribute="a", reverse=true) | map(attribute="n") | join("+")
l | select("odd") | list, l | reject("odd") | list, [0, 1, "", "a"] | select | list, u | sum(attribute="a")
["b", "A", "a"] | sort, ["b", "A", "a"] | unique | list, ["b", "A"] | sort(case_sensitive=true), "cab" | sort
l | join, l | join(", "), u | join("/", attribute="n"), "abc" | join("."), "abc" | list, "abc" | first, "abc" | reverse
s | length, e | length, l | count, zz | length, zz | default("d"), zz | d, n | default("d"), n | default("d", true), e | default("d", boolean=true)
"3" | int, "3.7" | int, "x" | int, "x" | int(9), 3.9 | int, "2.5" | float, true | int, -3 | abs, 2.567 | round(2), 2.5 | round, 2.1 | round(0, "ceil")
7 | round, -3 | round(1), true | round, 1.115 | round(2), 0.285 | round(2), 2.5e-5 | round(60), 12.5 | round(-1), 7 | round(0, "floor")
"get_user_info" | title, "it's a-b (c) [dEF] {x <y1z" | title, "a\\tb\\nc" | title, "get_user_info".title()
x | upper, s | lower, "foo bar" | title, "foo BAR" | capitalize, s | replace("l", "_"), i | string, [1] | string
"a\\nb\\n\\nc" | indent, "a\\nb" | indent(2, true), "a\\n\\nb" | indent(1, false, true), "a\\nb" | indent("> ")
"<a href='x'>&\\"" | e ~ s | safe
m | tojson, u | tojson(indent=2), q | tojson, [1.0, true, none, "\u00e9\u0001"] | tojson, {} | tojson(indent=4), [] | tojson(indent=1), {1: 2, none: 3, true: 4} | tojson
m | tojson(sort_keys=true), l | tojson(separators=(",", ":")), "\u00e9\U0001f680" | tojson(ensure_ascii=true), {"a": {"b": [1, {"c": []}]}} | tojson(indent=2)
s is string, i is string, i is number, f is float, i is integer, b is integer, b is boolean, n is none, m is mapping, l is sequence, s is sequence, l is iterable, i is iterable
zz is defined, zz is undefined, not zz is defined, i is not none, b is true, b is false, 3 is odd, 4 is even, 9 is divisibleby 3, 1 is in [1, 2], i is eq 7, i is ne(7), i is gt 3
range(3) | list, range(1, 4) | list, range(5, 0, -2) | list, dict(a=1, b=2), namespace(a=1).a, raise_exception is defined
{"a": 1, "b": [2]}, {"a": 1}["a"], (1,), (), [[]], [1, [2, (3, "x")]], "it's", ["it's"], ['a"b'], [q], [none, true, 1.0]
"\\x41\\u00e9\\t|\\'|\\q|\\\\", 'a' 'b', "}}" ~ "%}", {"a": {"b": 1}}.a.b
s | lower ~ "!" | length, -f | abs, (-3) | abs, not n is none, i is defined and i > 3
[1, 2, 3][1:] | length, x.split(",")[0] | upper, (x ~ "x").upper(), l | length > 2, l | length - 1
l.0, l.2, u.0.n, (u | first).n, "abc".1, l.7 is defined, m.0 is defined
["\u00a0\u3000\u2028\ufeff\u200b\u0085\u00ad\U000e0001 \u00e9\u0301\U0001f680\x00\x7f"], {"\u3000": "\u200d"}
zz, zz ~ "a", [zz], zz == zz, zz is none, zz or 1, n.a is defined, i.a is defined
0.1, 1.0, 1e100, 123456789.123, 1e-5, 0.0001, 12345678901234567.0, -0.0
""".strip().split("\n")

STATEMENTS = [
    "{% for a in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for a in [] %}x{% else %}none{% endfor %}{% for a in zz %}x{% else %}undefined{% endfor %}",
    "{% for k, v in m.items() %}{{ k }}={{ v }} {% endfor %}{% for k in m %}{{ k }}{% endfor %}{% for c in s %}{{ c }}.{% endfor %}",
    "{% for a in l if a != 1 %}{{ a }}{{ loop.length }}{% else %}x{% endfor %}",
    "{% for a in l %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}{% for a in l %}{% if a == 1 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in l %}{% for b in l %}{% if b == 2 %}{% break %}{% endif %}{{ a * b }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for a in l %}{{ loop.previtem }}<{{ a }}>{{ loop.nextitem }} {% endfor %}",
    "{% set a = 1 %}{% for b in l %}{% set a = b %}{{ a }}{% endfor %}{{ a }}",
    "{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% for b in [] %}{% else %}{% set a = 1 %}{{ a }}{% endfor %}{{ a }}",
    "{% for b in l %}{% if loop.first %}{% set z = b %}{% endif %}{{ z is defined }} {% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set t = 1, %}{{ t }}",
    "{% set ns = namespace(x=0, l=[]) %}{% for a in l %}{% set ns.x = ns.x + a %}{% set ns.l = ns.l + [a] %}{% endfor %}{{ ns.x }}{{ ns.l }}",
    "{% set a %}x{{ i }}y{% endset %}{{ a }}{{ a | length }}",
    "{% macro f(a, b=2, c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(1, c=9, b=8) }}{{ f() }}{{ f('x') | length }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}",
    "{% set g = 5 %}{% macro f() %}{{ g }}{{ i }}{{ h is defined }}{% endmacro %}{% for h in [1] %}{{ f() }}{% endfor %}",
    "{% if i > 10 %}a{% elif i > 5 %}b{% elif i > 1 %}c{% else %}d{% endif %}",
    "a\n  {% if b %}  \n  x\n  {% endif %}\n  b\n",
    "a {%- if b -%}  \n x \n {%- endif -%} \n b",
    "a\n {%+ if b +%}\n x {% endif %}\n\n\nb {{- i -}} \n c {{ i }}\n",
    "{# c #}a{#- c -#} b {# c #}\n c\n  {# c #}\n d",
    "  {% if b %}\n    {{ i }}\n  {% endif %}\n{%- for a in l %}\n  {{ a }}\n{% endfor %}end",
    "x{% if b %}y{% endif %}\n{% if b %}\nz{% endif %}",
    "{{ {'a': {'b': 1}}['a'] }}{{ '{{' }}{{ '%}' }}",
    "line\r\nline\rline\r\n",
    "{{ raise_exception('no') }}", "{{ zz.a }}", "{{ zz.a.b }}", "{{ n + 1 }}", "{{ 'a' + 1 }}", "{{ i.a.b }}",
    "{% for a in 5 %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ zz() }}", "{{ 1 / 0 }}",
    "{{ 1 < 'a' }}", "{% if %}{% endif %}", "{% for %}", "{{ 1 + }}", "{{ (1 }}", "{% endif %}", "{{ 'a }}",
    "{% if b %}", "{{ i | nofilter }}", "{{ i is notest }}", "{% nostatement %}", "{# open", "{{ l.append(1) }}",
    "{% break %}", "{{ a b }}",
]


def cases():
    for name in sorted(glob.glob(os.path.join(os.path.dirname(__file__), "templates", "*.jinja"))):
        source = open(name).read()
        for talk in TALKS:
            for more in ({}, {"tools": [TOOL, TOOL]}, {"enable_thinking": False},
                         {"add_generation_prompt": False}):
                yield source, dict({"messages": talk, "bos_token": "<s>", "eos_token": "</s>",
                                    "add_generation_prompt": True}, **more)
    for expression in EXPRESSIONS:
        yield "{{ [" + expression + "] }}", CONTEXT
        for part in expression.split(", "):
            yield "{{ " + part + " }}", CONTEXT
    for statement in STATEMENTS:
        yield statement, CONTEXT


for source, context in cases():
    case = {"template": source, "context": context}
    try:
        case["out"] = environment.from_string(source).render(**context)
    except Exception as error:
        case["error"] = str(error)
    if " object at 0x" in case.get("out", ""):
        continue
    print(json.dumps(case))

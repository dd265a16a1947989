#include "providers/usage_scan.h"
#include <string.h>
#include "providers/openai_chunk.h"
#include "providers/rewrite.h"

static const char name[] = "usage";

/* A line is an event's data, or nothing that matters. */
static void next_line(usage_scan *s)
{
    s->depth = 0;
    s->in_string = s->escaped = s->name = s->matches = s->taking = false;
}

static void take(usage_scan *s, char c)
{
    if (s->len == sizeof(s->text)) {
        s->taking = false;
        return;
    }
    s->text[s->len++] = c;
}

static void in_string(usage_scan *s, char c)
{
    if (s->escaped) {
        s->escaped = false;
        s->matches = false; /* a name written with escapes is not looked for */
    } else if (c == '\\') {
        s->escaped = true;
    } else if (c == '"') {
        s->in_string = false;
        s->matches = s->matches && s->at == sizeof(name) - 1;
    } else if (s->name) {
        s->matches = s->matches && s->at < sizeof(name) - 1 && c == name[s->at];
        s->at++;
    }
}

static void string_begins(usage_scan *s)
{
    s->in_string = true;
    s->matches = s->name;
    s->at = 0;
}

static void value_begins(usage_scan *s)
{
    s->name = false;
    s->taking = s->matches;
    s->matches = false;
    s->whole = s->whole && !s->taking;
    s->len = s->taking ? 0 : s->len;
}

static void member_ends(usage_scan *s)
{
    s->whole = s->whole || s->taking;
    s->taking = false;
    s->name = true;
}

static void outside(usage_scan *s, char c)
{
    switch (c) {
    case '{':
    case '[':
        s->depth++;
        s->name = s->depth == 1;
        break;
    case '}':
    case ']':
        s->depth -= s->depth > 0;
        break;
    case '"':
        string_begins(s);
        break;
    case ':':
        if (s->depth == 1 && s->name) {
            value_begins(s);
        }
        break;
    default:
        break;
    }
}

static void add(usage_scan *s, char c)
{
    bool ends = !s->in_string && s->depth == 1 && (c == ',' || c == '}');

    if (c == '\n' || c == '\r') {
        next_line(s);
        return;
    }
    if (ends) {
        member_ends(s);
    }
    if (s->taking) {
        take(s, c);
    }
    if (s->in_string) {
        in_string(s, c);
    } else if (s->depth || c == '{') {
        outside(s, c);
    }
}

void usage_scan_add(usage_scan *s, aiq_str piece)
{
    for (size_t i = 0; i < piece.len; i++) {
        add(s, piece.data[i]);
    }
}

provider_tokens usage_scan_tokens(const usage_scan *s)
{
    aiq_str text = {s->text, s->len};
    json_error wrong;

    if (!s->whole || !json_scan(text.data, text.len, NULL, 0, &wrong)) {
        return PROVIDER_TOKENS_UNKNOWN;
    }
    const json_value usage = json_root(text);
    return openai_usage(&usage);
}

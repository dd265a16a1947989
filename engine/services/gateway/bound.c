#include "services/gateway/bound.h"

#include <stdio.h>
#include <string.h>

static bool check_content(const json_value *content, unsigned message, aiq_err *err);

/* Of OpenAI's parts and items and of Anthropic's blocks those that are text, whatever for. */
static bool check_part(const json_value *part, unsigned message, unsigned i, aiq_err *err)
{
    static const char *const bounded[] = {"text",        "refusal",    "tool_use",
                                          "tool_result", "thinking",   "redacted_thinking",
                                          "input_text",  "output_text"};
    json_value type = json_member(part, "type"), content = json_member(part, "content");
    char param[64];

    for (size_t k = 0; k < sizeof(bounded) / sizeof(bounded[0]); k++) {
        if (json_string_is(&type, bounded[k])) {
            return content.type != JSON_ARRAY || check_content(&content, message, err);
        }
    }
    snprintf(param, sizeof(param), "messages[%u].content[%u]", message, i);
    return aiq_fail_param(err, 400, "unbounded_request", param,
                          "What this part will cost cannot be known before, and there is a "
                          "budget here: only text is possible.");
}

static bool check_content(const json_value *content, unsigned message, aiq_err *err)
{
    json_value part;
    size_t cursor = 0;

    for (unsigned i = 0; json_each(content, &cursor, NULL, &part); i++) {
        if (part.type == JSON_OBJECT && !check_part(&part, message, i, err)) {
            return false;
        }
    }
    return true;
}

static bool check_parts(const json_value *messages, aiq_err *err)
{
    json_value message;
    size_t cursor = 0;

    for (unsigned i = 0; json_each(messages, &cursor, NULL, &message); i++) {
        json_value content = json_member(&message, "content");
        if (content.type == JSON_ARRAY && !check_content(&content, i, err)) {
            return false;
        }
    }
    return true;
}

static int64_t at_least(const json_value *value, int64_t least)
{
    int64_t n;

    return json_int(value, &n) && n > least ? n : least;
}

/* How many texts answer a request. Of the endpoints that are no chats only the older
 * completions answer with tokens: so many times for each prompt. */
static int64_t answers_of(const chat_request *chat)
{
    int64_t n = at_least(&chat->best_of, at_least(&chat->n, 1));
    json_value first = {0};
    size_t cursor = 0;

    if (chat->path == NULL) {
        return n;
    }
    if (!chat_request_generates(chat)) {
        return 0;
    }
    json_each(&chat->prompt, &cursor, NULL, &first);
    if (first.type == JSON_STRING || first.type == JSON_ARRAY) { /* no number: a token's */
        n *= chat->prompt.count;
    }
    return n < INT32_MAX ? n : INT32_MAX;
}

/* As a string's reader counts them: an escape is one, a pair of surrogates, too. */
static int64_t characters(const json_value *text)
{
    int64_t n = 0;

    if (text->type != JSON_STRING) {
        return 0; /* one that is absent has no text either */
    }
    const char *pos = text->text.data + 1, *end = text->text.data + text->text.len - 1;
    for (; pos < end; pos++) {
        bool goes_on; /* with the character before it */
        if (*pos == '\\') {
            pos++;
            goes_on = *pos == 'u' && (pos[1] | 0x20) == 'd' && (pos[2] | 0x20) >= 'c';
            pos += *pos == 'u' ? 4 : 0;
        } else {
            goes_on = ((unsigned char)*pos & 0xc0) == 0x80;
        }
        n += !goes_on;
    }
    return n;
}

ledger_units request_units(const chat_request *chat)
{
    ledger_units units = {0};

    if (!chat->raw || chat->model.type == JSON_NONE) {
        return units;
    }
    if (strncmp(chat->path, "/images/", 8) == 0) {
        units.images = at_least(&chat->n, 1);
        units.images = units.images < INT32_MAX ? units.images : INT32_MAX;
    } else if (strcmp(chat->path, "/audio/speech") == 0) {
        units.characters = characters(&chat->input);
    }
    return units;
}

bool request_unbounded(aiq_err *err)
{
    return aiq_fail(err, 400, "unbounded_request",
                    "What this request will cost cannot be known before, and there is a "
                    "budget here.");
}

/* Of what is paid for by tokens nothing can be said. */
bool request_units_paid(const ledger_units *units, const policy_price *price)
{
    return price->input < 0 && price->output < 0 &&
           (units->images ? price->image : price->characters) >= 0;
}

bool request_bound_of(const chat_request *chat, request_bound *bound, aiq_err *err)
{
    int64_t each = at_least(&chat->max_completion_tokens, at_least(&chat->max_tokens, 0));
    int64_t answers = answers_of(chat);

    if (chat->raw) {
        *bound = (request_bound){.units = request_units(chat)};
        return bound->units.images || bound->units.characters || request_unbounded(err);
    }
    bound->units = (ledger_units){0};
    bound->cap = each || answers == 0 ? 0 : BOUND_OUTPUT;
    bound->input = (int64_t)(chat->body.len + chat->said.len);
    bound->output = (each ? each : BOUND_OUTPUT) * answers;
    bound->output = bound->output < INT32_MAX ? bound->output : INT32_MAX;
    return chat->plain || check_parts(&chat->messages, err);
}

journal_usage request_most(const request_bound *bound, const policy_price *price)
{
    journal_usage most = {
        .input = bound->input, .cached = -1, .output = bound->output, .reasoning = -1};
    policy_price highest = *price;

    if (highest.cached > highest.input) {
        highest.input = highest.cached;
    }
    most.nano_usd = ledger_cost(&highest, &most, &bound->units);
    return most;
}

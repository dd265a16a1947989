#include "providers/openai_chunk.h"
#include <string.h>

/* -1 also where there are no details. */
static int64_t detail_of(const json_value *details, const char *name)
{
    json_value value = json_member(details, name);

    return provider_count(&value);
}

/* A provider may say anything: a year is longer than any sound. */
#define SOUND_MAX (365 * 86400.0)

static int64_t sound_of(const json_value *seconds)
{
    double n = seconds->type == JSON_NUMBER ? json_real(seconds) : 0;

    return n > 0 && n < SOUND_MAX ? (int64_t)(n * 1000) : 0;
}

provider_tokens openai_usage(const json_value *usage)
{
    json_value prompt, completion, prompt_details, completion_details, input, output, seconds;
    const json_want wants[] = {
        {"prompt_tokens", &prompt},
        {"completion_tokens", &completion},
        {"prompt_tokens_details", &prompt_details},
        {"completion_tokens_details", &completion_details},
        {"input_tokens", &input},
        {"output_tokens", &output},
        {"seconds", &seconds},
    };

    if (usage->type != JSON_OBJECT) {
        return PROVIDER_TOKENS_UNKNOWN;
    }
    json_members(usage, wants, sizeof(wants) / sizeof(wants[0]));
    if (input.type == JSON_NUMBER) { /* of images and sounds */
        return (provider_tokens){provider_count(&input), provider_count(&output), -1, -1, 0};
    }
    return (provider_tokens){
        .in = provider_count(&prompt),
        .out = provider_count(&completion),
        .cached = detail_of(&prompt_details, "cached_tokens"),
        .reasoning = detail_of(&completion_details, "reasoning_tokens"),
        .sound_ms = sound_of(&seconds),
    };
}

static bool any_finished(const json_value *choices)
{
    json_value choice;
    size_t cursor = 0;

    while (json_each(choices, &cursor, NULL, &choice)) {
        if (json_member(&choice, "finish_reason").type == JSON_STRING) {
            return true;
        }
    }
    return false;
}

/* Takes the member with this value out of an object's text: also the comma
 * behind it, or else the one before it. The text is ours: the parser's buffer. */
static void cut_member(aiq_str *text, const json_value *value)
{
    static const char name[] = "\"usage\"";
    const size_t n = sizeof(name) - 1;
    char *start = (char *)value->text.data, *end = start + value->text.len;
    char *first = (char *)text->data, *last = first + text->len;

    while (start > first && start[-1] != '"') {
        start--; /* the colon and white space */
    }
    if ((size_t)(start - first) <= n || memcmp(start - n, name, n) != 0) {
        return; /* the name is written with escapes: it stays, for it does no harm */
    }
    start -= n;
    while (end < last && strchr(" \t\r\n", *end)) {
        end++;
    }
    if (*end == ',') {
        end++;
    } else {
        while (start > first && strchr(" \t\r\n", start[-1])) {
            start--;
        }
        start -= start[-1] == ',';
    }
    memmove(start, end, (size_t)(last - end));
    text->len -= (size_t)(end - start);
}

openai_verdict openai_chunk(openai_stream *s, aiq_str *data, bool wants_usage,
                            const char **wrong)
{
    json_value choices, usage, error;
    json_error why;
    const json_want wants[] = {{"choices", &choices}, {"usage", &usage}, {"error", &error}};

    if (s->done) {
        return OPENAI_DROP; /* nothing comes behind the end */
    }
    if (aiq_str_is(*data, "[DONE]")) {
        s->done = true;
        return OPENAI_PASS;
    }
    if (!json_scan(data->data, data->len, wants, 3, &why)) {
        *wrong = why.reason;
        return OPENAI_BAD;
    }
    if (error.type != JSON_NONE && error.type != JSON_NULL) {
        *wrong = "an error in the stream";
        return OPENAI_BAD;
    }
    s->finished |= any_finished(&choices);
    if (usage.type == JSON_OBJECT) {
        s->tokens = openai_usage(&usage);
        if (!wants_usage && choices.count == 0) {
            return OPENAI_DROP;
        }
    }
    if (usage.type != JSON_NONE && !wants_usage) {
        cut_member(data, &usage);
    }
    return OPENAI_PASS;
}

/* A member of a delta that says nothing: the role, null, or an empty text. */
static bool is_silent(aiq_str name, const json_value *value)
{
    return aiq_str_is(name, "role") || value->type == JSON_NULL ||
           (value->type == JSON_STRING && value->text.len == 2);
}

static bool is_silent_choice(const json_value *choice)
{
    json_value delta = json_member(choice, "delta"), value;
    size_t cursor = 0;
    aiq_str name;

    if (delta.type != JSON_OBJECT || json_member(choice, "finish_reason").type == JSON_STRING) {
        return false;
    }
    while (json_each(&delta, &cursor, &name, &value)) {
        if (!is_silent(name, &value)) {
            return false;
        }
    }
    return true;
}

bool openai_chunk_is_empty(aiq_str data)
{
    json_value choices, choice;
    json_error why;
    const json_want wants[] = {{"choices", &choices}};
    size_t cursor = 0;

    if (!json_scan(data.data, data.len, wants, 1, &why) || choices.type != JSON_ARRAY) {
        return false;
    }
    while (json_each(&choices, &cursor, NULL, &choice)) {
        if (choice.type != JSON_OBJECT || !is_silent_choice(&choice)) {
            return false;
        }
    }
    return true;
}

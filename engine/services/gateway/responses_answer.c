#include "services/gateway/responses_answer.h"
#include <stdlib.h>
#include <string.h>
#include "providers/rewrite.h"

#define NAME_MAX_BYTES 256 /* of an id or a name */

void responses_begin(responses_stream *s, const chat_request *chat, int64_t now)
{
    s->chat = chat;
    s->created = now;
}

void responses_free(responses_stream *s)
{
    for (uint32_t i = 0; i < s->n_items; i++) {
        aiq_buf_free(&s->items[i].text);
        aiq_buf_free(&s->items[i].name);
    }
    aiq_buf_free(&s->id);
    aiq_buf_free(&s->model);
}

/* Words and numbers. */

static aiq_str text_of(const aiq_buf *text)
{
    return text->len ? (aiq_str){(const char *)text->data, text->len} : AIQ_STR("");
}

static void add_str(aiq_buf *out, aiq_str text)
{
    aiq_buf_add(out, text.data, text.len);
}

/* Of a text that is as JSON has it between quotes. */
static void member_raw(aiq_buf *out, const char *name, aiq_str raw)
{
    rewrite_name(out, name);
    aiq_buf_text(out, "\"");
    add_str(out, raw);
    aiq_buf_text(out, "\"");
}

static aiq_str short_name(const json_value *object, const char *name, const char *otherwise)
{
    json_value value = json_member(object, name);

    if (value.type == JSON_STRING && value.text.len <= NAME_MAX_BYTES) {
        return rewrite_raw(&value);
    }
    return (aiq_str){otherwise, strlen(otherwise)};
}

static void read_names(responses_stream *s, const json_value *answer)
{
    add_str(&s->id, short_name(answer, "id", "1"));
    add_str(&s->model, short_name(answer, "model", ""));
}

static int64_t count_of(const json_value *object, const char *name)
{
    json_value value = json_member(object, name);
    int64_t n;

    return json_int(&value, &n) && n > 0 ? n : 0;
}

static void read_usage(responses_stream *s, const json_value *usage)
{
    json_value prompt = json_member(usage, "prompt_tokens_details");
    json_value answer = json_member(usage, "completion_tokens_details");

    s->in = count_of(usage, "prompt_tokens");
    s->out = count_of(usage, "completion_tokens");
    s->cached = count_of(&prompt, "cached_tokens");
    s->reasoning = count_of(&answer, "reasoning_tokens");
}

static void read_finish(responses_stream *s, const json_value *finish)
{
    if (json_string_is(finish, "length")) {
        s->incomplete = "max_output_tokens";
    } else if (json_string_is(finish, "content_filter")) {
        s->incomplete = "content_filter";
    }
}

/* Items. */

/* Ids are the answer's own, and the item's place in it. */
static void member_id(aiq_buf *out, const char *name, const responses_stream *s, uint32_t i)
{
    static const char *const prefixes[] = {"msg", "msg", "rs", "fc"};

    rewrite_name(out, name);
    aiq_buf_printf(out, "\"%s_", prefixes[s->items[i].kind]);
    add_str(out, text_of(&s->id));
    aiq_buf_printf(out, "_%u\"", i);
}

/* The part of a message that has its text, or of a thought. */
static void write_part(aiq_buf *out, responses_kind kind, aiq_str text)
{
    static const char *const types[] = {"output_text", "refusal", "summary_text"};

    aiq_buf_printf(out, "{\"type\":\"%s\"", types[kind]);
    member_raw(out, kind == RESPONSES_REFUSAL ? "refusal" : "text", text);
    if (kind == RESPONSES_MESSAGE) {
        aiq_buf_text(out, ",\"annotations\":[],\"logprobs\":[]");
    }
    aiq_buf_text(out, "}");
}

/* whole: and not as it begins. */
static void write_item(aiq_buf *out, const responses_stream *s, uint32_t i, bool whole)
{
    static const char *const types[] = {"message", "message", "reasoning", "function_call"};
    const responses_item *item = &s->items[i];
    aiq_str text = whole ? text_of(&item->text) : AIQ_STR(""), name = text_of(&item->name);

    rewrite_comma(out);
    aiq_buf_printf(out, "{\"type\":\"%s\"", types[item->kind]);
    member_id(out, "id", s, i);
    if (item->kind == RESPONSES_THOUGHT) {
        aiq_buf_text(out, ",\"summary\":[");
    } else {
        rewrite_member_word(out, "status",
                            !whole      ? "in_progress"
                            : item->cut ? "incomplete"
                                        : "completed");
    }
    if (item->kind == RESPONSES_CALL) {
        member_raw(out, "call_id", (aiq_str){name.data, item->id_len});
        member_raw(out, "name", (aiq_str){name.data + item->id_len, name.len - item->id_len});
        member_raw(out, "arguments", text);
        aiq_buf_text(out, "}");
        return;
    }
    if (item->kind != RESPONSES_THOUGHT) {
        aiq_buf_text(out, ",\"role\":\"assistant\",\"content\":[");
    }
    if (whole) {
        write_part(out, item->kind, text);
    }
    aiq_buf_text(out, "]}");
}

/* False: there is no room for it. */
static bool keep_text(responses_stream *s, responses_item *item, aiq_str text)
{
    if (text.len > RESPONSES_TEXT_MAX - s->bytes) {
        return false;
    }
    s->bytes += text.len;
    add_str(&item->text, text);
    return true;
}

static responses_item *new_item(responses_stream *s, responses_kind kind)
{
    if (s->n_items == RESPONSES_ITEMS_MAX) {
        return NULL;
    }
    responses_item *item = &s->items[s->n_items++];
    *item = (responses_item){.kind = kind};
    return item;
}

/* False: it is one too many. */
static bool new_call(responses_stream *s, int64_t index, const json_value *call)
{
    json_value function = json_member(call, "function");
    responses_item *item = new_item(s, RESPONSES_CALL);

    if (item == NULL) {
        return false;
    }
    item->index = index;
    add_str(&item->name, short_name(call, "id", "call"));
    item->id_len = item->name.len;
    add_str(&item->name, short_name(&function, "name", ""));
    return true;
}

/* The response. */

/* A member that is copied whole, on one line: in JSON, line ends stand only between tokens. */
static void member_line(aiq_buf *out, const char *name, const json_value *value)
{
    rewrite_name(out, name);
    size_t start = out->len;
    rewrite_value(out, value);
    for (size_t i = start; i < out->len; i++) {
        if (out->data[i] == '\n' || out->data[i] == '\r') {
            out->data[i] = ' ';
        }
    }
}

/* What the client asked for is said again, or what is so where it did not ask. */
static void write_request(aiq_buf *out, const responses_stream *s)
{
    static const char *const fields[][2] = {
        {"instructions", "null"},
        {"max_output_tokens", "null"},
        {"metadata", "{}"},
        {"parallel_tool_calls", "true"},
        {"reasoning", "{\"effort\":null,\"summary\":null}"},
        {"service_tier", "\"auto\""},
        {"temperature", "1"},
        {"text", "{\"format\":{\"type\":\"text\"}}"},
        {"tool_choice", "\"auto\""},
        {"tools", "[]"},
        {"top_p", "1"},
        {"user", "null"},
    };
    json_value body = json_root(s->chat->body);

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        json_value value = json_member(&body, fields[i][0]);
        if (rewrite_absent(&value)) {
            rewrite_name(out, fields[i][0]);
            aiq_buf_text(out, fields[i][1]);
        } else {
            member_line(out, fields[i][0], &value);
        }
    }
    aiq_buf_text(out, ",\"previous_response_id\":null,\"store\":false,"
                      "\"truncation\":\"disabled\",\"background\":false");
}

static void write_usage(aiq_buf *out, const responses_stream *s)
{
    aiq_buf_printf(
        out,
        "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},"
        "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},"
        "\"total_tokens\":%lld}",
        (long long)s->in, (long long)s->cached, (long long)s->out, (long long)s->reasoning,
        (long long)(s->in < INT64_MAX - s->out ? s->in + s->out : INT64_MAX));
}

/* As a value. */
static void write_response(aiq_buf *out, const responses_stream *s, bool whole)
{
    aiq_buf_text(out, "{\"id\":\"resp_");
    add_str(out, text_of(&s->id));
    aiq_buf_text(out, "\",\"object\":\"response\"");
    rewrite_member_int(out, "created_at", s->created);
    rewrite_member_word(out, "status",
                        !whole          ? "in_progress"
                        : s->incomplete ? "incomplete"
                                        : "completed");
    aiq_buf_text(out, ",\"error\":null,\"incomplete_details\":");
    if (whole && s->incomplete) {
        aiq_buf_printf(out, "{\"reason\":\"%s\"}", s->incomplete);
    } else {
        aiq_buf_text(out, "null");
    }
    member_raw(out, "model", text_of(&s->model));
    write_request(out, s);
    rewrite_name(out, "output");
    aiq_buf_text(out, "[");
    for (uint32_t i = 0; whole && i < s->n_items; i++) {
        write_item(out, s, i, true);
    }
    aiq_buf_text(out, "],\"usage\":");
    if (whole) {
        write_usage(out, s);
    } else {
        aiq_buf_text(out, "null");
    }
    aiq_buf_text(out, "}");
}

/* Events. */

static void begin_event(responses_stream *s, const char *type, aiq_buf *out)
{
    aiq_buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", type, type,
                   s->sequence++);
}

static void end_event(aiq_buf *out)
{
    aiq_buf_text(out, "}\n\n");
}

static void response_event(responses_stream *s, const char *type, bool whole, aiq_buf *out)
{
    begin_event(s, type, out);
    rewrite_name(out, "response");
    write_response(out, s, whole);
    end_event(out);
}

static void item_event(responses_stream *s, const char *type, uint32_t i, bool whole,
                       aiq_buf *out)
{
    begin_event(s, type, out);
    rewrite_member_int(out, "output_index", i);
    rewrite_name(out, "item");
    write_item(out, s, i, whole);
    end_event(out);
}

/* An event about an item's only part. */
static void begin_inside(responses_stream *s, const char *type, uint32_t i, aiq_buf *out)
{
    static const char *const places[] = {"content_index", "content_index", "summary_index",
                                         NULL};
    const char *place = places[s->items[i].kind];

    begin_event(s, type, out);
    member_id(out, "item_id", s, i);
    rewrite_member_int(out, "output_index", i);
    if (place) {
        rewrite_member_int(out, place, 0);
    }
}

static void part_event(responses_stream *s, const char *type, uint32_t i, aiq_str text,
                       aiq_buf *out)
{
    begin_inside(s, type, i, out);
    rewrite_name(out, "part");
    write_part(out, s->items[i].kind, text);
    end_event(out);
}

/* What the events about an item are called. */
static const struct {
    const char *part_added, *delta, *done, *text, *part_done;
} words[] = {
    [RESPONSES_MESSAGE] = {"response.content_part.added", "response.output_text.delta",
                           "response.output_text.done", "text", "response.content_part.done"},
    [RESPONSES_REFUSAL] = {"response.content_part.added", "response.refusal.delta",
                           "response.refusal.done", "refusal", "response.content_part.done"},
    [RESPONSES_THOUGHT] = {"response.reasoning_summary_part.added",
                           "response.reasoning_summary_text.delta",
                           "response.reasoning_summary_text.done", "text",
                           "response.reasoning_summary_part.done"},
    [RESPONSES_CALL] = {NULL, "response.function_call_arguments.delta",
                        "response.function_call_arguments.done", "arguments", NULL},
};

static void tell_begin(responses_stream *s, uint32_t i, aiq_buf *out)
{
    responses_kind kind = s->items[i].kind;

    item_event(s, "response.output_item.added", i, false, out);
    if (words[kind].part_added) {
        part_event(s, words[kind].part_added, i, AIQ_STR(""), out);
    }
}

static void tell_delta(responses_stream *s, uint32_t i, aiq_str text, aiq_buf *out)
{
    responses_kind kind = s->items[i].kind;

    begin_inside(s, words[kind].delta, i, out);
    member_raw(out, "delta", text);
    if (kind == RESPONSES_MESSAGE) {
        aiq_buf_text(out, ",\"logprobs\":[]");
    }
    end_event(out);
}

static void tell_end(responses_stream *s, uint32_t i, aiq_buf *out)
{
    responses_item *item = &s->items[i];
    aiq_str text = text_of(&item->text), name = text_of(&item->name);

    begin_inside(s, words[item->kind].done, i, out);
    if (item->kind == RESPONSES_CALL) {
        member_raw(out, "name", (aiq_str){name.data + item->id_len, name.len - item->id_len});
    }
    member_raw(out, words[item->kind].text, text);
    if (item->kind == RESPONSES_MESSAGE) {
        aiq_buf_text(out, ",\"logprobs\":[]");
    }
    end_event(out);
    if (words[item->kind].part_done) {
        part_event(s, words[item->kind].part_done, i, text, out);
    }
    item->ended = true;
    item_event(s, "response.output_item.done", i, true, out);
}

static void end_items(responses_stream *s, bool calls, bool cut, aiq_buf *out)
{
    for (uint32_t i = 0; i < s->n_items; i++) {
        if (!s->items[i].ended && (calls || s->items[i].kind != RESPONSES_CALL)) {
            s->items[i].cut = cut;
            tell_end(s, i, out);
        }
    }
}

static void too_long(responses_stream *s, aiq_buf *out)
{
    responses_error(s,
                    AIQ_STR("{\"error\":{\"message\":\"The answer is too long to be told in "
                            "one response.\",\"type\":\"server_error\",\"param\":null,"
                            "\"code\":\"answer_too_long\"}}"),
                    out);
}

static void say(responses_stream *s, uint32_t i, aiq_str text, aiq_buf *out)
{
    if (!keep_text(s, &s->items[i], text)) {
        too_long(s, out);
        return;
    }
    tell_delta(s, i, text, out);
}

static void add_text(responses_stream *s, responses_kind kind, const json_value *value,
                     aiq_buf *out)
{
    aiq_str text = rewrite_raw(value);
    uint32_t last = s->n_items - 1;

    if (text.len == 0 || s->ended) {
        return;
    }
    if (s->n_items == 0 || s->items[last].kind != kind || s->items[last].ended) {
        end_items(s, false, false, out);
        if (new_item(s, kind) == NULL) {
            too_long(s, out);
            return;
        }
        last = s->n_items - 1;
        tell_begin(s, last, out);
    }
    say(s, last, text, out);
}

static void add_call(responses_stream *s, const json_value *call, aiq_buf *out)
{
    json_value at = json_member(call, "index"), function = json_member(call, "function");
    json_value arguments = json_member(&function, "arguments");
    int64_t index = 0;
    uint32_t i = s->n_items;

    if (s->ended) {
        return;
    }
    json_int(&at, &index);
    while (i > 0 &&
           (s->items[i - 1].kind != RESPONSES_CALL || s->items[i - 1].index != index)) {
        i--;
    }
    if (i == 0) {
        end_items(s, false, false, out);
        if (!new_call(s, index, call)) {
            too_long(s, out);
            return;
        }
        i = s->n_items;
        tell_begin(s, i - 1, out);
    }
    aiq_str text = rewrite_raw(&arguments);
    if (text.len) {
        say(s, i - 1, text, out);
    }
}

/* Chunks. */

static json_value thought_of(const json_value *delta)
{
    json_value thought = json_member(delta, "reasoning_content");

    return thought.type == JSON_NONE ? json_member(delta, "reasoning") : thought;
}

static void add_delta(responses_stream *s, const json_value *delta, aiq_buf *out)
{
    json_value thought = thought_of(delta), content = json_member(delta, "content");
    json_value refusal = json_member(delta, "refusal");
    json_value calls = json_member(delta, "tool_calls"), call;
    size_t cursor = 0;

    add_text(s, RESPONSES_THOUGHT, &thought, out);
    add_text(s, RESPONSES_MESSAGE, &content, out);
    add_text(s, RESPONSES_REFUSAL, &refusal, out);
    while (json_each(&calls, &cursor, NULL, &call)) {
        add_call(s, &call, out);
    }
}

void responses_chunk(responses_stream *s, aiq_str data, aiq_buf *out)
{
    json_value choices, choice, usage;
    json_error error;
    const json_want wants[] = {{"choices", &choices}, {"usage", &usage}};
    size_t cursor = 0;

    if (aiq_str_is(data, "[DONE]")) {
        responses_end(s, out);
        return;
    }
    if (s->ended || !json_scan(data.data, data.len, wants, 2, &error)) {
        return;
    }
    if (!s->started) {
        json_value chunk = json_root(data);
        s->started = true;
        read_names(s, &chunk);
        response_event(s, "response.created", false, out);
        response_event(s, "response.in_progress", false, out);
    }
    if (usage.type == JSON_OBJECT) {
        read_usage(s, &usage);
    }
    if (!json_each(&choices, &cursor, NULL, &choice)) {
        return;
    }
    json_value delta = json_member(&choice, "delta");
    json_value finish = json_member(&choice, "finish_reason");
    add_delta(s, &delta, out);
    read_finish(s, &finish);
}

void responses_end(responses_stream *s, aiq_buf *out)
{
    if (!s->started || s->ended) {
        return;
    }
    s->ended = true;
    end_items(s, true, s->incomplete != NULL, out);
    response_event(s, s->incomplete ? "response.incomplete" : "response.completed", true, out);
}

void responses_error(responses_stream *s, aiq_str body, aiq_buf *out)
{
    static const char *const fields[] = {"code", "message", "param"};
    json_value error = {0};
    json_error wrong;
    const json_want wants[] = {{"error", &error}};

    if (s->ended) {
        return;
    }
    s->ended = true;
    json_scan(body.data, body.len, wants, 1, &wrong);
    begin_event(s, "error", out);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        json_value value = json_member(&error, fields[i]);
        if (rewrite_absent(&value)) {
            rewrite_name(out, fields[i]);
            aiq_buf_text(out, "null");
        } else {
            member_line(out, fields[i], &value);
        }
    }
    if (error.type == JSON_OBJECT) {
        member_line(out, "error", &error);
    }
    end_event(out);
}

/* A whole completion. */

static bool whole_text(responses_stream *s, responses_kind kind, const json_value *value)
{
    aiq_str text = rewrite_raw(value);

    return text.len == 0 || keep_text(s, new_item(s, kind), text); /* there are three at most */
}

static bool whole_call(responses_stream *s, const json_value *call)
{
    json_value function = json_member(call, "function");
    json_value arguments = json_member(&function, "arguments");

    return new_call(s, 0, call) &&
           keep_text(s, &s->items[s->n_items - 1], rewrite_raw(&arguments));
}

static bool read_message(responses_stream *s, const json_value *message)
{
    json_value thought = thought_of(message), content = json_member(message, "content");
    json_value refusal = json_member(message, "refusal");
    json_value calls = json_member(message, "tool_calls"), call;
    size_t cursor = 0;

    if (!whole_text(s, RESPONSES_THOUGHT, &thought) ||
        !whole_text(s, RESPONSES_MESSAGE, &content) ||
        !whole_text(s, RESPONSES_REFUSAL, &refusal)) {
        return false;
    }
    while (json_each(&calls, &cursor, NULL, &call)) {
        if (!whole_call(s, &call)) {
            return false;
        }
    }
    return true;
}

bool responses_completion(aiq_str body, const chat_request *chat, int64_t now, aiq_buf *out)
{
    responses_stream *s = aiq_zalloc(sizeof(*s));
    json_value choices, choice = {0}, usage;
    json_error error;
    const json_want wants[] = {{"choices", &choices}, {"usage", &usage}};
    size_t cursor = 0;
    bool ok = false;

    responses_begin(s, chat, now);
    if (json_scan(body.data, body.len, wants, 2, &error) &&
        json_each(&choices, &cursor, NULL, &choice)) {
        json_value root = json_root(body), message = json_member(&choice, "message");
        json_value finish = json_member(&choice, "finish_reason");
        read_names(s, &root);
        read_usage(s, &usage);
        read_finish(s, &finish);
        ok = read_message(s, &message);
    }
    if (ok) {
        if (s->n_items && s->incomplete) {
            s->items[s->n_items - 1].cut = true;
        }
        write_response(out, s, true);
    }
    responses_free(s);
    free(s);
    return ok;
}

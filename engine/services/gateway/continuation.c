#include "services/gateway/continuation.h"
#include <string.h>

static bool take_delta(continuation *c, const json_value *delta)
{
    json_value value;
    aiq_str name;
    size_t cursor = 0;

    while (json_each(delta, &cursor, &name, &value)) {
        if (value.type == JSON_NULL || aiq_str_is(name, "role")) {
            continue;
        }
        if (!aiq_str_is(name, "content") || value.type != JSON_STRING ||
            c->text.len + value.text.len > CONTINUATION_MAX) {
            return false;
        }
        aiq_buf_add(&c->text, value.text.data + 1, value.text.len - 2);
    }
    return true;
}

static bool take_chunk(continuation *c, aiq_str event)
{
    json_value choices, choice = {0}, delta, index;
    json_error why;
    int64_t i;
    const json_want wants[] = {{"choices", &choices}};
    size_t cursor = 0;

    if (!json_scan(event.data, event.len, wants, 1, &why) || choices.type != JSON_ARRAY ||
        choices.count > 1) {
        return false;
    }
    if (choices.count == 0) {
        return true; /* usage */
    }
    json_each(&choices, &cursor, NULL, &choice);
    if (choice.type != JSON_OBJECT) {
        return false;
    }
    index = json_member(&choice, "index");
    if (json_int(&index, &i) && i != 0) {
        return false; /* one of several answers */
    }
    delta = json_member(&choice, "delta");
    return delta.type == JSON_OBJECT && take_delta(c, &delta);
}

void continuation_take(continuation *c, aiq_str event)
{
    c->allowed = c->allowed && take_chunk(c, event);
}

bool continuation_request(const continuation *c, const chat_request *chat, aiq_pool *pool,
                          chat_request *out)
{
    static const char before[] = ",{\"role\":\"assistant\",\"content\":\"", after[] = "\"}";
    aiq_err err;

    if (!c->allowed || c->text.len == 0) {
        return false; /* also of what is no chat and has no messages */
    }
    const char *end = chat->messages.text.data + chat->messages.text.len - 1; /* at ']' */
    size_t head = (size_t)(end - chat->body.data), tail = chat->body.len - head;
    size_t len = chat->body.len + sizeof(before) - 1 + c->text.len + sizeof(after) - 1;
    char *body = aiq_pool_alloc(pool, len), *p = body;
    p = mempcpy(p, chat->body.data, head);
    p = mempcpy(p, before, sizeof(before) - 1);
    p = mempcpy(p, c->text.data, c->text.len);
    p = mempcpy(p, after, sizeof(after) - 1);
    memcpy(p, end, tail);
    if (!chat_request_parse(out, (aiq_str){body, len}, &err)) {
        return false;
    }
    out->goes_on = true;
    out->begun = chat->begun;
    out->no_thoughts = chat->no_thoughts;
    out->cap = chat->cap;
    return true;
}

aiq_str continuation_mark(const policy_target *target, const char *model, unsigned attempt,
                          aiq_pool *pool)
{
    aiq_buf out = {0};

    aiq_buf_text(&out,
                 "{\"id\":\"\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":");
    json_quote(&out, model, strlen(model));
    aiq_buf_text(&out, ",\"choices\":[],\"aiq\":{\"continued\":{\"provider\":");
    json_quote(&out, target->provider->name, strlen(target->provider->name));
    aiq_buf_text(&out, ",\"model\":");
    json_quote(&out, target->model, strlen(target->model));
    aiq_buf_printf(&out, ",\"attempt\":%u}}}", attempt);
    aiq_str mark = {aiq_pool_copy(pool, out.data, out.len), out.len};
    aiq_buf_free(&out);
    return mark;
}

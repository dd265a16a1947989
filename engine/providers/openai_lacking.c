#include "providers/openai_lacking.h"
#include "providers/rewrite.h"

static void write_members(const chat_request *chat, const policy_provider *p, aiq_buf *out)
{
    json_value root = json_root(chat->body), value;
    bool renames =
        p->no_max_completion_tokens && chat->max_completion_tokens.type == JSON_NUMBER;
    size_t cursor = 0;
    aiq_str name;

    aiq_buf_text(out, "{");
    while (json_each(&root, &cursor, &name, &value)) {
        if (p->no_stream_options && aiq_str_is(name, "stream_options")) {
            continue;
        }
        if (renames && aiq_str_is(name, "max_completion_tokens")) {
            rewrite_member(out, "max_tokens", &value);
        } else if (!(renames && aiq_str_is(name, "max_tokens")) &&
                   !(p->no_max_completion_tokens &&
                     aiq_str_is(name, "max_completion_tokens"))) {
            rewrite_comma(out);
            aiq_buf_text(out, "\"");
            aiq_buf_add(out, name.data, name.len);
            aiq_buf_text(out, "\":");
            rewrite_value(out, &value);
        }
    }
    aiq_buf_text(out, "}");
}

const chat_request *openai_without(const chat_request *chat, const policy_provider *provider,
                                   aiq_pool *pool)
{
    json_error error;
    aiq_buf body = {0};

    if (!provider->no_stream_options && !provider->no_max_completion_tokens) {
        return chat;
    }
    write_members(chat, provider, &body);
    chat_request *new = aiq_pool_alloc(pool, sizeof(*new));
    *new = *chat;
    new->body = (aiq_str){aiq_pool_copy(pool, body.data, body.len), body.len};
    aiq_buf_free(&body);
    /* the members that openai.c changes, where they are now */
    new->include_usage = (json_value){0};
    const json_want wants[] = {{"model", &new->model},
                               {"stream_options", &new->stream_options},
                               {"max_tokens", &new->max_tokens},
                               {"max_completion_tokens", &new->max_completion_tokens}};
    json_scan(new->body.data, new->body.len, wants, sizeof(wants) / sizeof(wants[0]), &error);
    if (new->stream_options.type == JSON_OBJECT) {
        new->include_usage = json_member(&new->stream_options, "include_usage");
    }
    return new;
}

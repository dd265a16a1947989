/*
 * Any bytes as requests, answers and events of both dialects, put into the other's
 * words, and those of the Responses API. What comes out is JSON; a request that was put into
 * Anthropic's words can be read by the reader of those, and what a refusal says names a status
 * and a field.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "providers/anthropic_answer.h"
#include "providers/anthropic_request.h"
#include "services/gateway/messages_answer.h"
#include "services/gateway/messages_request.h"
#include "services/gateway/responses_answer.h"
#include "services/gateway/responses_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const aiq_buf *out)
{
    json_error error;

    assert(json_valid((char *)out->data, out->len, &error));
}

/* Each is two lines, the second one JSON behind "data: ". */
static void check_events(const aiq_buf *out)
{
    const char *pos = (const char *)out->data, *end = out->len ? pos + out->len : pos;

    while (pos < end) {
        const char *data = memchr(pos, '\n', (size_t)(end - pos));
        assert(data && memcmp(data, "\ndata: ", 7) == 0);
        data += 7;
        const char *last = memchr(data, '\n', (size_t)(end - data));
        json_error error;
        assert(last && last[1] == '\n' && json_valid(data, (size_t)(last - data), &error));
        pos = last + 2;
    }
}

/* A request as an answer to itself, whole and as a chunk: what it says is told again. */
static void check_response(aiq_str body, const chat_request *chat)
{
    responses_stream *stream = aiq_zalloc(sizeof(*stream));
    aiq_buf out = {0};

    if (responses_completion(body, chat, 1, &out)) {
        check_json(&out);
    }
    out.len = 0;
    responses_begin(stream, chat, 1);
    responses_chunk(stream, body, &out);
    responses_end(stream, &out);
    check_events(&out);
    responses_free(stream);
    free(stream);
    aiq_buf_free(&out);
}

static void check_requests(aiq_str body, aiq_pool *pool)
{
    chat_request chat, back;
    aiq_buf out = {0};
    aiq_err err = {0};

    if (chat_request_parse(&chat, body, &err)) {
        if (anthropic_request(&chat, "m", pool, &out, &err)) {
            check_json(&out);
            aiq_str text = {(char *)out.data, out.len};
            if (!messages_request_parse(&back, text, &err)) {
                assert(strcmp(err.param, "messages") == 0); /* none had anything to say */
            }
        } else {
            assert(err.status == 400 && err.message[0]);
        }
    }
    if (messages_request_parse(&chat, body, &err)) {
        if (chat.translate(&chat, pool, &err) == NULL) {
            assert(err.status == 400 && err.message[0] &&
                   strcmp(err.code, "invalid_json") != 0);
        }
    }
    if (responses_request_parse(&chat, body, &err)) {
        if (chat.translate(&chat, pool, &err) == NULL) {
            assert(err.status == 400 && err.message[0] &&
                   strcmp(err.code, "invalid_json") != 0);
        }
        check_response(body, &chat);
    }
    aiq_buf_free(&out);
}

static void check_answers(aiq_str body, aiq_pool *pool)
{
    provider_tokens tokens;
    const char *wrong = NULL;
    aiq_buf out = {0};

    if (anthropic_completion(body, 1, &out, &tokens, &wrong)) {
        check_json(&out);
    } else {
        assert(wrong);
    }
    out.len = 0;
    if (anthropic_error(body, &out)) {
        check_json(&out);
    }
    out.len = 0;
    if (messages_completion(body, pool, &out)) {
        check_json(&out);
    }
    aiq_buf_free(&out);
}

/* Each line is an event's data. */
static void check_streams(aiq_str body, bool native)
{
    anthropic_stream stream;
    messages_stream other = {0};
    aiq_buf out = {0};
    aiq_str chunks[2];
    size_t n, at = 0;
    aiq_err err;
    json_error error;

    anthropic_stream_init(&stream, 1, true);
    stream.native = native;
    while (at < body.len) {
        const char *line = body.data + at, *end = memchr(line, '\n', body.len - at);
        aiq_str data = {line, end ? (size_t)(end - line) : body.len - at};
        at += data.len + 1;
        messages_chunk(&other, data, &out);
        if (!anthropic_event(&stream, data, chunks, &n, &err)) {
            assert(err.status >= 400);
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            assert(aiq_str_is(chunks[i], "[DONE]") ||
                   json_valid(chunks[i].data, chunks[i].len, &error));
            messages_chunk(&other, chunks[i], &out);
        }
    }
    messages_end(&other, &out);
    messages_free(&other);
    anthropic_stream_free(&stream);
    aiq_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = memcpy(aiq_alloc(size), data, size);
    aiq_str body = {text, size};
    aiq_pool *pool = aiq_pool_new();

    check_requests(body, pool);
    check_answers(body, pool);
    check_streams(body, false);
    check_streams(body, true);
    aiq_pool_free(pool);
    free(text);
    return 0;
}

/*
 * Any bytes as a chat request, and as a chunk of a provider's stream. A refusal
 * names a status, a code and a sentence; what is accepted holds what the rest
 * relies on, and a local model's parameters can be made of it or are refused.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "providers/local_chat.h"
#include "providers/openai_chunk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const aiq_err *err)
{
    json_error error;
    aiq_buf quoted = {0};

    assert(err->status == 400 && err->code[0] && err->message[0]);
    json_quote(&quoted, err->message, strlen(err->message));
    assert(json_valid((char *)quoted.data, quoted.len, &error));
    aiq_buf_free(&quoted);
}

static void check_local(const chat_request *chat)
{
    aiq_pool *pool = aiq_pool_new();
    infer_params params;
    local_tools tools;
    aiq_err err = {0};

    if (local_chat_params(chat, pool, &params, &tools, &err)) {
        assert(params.n_messages == chat->messages.count);
        assert(params.n_stop <= INFER_MAX_STOP);
        assert(params.temperature >= 0 && params.temperature <= 2);
        assert(params.top_p > 0 && params.top_p <= 1);
        for (size_t i = 0; i < params.n_messages; i++) {
            assert(params.messages[i].role && params.messages[i].content);
        }
    } else {
        check_error(&err);
    }
    aiq_pool_free(pool);
}

static void check_chunk(const char *text, size_t size, bool wants_usage)
{
    char *copy = memcpy(aiq_alloc(size), text, size);
    openai_stream stream = {0};
    const char *wrong = NULL;
    aiq_str chunk = {copy, size};
    json_error error;

    openai_verdict verdict = openai_chunk(&stream, &chunk, wants_usage, &wrong);
    assert((verdict == OPENAI_BAD) == (wrong != NULL));
    if (verdict == OPENAI_PASS && !stream.done) {
        /* what was cut out has left JSON behind */
        assert(chunk.data == copy && chunk.len <= size);
        assert(json_valid(chunk.data, chunk.len, &error));
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = memcpy(aiq_alloc(size), data, size);
    chat_request chat;
    aiq_err err = {0};

    if (chat_request_parse(&chat, (aiq_str){text, size}, &err)) {
        assert(chat.model.type == JSON_STRING && chat.messages.count > 0);
        check_local(&chat);
    } else {
        check_error(&err);
    }
    check_chunk(text, size, false);
    check_chunk(text, size, true);
    free(text);
    return 0;
}

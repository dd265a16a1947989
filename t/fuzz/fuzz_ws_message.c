/* What a client says on /ws: nothing may crash its reader; what is taken is as it must be, and
 * the body of a chat that was is one object that asks for a stream. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "services/ws/ws_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(aiq_str name)
{
    assert(name.len <= WS_NAME_MAX);
    for (size_t i = 0; i < name.len; i++) {
        assert(name.data[i] > ' ' && name.data[i] <= 'z' && name.data[i] != '"');
    }
}

/* Where "stream" stands twice the gateway refuses it. */
static void check_body(const ws_message *m)
{
    json_value stream;
    const json_want want = {"stream", &stream};
    json_error wrong;
    aiq_buf body = {0};

    ws_message_chat(m, &body);
    if (json_scan((char *)body.data, body.len, &want, 1, &wrong)) {
        assert(stream.type == JSON_TRUE);
    } else {
        assert(strstr(wrong.reason, "duplicate"));
    }
    aiq_buf_free(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1); /* of its own, so that a byte too far is seen */
    ws_message m;
    aiq_err err = {0};

    if (size) {
        memcpy(text, data, size);
    }
    if (ws_message_parse(&m, (aiq_str){text, size}, &err)) {
        check_name(m.id);
        check_name(m.source);
        assert(m.id.len || m.kind == WS_PING || m.kind == WS_AUTH);
        assert((m.kind == WS_CHAT) == (m.body.type == JSON_OBJECT));
        if (m.kind == WS_CHAT) {
            check_body(&m);
        }
        for (size_t i = 0; i < m.n_headers; i++) {
            assert(!memchr(m.headers[i].value.data, '\n', m.headers[i].value.len));
        }
    } else {
        assert(err.status == 400 && err.code[0] && err.message[0]);
        check_name(m.id);
    }
    free(text);
    return 0;
}

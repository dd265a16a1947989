/*
 * A chat template from anywhere, run with a conversation that ends in the input's last line:
 * whatever it is, it ends, within its bounds, and each byte of the text is marked or not.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/jinja.h"

#define MAX_OUT ((size_t)1 << 16)

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\" s \"},{\"role\":\"user\",\"content\":\"a<b>\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,true]}}}]}]";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const json_value messages = {JSON_ARRAY, {conversation, sizeof(conversation) - 1}, 0};
    const char *source = (const char *)data;
    const char *line = size > 0 ? memrchr(source, '\n', size) : NULL;
    size_t rest = line != NULL ? size - (size_t)(line + 1 - source) : 0;
    char err[200];
    jinja *t = jinja_new(source, size, err, sizeof(err));
    jinja_output out;
    jinja_run *r;

    if (t == NULL) {
        return 0;
    }
    r = jinja_run_new(0);
    jinja_define(r, "messages", jinja_from_json(r, &messages));
    jinja_define(r, "s", jinja_text(r, rest > 0 ? line + 1 : "", rest, true));
    jinja_define(r, "add_generation_prompt", jinja_bool(r, true));
    if (jinja_render(t, r, MAX_OUT, &out, err, sizeof(err))) {
        for (size_t i = 0; i < out.len; i++) {
            if (out.marks[i] != 0 && out.marks[i] != 1) {
                abort();
            }
        }
        if (out.len > MAX_OUT) {
            abort();
        }
    }
    jinja_run_free(r);
    jinja_free(t);
    return 0;
}

#include "cache/entry.h"

#include <stdint.h>
#include <string.h>

/* Behind the body and the two names. */
typedef struct {
    uint16_t stream, provider_len, model_len;
} entry_tail;

static bool is_plain(aiq_str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < ' ' || text.data[i] > '~') {
            return false;
        }
    }
    return true;
}

void entry_finish(aiq_buf *out, const char *provider, const char *model, bool stream)
{
    const entry_tail tail = {.stream = stream,
                             .provider_len = (uint16_t)strlen(provider),
                             .model_len = (uint16_t)strlen(model)};

    aiq_buf_add(out, provider, tail.provider_len);
    aiq_buf_add(out, model, tail.model_len);
    aiq_buf_add(out, &tail, sizeof(tail));
}

bool entry_read(const void *data, size_t len, cache_entry *entry)
{
    const char *end = (const char *)data + len;
    entry_tail tail;

    if (len < sizeof(tail)) {
        return false;
    }
    memcpy(&tail, end - sizeof(tail), sizeof(tail));
    len -= sizeof(tail);
    if (tail.stream > 1 || (size_t)tail.provider_len + tail.model_len >= len) {
        return false;
    }
    len -= (size_t)tail.provider_len + tail.model_len;
    entry->stream = tail.stream;
    entry->body = (aiq_str){data, len};
    entry->provider = (aiq_str){entry->body.data + len, tail.provider_len};
    entry->model = (aiq_str){entry->provider.data + tail.provider_len, tail.model_len};
    return is_plain(entry->provider) && is_plain(entry->model);
}

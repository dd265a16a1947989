#include "cache/semantic_entry.h"

#include <string.h>
#include "cache/entry.h"

typedef struct {
    uint8_t tenant[SEMANTIC_TENANT];
    uint64_t words; /* bytes */
} head;

void semantic_entry_write(aiq_buf *out, const semantic_entry *entry)
{
    head h = {.words = entry->words.len};

    memcpy(h.tenant, entry->tenant, SEMANTIC_TENANT);
    aiq_buf_add(out, &h, sizeof(h));
    aiq_buf_add(out, entry->words.data, entry->words.len);
    aiq_buf_add(out, entry->answer.data, entry->answer.len);
}

bool semantic_entry_read(aiq_str data, semantic_entry *entry)
{
    cache_entry parts;
    head h;

    if (data.len < sizeof(h)) {
        return false;
    }
    memcpy(&h, data.data, sizeof(h));
    size_t left = data.len - sizeof(h);
    if (h.words > left) {
        return false;
    }
    entry->tenant = (const uint8_t *)data.data;
    entry->words = (aiq_str){data.data + sizeof(h), h.words};
    entry->answer = (aiq_str){entry->words.data + h.words, left - h.words};
    return entry_read(entry->answer.data, entry->answer.len, &parts);
}

/* What lies in Redis under an answer's key: no value may crash its readers, what was written
 * is read, what was damaged is not, and an answer's parts are whole. */

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "cache/entry.h"
#include "cache/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[LRU_KEY] = "a digest of thirty-two bytes, so";

static bool reads(const uint8_t *data, size_t len, aiq_str *answer)
{
    aiq_str value = {(const char *)data, len};
    int64_t stored_ms;

    return envelope_read(value, key, &stored_ms, answer);
}

/* Written anew from its parts it is the same. */
static void check_entry(aiq_str answer)
{
    char provider[65536], model[65536];
    cache_entry entry;
    aiq_buf again = {0};

    if (!entry_read(answer.data, answer.len, &entry)) {
        return;
    }
    assert(entry.body.len > 0);
    memcpy(provider, entry.provider.data, entry.provider.len);
    provider[entry.provider.len] = '\0';
    memcpy(model, entry.model.data, entry.model.len);
    model[entry.model.len] = '\0';
    aiq_buf_add(&again, entry.body.data, entry.body.len);
    entry_finish(&again, provider, model, entry.stream);
    assert(again.len == answer.len && memcmp(again.data, answer.data, again.len) == 0);
    aiq_buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    aiq_buf value = {0};
    aiq_str answer;

    if (reads(data, size, &answer)) { /* libFuzzer finds out what a digest must be */
        assert(answer.data + answer.len == (const char *)data + size && answer.len < size);
        check_entry(answer);
    }
    envelope_write(&value, key, 1, data, size);
    assert(reads(value.data, value.len, &answer));
    assert(answer.len == size && (size == 0 || memcmp(answer.data, data, size) == 0));
    check_entry(answer);
    if (size > 4) {
        uint32_t at;
        memcpy(&at, data, 4);
        value.data[at % value.len] ^= (uint8_t)(data[4] | 1);
        assert(!reads(value.data, value.len, &answer));
    }
    aiq_buf_free(&value);
    return 0;
}

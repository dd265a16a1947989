/* Questions of any bytes, and what a file may have of the semantic cache's entries: each
 * question asks what it asks, nothing that may stand in a list crashes a comparison, and an
 * entry that is read is written again as it was. */

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "cache/gate.h"
#include "cache/semantic_entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_question(aiq_str text)
{
    aiq_buf list = {0};

    if (gate_make(text, &list)) {
        aiq_str words = {(char *)list.data, list.len};
        assert(gate_compare(words, words, GATE_STRICT) == GATE_SAME);
        assert(gate_compare(words, words, GATE_LOOSE) == GATE_SAME);
        (void)gate_compare(words, text, GATE_LOOSE);
        (void)gate_compare(text, words, GATE_LOOSE);
    }
    aiq_buf_free(&list);
}

static void check_entry(aiq_str data)
{
    semantic_entry e;
    aiq_buf again = {0};

    if (semantic_entry_read(data, &e)) {
        semantic_entry_write(&again, &e);
        assert(again.len == data.len && memcmp(again.data, data.data, data.len) == 0);
        (void)gate_compare(e.words, e.answer, GATE_LOOSE);
        aiq_buf_free(&again);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    aiq_str text = {(const char *)data, size};

    check_question(text);
    check_entry(text);
    return 0;
}

/*
 * Any bytes as a form, its content type in the first line. What is found lies in the form;
 * the same form with its model's name replaced is read in the same way.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "services/gateway/form.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_replaced(aiq_str body, aiq_str type, aiq_str value)
{
    size_t before = (size_t)(value.data - body.data), behind = body.len - before - value.len;
    char *text = aiq_alloc(body.len + 4), *p = text;
    const char *wrong;
    aiq_str again;

    p = mempcpy(p, body.data, before);
    p = mempcpy(p, "gpt4", 4);
    p = mempcpy(p, value.data + value.len, behind);
    if (form_field((aiq_str){text, (size_t)(p - text)}, type, "model", &again, &wrong)) {
        assert(aiq_str_is(again, "gpt4"));
    } else {
        assert(memmem(type.data, type.len, "gpt", 3) || memmem(type.data, type.len, "4", 1));
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line = memchr(data, '\n', size);
    size_t n = line ? (size_t)(line - data) : size, used = line ? n + 1 : n;
    char *type = memcpy(aiq_alloc(n + 1), data, n);
    char *body = memcpy(aiq_alloc(size - used + 1), data + used, size - used);
    const char *wrong = NULL;
    aiq_str value;

    if (!form_field((aiq_str){body, size - used}, (aiq_str){type, n}, "model", &value,
                    &wrong)) {
        assert(wrong);
    } else if (value.data) {
        assert(value.data >= body && value.data + value.len <= body + size - used);
        check_replaced((aiq_str){body, size - used}, (aiq_str){type, n}, value);
    }
    free(type);
    free(body);
    return 0;
}

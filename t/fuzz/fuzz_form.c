/*
 * Any bytes as a form, its content type in the first line. What is found lies in the form;
 * the same form with its model's name replaced is read in the same way, and so is the form
 * where it comes in pieces.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "services/gateway/form.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[FORM_FIELDS] = {"model", "n"};

static void check_replaced(aiq_str body, aiq_str type, aiq_str value)
{
    size_t before = (size_t)(value.data - body.data), behind = body.len - before - value.len;
    char *text = aiq_alloc(body.len + 4), *p = text;
    form again;

    p = mempcpy(p, body.data, before);
    p = mempcpy(p, "gpt4", 4);
    p = mempcpy(p, value.data + value.len, behind);
    assert(form_begin(&again, type, names));
    if (form_read(&again, (aiq_str){text, (size_t)(p - text)}, true) == FORM_DONE) {
        assert(aiq_str_is(again.fields[0].value, "gpt4"));
    } else {
        assert(memmem(type.data, type.len, "gpt", 3) || memmem(type.data, type.len, "4", 1));
    }
    free(text);
}

/* Pieces of lengths that the form itself gives. */
static void check_pieces(aiq_str body, const form *begun, const form *whole, form_result result)
{
    form f = *begun;
    form_result got = FORM_MORE;

    for (size_t at = 0; at < body.len && got == FORM_MORE;
         at += 1 + (uint8_t)body.data[at] % 16) {
        got = form_read(&f, (aiq_str){body.data, at}, false);
        assert(got != FORM_DONE);
    }
    got = got == FORM_MORE ? form_read(&f, body, true) : got;
    assert(got == result);
    if (got == FORM_BAD) {
        assert(strcmp(f.wrong, whole->wrong) == 0);
    } else {
        assert(aiq_str_eq(f.fields[0].value, whole->fields[0].value));
        assert(aiq_str_eq(f.fields[1].value, whole->fields[1].value));
    }
}

static void check(aiq_str body, aiq_str type)
{
    form begun, f;

    if (!form_begin(&begun, type, names)) {
        assert(begun.wrong);
        return;
    }
    f = begun;
    form_result result = form_read(&f, body, true);
    check_pieces(body, &begun, &f, result);
    if (result == FORM_BAD) {
        assert(f.wrong);
        return;
    }
    aiq_str value = f.fields[0].value;
    if (value.data) {
        assert(value.data >= body.data && value.data + value.len <= body.data + body.len);
        check_replaced(body, type, value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line = memchr(data, '\n', size);
    size_t n = line ? (size_t)(line - data) : size, used = line ? n + 1 : n;
    char *type = memcpy(aiq_alloc(n + 1), data, n);
    char *body = memcpy(aiq_alloc(size - used + 1), data + used, size - used);

    check((aiq_str){body, size - used}, (aiq_str){type, n});
    free(type);
    free(body);
    return 0;
}

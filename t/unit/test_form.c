/* A form's field, and the forms that two readers could understand differently. */

#include "unit.h"
#include <stdio.h>
#include "services/gateway/form.h"

#define TYPE     "multipart/form-data; boundary=b"
#define FIELD(n) "Content-Disposition: form-data; name=\"" n "\"\r\n\r\n"
#define MODEL    "--b\r\n" FIELD("model")
#define FILE                                                                                   \
    "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n"             \
    "Content-Type: audio/mpeg\r\n\r\n"
#define END "\r\n--b--\r\n"

static const char *const names[FORM_FIELDS] = {"model", "n"};

/* It comes in pieces of so many bytes, each time the same memory, of which the rest cannot be
 * read. */
static form_result read_in(form *f, const char *body, size_t n, size_t piece)
{
    form_result result = FORM_MORE;

    for (size_t at = piece; at < n && result == FORM_MORE; at += piece) {
        result = form_read(f, (aiq_str){body, at}, false);
        assert_int_not_equal(result, FORM_DONE);
    }
    return result == FORM_MORE ? form_read(f, (aiq_str){body, n}, true) : result;
}

/* The field "model", or why there is none. */
static const char *model_of_type(const char *type, const char *body, size_t n)
{
    static char text[256];
    form f, g;

    if (!form_begin(&f, (aiq_str){type, strlen(type)}, names)) {
        assert_non_null(f.wrong);
        return f.wrong;
    }
    g = f;
    form_result result = form_read(&f, (aiq_str){body, n}, true);
    for (size_t piece = 1; piece < n && piece < 200; piece++) {
        form pieces = g;
        assert_int_equal(read_in(&pieces, body, n, piece), result);
        assert_true(result != FORM_BAD || strcmp(pieces.wrong, f.wrong) == 0);
        assert_true(result == FORM_BAD ||
                    aiq_str_eq(pieces.fields[0].value, f.fields[0].value));
    }
    if (result == FORM_BAD) {
        assert_non_null(f.wrong);
        return f.wrong;
    }
    aiq_str value = f.fields[0].value;
    if (value.data) {
        assert_true(value.data >= body && value.data + value.len <= body + n);
    }
    snprintf(text, sizeof(text), "%.*s", (int)value.len, value.data ? value.data : "");
    return text;
}

#define MODEL_OF(body) model_of_type(TYPE, body, sizeof(body) - 1)

static void is_found(void **state)
{
    (void)state;
    assert_string_equal(MODEL_OF(MODEL "m" END), "m");
    assert_string_equal(MODEL_OF(FILE "\0\r\n\r\n-b--\r\n"
                                      "\r\n" MODEL "m" END),
                        "m");
    assert_string_equal(MODEL_OF(MODEL "m\r\n" FILE "x\r\n--\r\n" END), "m");
    assert_string_equal(MODEL_OF(MODEL "m\r\n--b--"), "m");
    assert_string_equal(MODEL_OF(MODEL "" END), "");
    assert_string_equal(MODEL_OF(FILE "x" END), "");
    assert_string_equal(MODEL_OF("--b\r\ncontent-disposition:form-data ; name = model\r\n"
                                 "Content-Type: text/plain\r\n\r\nm" END),
                        "m");
    assert_string_equal(model_of_type("Multipart/Form-Data; charset=x; boundary=\"b\"",
                                      MODEL "m" END, sizeof(MODEL "m" END) - 1),
                        "m");
}

static void is_found_as_soon_as_it_ends(void **state)
{
    static const char body[] = "--b\r\n" FIELD("n") "2\r\n" MODEL "gpt\r\n" FILE "x" END;
    size_t ends = sizeof("--b\r\n" FIELD("n") "2\r\n" MODEL "gpt\r\n--b") - 1;
    form f;

    (void)state;
    assert_true(form_begin(&f, AIQ_STR(TYPE), names));
    assert_int_equal(form_read(&f, (aiq_str){body, ends - 1}, false), FORM_MORE);
    assert_true(f.fields[1].found);
    assert_true(aiq_str_is(f.fields[1].value, "2"));
    assert_false(f.fields[0].found);
    assert_int_equal(form_read(&f, (aiq_str){body, ends}, false), FORM_MORE);
    assert_true(f.fields[0].found);
    assert_true(aiq_str_is(f.fields[0].value, "gpt"));
    assert_int_equal(form_read(&f, (aiq_str){body, sizeof(body) - 1}, true), FORM_DONE);
}

static void other_types(void **state)
{
#define TEN "0123456789"
    static const char *const types[] = {
        "multipart/form-data; boundary=" TEN TEN TEN TEN TEN TEN TEN "0",
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"b",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=b c",
        "multipart/form-data; b",
        "multipart/form-data; boundary=\"b\"c",
        "multipart/mixed; boundary=b",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        assert_string_not_equal(
            model_of_type(types[i], MODEL "m" END, sizeof(MODEL "m" END) - 1), "m");
    }
    assert_true(form_is(AIQ_STR("multipart/form-data; x")));
    assert_true(form_is(AIQ_STR("MULTIPART/FORM-DATA")));
    assert_false(form_is(AIQ_STR("multipart/form-datax")));
    assert_false(form_is(AIQ_STR("")));
}

#define REFUSED(body, why) assert_string_equal(MODEL_OF(body), why)

static void two_ways_to_read_it(void **state)
{
    (void)state;
    REFUSED("\r\n" MODEL "m" END, "no boundary at the start");
    REFUSED("x\r\n" MODEL "m" END, "no boundary at the start");
    REFUSED("--", "no boundary at the start");
    REFUSED("--b \r\n" FIELD("model") "m" END, "a broken boundary");
    REFUSED("--bx\r\n" FIELD("model") "m" END, "a broken boundary");
    REFUSED("--b\n" FIELD("model") "m" END, "a broken boundary");
    REFUSED(MODEL "m" END "x", "a broken boundary");
    REFUSED(MODEL "m" END MODEL "n" END, "a broken boundary");
    REFUSED(MODEL "m\r\n" MODEL "n" END, "a field that comes twice");
    REFUSED(FILE "x\n--b\r\n" FIELD("model") "n" END, "a boundary inside a part");
    REFUSED(MODEL "--b--" END, "a boundary inside a part");
    REFUSED(MODEL "m", "a part that does not end");
    REFUSED("--b\r\n", "a part whose headers do not end");
    REFUSED("--b\r\n\r\nm" END, "a part without a name");
    REFUSED("--b\r\nContent-Type: x\r\n\r\nm" END, "a part without a name");
    REFUSED(
        "--b\r\nContent-Disposition: form-data; name=\"model\"; filename=\"x\"\r\n\r\nm" END,
        "a field that is no plain text");
    REFUSED("--b\r\nContent-Transfer-Encoding: base64\r\n" FIELD("model") "bQ==" END,
            "a field that is no plain text");
    REFUSED("--b\r\nContent-Disposition: form-data;\r\n name=\"x\"\r\n\r\nm" END,
            "a broken disposition");
    REFUSED("--b\r\nX: y\r\n z: w\r\n" FIELD("model") "m" END, "a broken header of a part");
    REFUSED(
        "--b\r\nX: y\nContent-Disposition: form-data; name=\"model\"\r\n" FIELD("x") "m" END,
        "a control character in a part's header");
    REFUSED("--b\r\nContent-Disposition: form-data; name=\"x\"\r\n" FIELD("model") "m" END,
            "two dispositions of one part");
    REFUSED("--b\r\n" FIELD("mod\\el") "m" END, "a backslash in a part's disposition");
    REFUSED("--b\r\n" FIELD("mod%65l") "m" END, "an unclear name");
    REFUSED("--b\r\nContent-Disposition: form-data; name=x; name=model\r\n\r\nm" END,
            "an unclear name");
    REFUSED("--b\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\nm" END,
            "an unclear name");
    REFUSED("--b\r\nContent-Disposition: form-data; name=\"x\r\n\r\nm" END,
            "a broken disposition");
    REFUSED("--b\r\nContent-Disposition: attachment; name=\"x\"\r\n\r\nm" END,
            "a part that is no form-data");
    REFUSED("--b\r\nnonsense\r\n" FIELD("model") "m" END, "a broken header of a part");
}

static void has_bounds(void **state)
{
    static char body[64 * (FORM_PARTS_MAX + 2)];
    size_t n = 0;

    (void)state;
    for (int i = 0; i <= FORM_PARTS_MAX; i++) {
        n += (size_t)sprintf(body + n, "--b\r\n" FIELD("x") "\r\n");
    }
    n += (size_t)sprintf(body + n, "--b--");
    assert_string_equal(model_of_type(TYPE, body, n), "too many parts");
    n = (size_t)sprintf(body, "--b\r\nX: %*s\r\n" FIELD("model") "m" END, FORM_HEADER_MAX, "");
    assert_string_equal(model_of_type(TYPE, body, n), "a part whose headers do not end");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_found),    cmocka_unit_test(is_found_as_soon_as_it_ends),
        cmocka_unit_test(other_types), cmocka_unit_test(two_ways_to_read_it),
        cmocka_unit_test(has_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

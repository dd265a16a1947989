/*
 * Chat templates. The oracle is Python's jinja2, where it is installed: jinja_cases.py prints
 * what it makes of some hundred expressions and statements, and of templates in the shapes of
 * the well-known models' (templates/). The rest is what jinja2 has not: marks, bounds, lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "infer/jinja.h"

#define MAX_LINE (1 << 20)

static char err[300];

/* The rendered text, to be freed; NULL: err says why. Every member of context is a variable. */
static char *render(const char *source, size_t len, const json_value *context, size_t max)
{
    jinja *t = jinja_new(source, len, err, sizeof(err));
    jinja_run *r = jinja_run_new(0);
    json_value member;
    jinja_output out;
    size_t cursor = 0;
    char *text = NULL, names[16][32];
    int n = 0;
    aiq_str name;

    while (context != NULL && json_each(context, &cursor, &name, &member)) {
        assert_true(n < 16 && name.len < sizeof(names[n]));
        memcpy(names[n], name.data, name.len);
        names[n][name.len] = '\0';
        jinja_define(r, names[n++], jinja_from_json(r, &member));
    }
    if (t != NULL && jinja_render(t, r, max, &out, err, sizeof(err))) {
        text = malloc(out.len + 1);
        memcpy(text, out.text, out.len);
        text[out.len] = '\0';
    }
    if (t != NULL) {
        jinja_free(t);
    }
    jinja_run_free(r);
    return text;
}

static char *render_text(const char *source, const char *context)
{
    json_value value = {JSON_OBJECT, {context, strlen(context)}, 0};

    return render(source, strlen(source), &value, 1 << 20);
}

static bool check_case(const char *line, int n)
{
    json_value template, context, out, error;
    const json_want wants[] = {
        {"template", &template}, {"context", &context}, {"out", &out}, {"error", &error}};
    json_error bad;
    aiq_pool *pool = aiq_pool_new();
    aiq_str source, want;
    bool same;
    char *got;

    assert_true(json_scan(line, strlen(line), wants, 4, &bad));
    source = json_string(pool, &template);
    got = render(source.data, source.len, &context, MAX_LINE);
    want = json_string(pool, error.type != JSON_NONE ? &error : &out);
    same = error.type != JSON_NONE ? got == NULL : got != NULL && strcmp(got, want.data) == 0;
    if (!same) {
        print_error("case %d: %s\n%.*s\n  got %s\n  want %s%s\n", n, source.data,
                    (int)context.text.len, context.text.data, got != NULL ? got : err,
                    error.type != JSON_NONE ? "an error: " : "", want.data);
    }
    free(got);
    aiq_pool_free(pool);
    return same;
}

static void as_python_has_it(void **state)
{
    static char line[MAX_LINE];
    FILE *cases = NULL;
    int n = 0, wrong = 0, status = 0;

    (void)state;
    for (int i = 0; i < 2 && n == 0; i++) {
        /* another python3 may come before Debian's, which has Debian's jinja2 */
        cases = popen(i == 0 ? "python3 t/unit/jinja_cases.py"
                             : "/usr/bin/python3 t/unit/jinja_cases.py",
                      "r");
        assert_non_null(cases);
        while (fgets(line, sizeof(line), cases) != NULL) {
            wrong += !check_case(line, ++n);
        }
        status = pclose(cases);
    }
    if (n == 0 && WEXITSTATUS(status) != 0) {
        skip();
    }
    assert_int_equal(status, 0);
    assert_true(n > 600);
    assert_int_equal(wrong, 0);
}

/* The essential things, without Python. */
static void known_answers(void **state)
{
    static const char *const cases[][2] = {
        {"{{ 1 + 2 * 3 }}", "7"},
        {"{% for m in messages %}{{ m.role }}:{{ m['content'] | trim }};{% endfor %}",
         "user:hi;"},
        {"{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
         "{% endfor %}{{ ns.n }}",
         "6"},
        {"{{ messages | tojson }}", "[{\"role\": \"user\", \"content\": \" hi \"}]"},
        {"{{ messages[0].nothing is defined }}", "False"},
        {"a\n  {%- if true %}\n  b\n  {%- endif %}", "a  b"},
        {"{{ 'a,b'.split(',')[-1] | upper }}", "B"},
        {"{% if not tools %}none{% endif %}", "none"},
        {"{% set ns = namespace() %}{% for m in [1, 2] %}{% set ns.l = loop %}{% endfor %}"
         "{{ ns.l.index }}",
         "2"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *got = render_text(cases[i][0],
                                "{\"messages\":[{\"role\":\"user\",\"content\":\" hi \"}]}");

        if (got == NULL) {
            fail_msg("%s: %s", cases[i][0], err);
        }
        assert_string_equal(got, cases[i][1]);
        free(got);
    }
}

static void errors_say_where(void **state)
{
    static const char *const cases[][2] = {
        {"{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."},
        {"a\n\n{{ x.y }}", "line 3: \"x\" is undefined"},
        {"\n{% include 'x' %}", "line 2: the statement \"include\" is not supported"},
        {"{{ 1 | urlize }}", "line 1: the filter \"urlize\" is not supported"},
        {"{{ 1 is escaped }}", "line 1: the test \"escaped\" is not supported"},
        {"{% for x in y %}", "line 1: \"endfor\" is missing"},
        {"{{ 1", "line 1: a tag does not end"},
        {"{{ 99999999999999999999 }}", "line 1: a number is too large"},
        {"{{ 9223372036854775807 + 1 }}", "line 1: an integer is too large"},
        {"{{ ''.format() }}", "line 1: \"format\" is undefined"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_null(render_text(cases[i][0], "{}"));
        assert_string_equal(err, cases[i][1]);
    }
}

/* Steps, memory, depth and output end; so does the test, soon. */
static void bounds(void **state)
{
    static const struct {
        const char *source, *error;
    } cases[] = {
        {"{% set l = range(9000) %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
         "steps"},
        {"{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}",
         "memory"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}"
         "{% endfor %}{{ ns.s == ns.s }}",
         "steps"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}"
         "{% endfor %}{{ ns.s | string }}",
         "nested too deep"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"},
        {"{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}", "longer than 1048576 bytes"},
        {"{{ range(1000000) }}", "a range has more than 100000 elements"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_null(render_text(cases[i].source, "{}"));
        if (strstr(err, cases[i].error) == NULL) {
            fail_msg("%s: %s", cases[i].source, err);
        }
    }
}

static void deep_sources_are_refused(void **state)
{
    static const char *const repeated[] = {"(", "[", "not ", "-", "{1:", "1 if ", "x("};
    char *source = malloc(600000);

    (void)state;
    for (size_t i = 0; i < sizeof(repeated) / sizeof(*repeated); i++) {
        strcpy(source, "{{ ");
        for (size_t k = 0, n = 3; k < 100000; k++, n += strlen(repeated[i])) {
            strcpy(source + n, repeated[i]);
        }
        assert_null(render_text(source, "{}"));
    }
    /* a chain is no nesting to the parser, but to the evaluation */
    strcpy(source, "{{ 1");
    for (size_t k = 0, n = 4; k < 100000; k++, n += 2) {
        strcpy(source + n, "~1");
    }
    strcat(source, "}}");
    assert_null(render_text(source, "{}"));
    assert_non_null(strstr(err, "nested too deep"));
    free(source);
}

/* What came from outside is known byte for byte, whatever was done to it. */
static void foreign_bytes_are_marked(void **state)
{
    static const struct {
        const char *source, *text, *marks;
    } cases[] = {
        {"<{{ c }}>", "<a<b c>", ".uuuuu."},
        {"{{ '<' + c + '>' + r }}", "<a<b c>user", ".uuuuu....."},
        {"{{ c | upper }}{{ c[1:3] }}", "A<B C<b", "uuuuuuu"},
        {"{{ c.split(' ') | join('--') }}", "a<b--c", "uuu..u"},
        {"{{ c.replace('<', '|') }}", "a|b c", "u.uuu"},
        {"{{ 'x=y'.replace('y', c) }}", "x=a<b c", "..uuuuu"},
        {"{{ c | tojson }}", "\"a<b c\"", ".uuuuu."},
        {"{{ [c] }}", "['a<b c']", "..uuuuu.."},
        {"{% set x %}[{{ c }}]{% endset %}{{ x }}", "[a<b c]", ".uuuuu."},
        {"{{ c ~ c | length }}", "a<b c5", "uuuuu."},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        jinja *t = jinja_new(cases[i].source, strlen(cases[i].source), err, sizeof(err));
        jinja_run *r = jinja_run_new(0);
        jinja_output out;

        assert_non_null(t);
        jinja_define(r, "c", jinja_text(r, "a<b c", 5, true));
        jinja_define(r, "r", jinja_text(r, "user", 4, false));
        assert_true(jinja_render(t, r, 1000, &out, err, sizeof(err)));
        assert_int_equal(out.len, strlen(cases[i].text));
        assert_memory_equal(out.text, cases[i].text, out.len);
        for (size_t k = 0; k < out.len; k++) {
            if ((out.marks[k] == 1) != (cases[i].marks[k] == 'u')) {
                fail_msg("%s: byte %zu", cases[i].source, k);
            }
        }
        jinja_run_free(r);
        jinja_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(as_python_has_it),
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(bounds),
        cmocka_unit_test(deep_sources_are_refused),
        cmocka_unit_test(foreign_bytes_are_marked),
    };

    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

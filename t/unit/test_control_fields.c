/* What a request to the control service may say, and how it is told what is wrong. */

#include <stdio.h>
#include "unit.h"
#include "services/control/fields.h"

typedef struct {
    control_value tenant, user, role, off, models, end, rates;
} values;

static bool read_fields(aiq_pool *pool, const char *body, values *v, aiq_err *err)
{
    const control_field fields[] = {
        {"tenant", FIELD_TENANT, false, &v->tenant}, {"user", FIELD_USER, true, &v->user},
        {"role", FIELD_ROLE, false, &v->role},       {"disabled", FIELD_BOOL, false, &v->off},
        {"models", FIELD_MODELS, false, &v->models}, {"expires_at", FIELD_TIME, false, &v->end},
        {"rates", FIELD_LIMITS, false, &v->rates},
    };

    *v = (values){0};
    *err = (aiq_err){0};
    return control_fields(pool, (aiq_str){body, strlen(body)}, fields,
                          sizeof(fields) / sizeof(fields[0]), err);
}

static int setup(void **state)
{
    *state = aiq_pool_new();
    return 0;
}

static int teardown(void **state)
{
    aiq_pool_free(*state);
    return 0;
}

static void reads_every_kind(void **state)
{
    values v;
    aiq_err err;

    assert_true(
        read_fields(*state,
                    " {\"tenant\": \"acme-2\", \"user\": \"al.ice@x\", \"role\": "
                    "\"viewer\", \"disabled\": true, \"models\": [ \"gpt-4o\", "
                    "\"a\\u0062\" ], \"expires_at\": \"2999-01-31T12:00:00.250+02:00\"}",
                    &v, &err));
    assert_true(aiq_str_is(v.tenant.text, "acme-2"));
    assert_true(aiq_str_is(v.user.text, "al.ice@x"));
    assert_true(aiq_str_is(v.role.text, "viewer"));
    assert_true(v.off.given && v.off.truth);
    assert_true(aiq_str_is(v.models.text, "[\"gpt-4o\",\"ab\"]"));
    assert_int_equal(v.end.ms, 32474772000250);
}

static void reads_limits(void **state)
{
    values v;
    aiq_err err;

    assert_true(read_fields(*state,
                            "{\"user\":\"a\",\"rates\":{\"tokens_per_minute\": 1000000000, "
                            "\"requests_per_minute\": 1}}",
                            &v, &err));
    assert_true(v.rates.given);
    assert_int_equal(v.rates.requests, 1);
    assert_int_equal(v.rates.tokens, 1000000000);
    assert_true(read_fields(*state, "{\"user\":\"a\",\"rates\":{\"requests_per_minute\":null}}",
                            &v, &err));
    assert_true(v.rates.given);
    assert_int_equal(v.rates.requests, 0);
}

static void null_is_not_given(void **state)
{
    values v;
    aiq_err err;

    assert_true(read_fields(*state, "{\"user\":\"a\",\"models\":null}", &v, &err));
    assert_false(v.models.given);
}

static void says_what_is_wrong(void **state)
{
    static const struct {
        const char *body, *code, *param;
    } cases[] = {
        {"", "invalid_json", ""},
        {"[]", "invalid_json", ""},
        {"{\"user\":\"a\"}x", "invalid_json", ""},
        {"{}", "missing_required_parameter", "user"},
        {"{\"user\":null}", "missing_required_parameter", "user"},
        {"{\"user\":1}", "invalid_type", "user"},
        {"{\"user\":\"\"}", "invalid_value", "user"},
        {"{\"user\":\"a b\"}", "invalid_value", "user"},
        {"{\"user\":\"a\\u0000\"}", "invalid_value", "user"},
        {"{\"user\":\"a\",\"user\":\"b\"}", "invalid_value", "user"},
        {"{\"user\":\"a\",\"tenant\":\"Acme\"}", "invalid_value", "tenant"},
        {"{\"user\":\"a\",\"tenant\":\"-a\"}", "invalid_value", "tenant"},
        {"{\"user\":\"a\",\"tenant\":\"a/b\"}", "invalid_value", "tenant"},
        {"{\"user\":\"a\",\"role\":\"root\"}", "invalid_value", "role"},
        {"{\"user\":\"a\",\"disabled\":1}", "invalid_type", "disabled"},
        {"{\"user\":\"a\",\"models\":\"gpt\"}", "invalid_type", "models"},
        {"{\"user\":\"a\",\"models\":[]}", "invalid_value", "models"},
        {"{\"user\":\"a\",\"models\":[1]}", "invalid_value", "models"},
        {"{\"user\":\"a\",\"models\":[\"\"]}", "invalid_value", "models"},
        {"{\"user\":\"a\",\"expires_at\":\"2001-01-01T00:00:00Z\"}", "invalid_value",
         "expires_at"},
        {"{\"user\":\"a\",\"expires_at\":\"tomorrow\"}", "invalid_value", "expires_at"},
        {"{\"user\":\"a\",\"rates\":[]}", "invalid_type", "rates"},
        {"{\"user\":\"a\",\"rates\":{\"requests\":5}}", "unknown_parameter", "requests"},
        {"{\"user\":\"a\",\"rates\":{\"requests_per_minute\":0}}", "invalid_value",
         "requests_per_minute"},
        {"{\"user\":\"a\",\"rates\":{\"requests_per_minute\":1.5}}", "invalid_value",
         "requests_per_minute"},
        {"{\"user\":\"a\",\"rates\":{\"tokens_per_minute\":1000000001}}", "invalid_value",
         "tokens_per_minute"},
        {"{\"user\":\"a\",\"limits\":{}}", "unknown_parameter", "limits"},
        {"{\"user\":\"a\",\"a\\nb\":{}}", "unknown_parameter", "a\\nb"},
    };
    values v;
    aiq_err err;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(read_fields(*state, cases[i].body, &v, &err));
        assert_int_equal(err.status, 400);
        assert_string_equal(err.code, cases[i].code);
        assert_string_equal(err.param, cases[i].param);
    }
}

static void reads_times(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: wrong */
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2000-02-29T23:59:59.999Z", 951868799999},
        {"2000-02-29T23:59:59.9999999Z", 951868799999},
        {"1970-01-01T02:30:00+02:30", 0},
        {"1969-12-31T23:00:00-01:00", 0},
        {"2001-02-29T00:00:00Z", -1},
        {"2001-13-01T00:00:00Z", -1},
        {"2001-00-01T00:00:00Z", -1},
        {"2001-01-00T00:00:00Z", -1},
        {"2001-01-01T24:00:00Z", -1},
        {"2001-01-01T00:00:00", -1},
        {"2001-01-01", 978307200000},
        {"2001-01-01T", -1},
        {"2001-02-29", -1},
        {"2001-01-01T00:00:00Zx", -1},
        {"", -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t ms = -1;
        bool ok = control_parse_time((aiq_str){cases[i].text, strlen(cases[i].text)}, &ms);
        assert_int_equal(ok, cases[i].ms >= 0);
        assert_true(!ok || ms == cases[i].ms);
    }
}

static void writes_times(void **state)
{
    aiq_buf out = {0};

    (void)state;
    control_add_time(&out, 951868799042);
    assert_true(
        aiq_str_is((aiq_str){(char *)out.data, out.len}, "\"2000-02-29T23:59:59.042Z\""));
    aiq_buf_free(&out);
}

static void reads_amounts(void **state)
{
    static const struct {
        const char *text;
        int64_t amount; /* -1: wrong */
        policy_unit unit;
        policy_period period;
    } cases[] = {
        {"200usd/month", 200000000000, POLICY_USD, POLICY_MONTH},
        {"0.000000001usd/day", 1, POLICY_USD, POLICY_DAY},
        {"1.50usd/day", 1500000000, POLICY_USD, POLICY_DAY},
        {"999999999.999999999usd/day", 999999999999999999, POLICY_USD, POLICY_DAY},
        {"1000000tokens/month", 1000000, POLICY_TOKENS, POLICY_MONTH},
        {"999999999999999tokens/day", 999999999999999, POLICY_TOKENS, POLICY_DAY},
        {"", -1, 0, 0},
        {"usd/day", -1, 0, 0},
        {"0usd/day", -1, 0, 0},
        {"1.usd/day", -1, 0, 0},
        {".5usd/day", -1, 0, 0},
        {"0.0000000001usd/day", -1, 0, 0},
        {"1000000000usd/day", -1, 0, 0},
        {"9999999999999999tokens/day", -1, 0, 0},
        {"999999999999999.999999999usd/day", -1, 0, 0},
        {"999999999999999usd/day", -1, 0, 0},
        {"1.5tokens/day", -1, 0, 0},
        {"1usd/year", -1, 0, 0},
        {"1usd", -1, 0, 0},
        {"1eur/day", -1, 0, 0},
        {"-1usd/day", -1, 0, 0},
        {"1usd/day ", -1, 0, 0},
    };
    char body[128];
    aiq_err err;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        control_value v = {0};
        const control_field field = {"amount", FIELD_AMOUNT, true, &v};
        int n = snprintf(body, sizeof(body), "{\"amount\":\"%s\"}", cases[i].text);
        bool ok = control_fields(*state, (aiq_str){body, (size_t)n}, &field, 1, &err);
        assert_int_equal(ok, cases[i].amount >= 0);
        assert_true(!ok ||
                    (v.budget.amount == cases[i].amount && v.budget.unit == cases[i].unit &&
                     v.budget.period == cases[i].period));
    }
}

static bool read_args(aiq_pool *pool, const char *text, bool usage, control_args *args,
                      aiq_err *err)
{
    *args = (control_args){.limit = 50, .limit_max = 200, .usage = usage};
    return control_read_args(pool, (aiq_str){text, strlen(text)}, args, err);
}

static void refuses_args(aiq_pool *pool, const char *const *wrong, size_t n, bool usage)
{
    control_args args;
    aiq_err err;

    for (size_t i = 0; i < n; i++) {
        assert_false(read_args(pool, wrong[i], usage, &args, &err));
        assert_int_equal(err.status, 400);
        assert_true(err.param[0] != '\0');
    }
}

static void reads_arguments(void **state)
{
    static const char *const wrong[] = {"limit=0",  "limit=201",   "limit=",
                                        "limit=1x", "limit=-1",    "limit=99999999999999999999",
                                        "after=",   "tenant=%2e",  "page=2",
                                        "limit",    "after=a%20b", "group_by=day"};
    control_args args;
    aiq_err err;

    assert_true(read_args(*state, "", false, &args, &err));
    assert_int_equal(args.limit, 50);
    assert_true(read_args(*state, "limit=7&after=key%5F1&tenant=acme", false, &args, &err));
    assert_int_equal(args.limit, 7);
    assert_true(aiq_str_is(args.after, "key_1") && aiq_str_is(args.tenant, "acme"));
    refuses_args(*state, wrong, sizeof(wrong) / sizeof(wrong[0]), false);
}

static void reads_arguments_of_a_sum(void **state)
{
    static const char *const wrong[] = {
        "group_by=",      "group_by=,day", "group_by=city", "group_by=day;user",
        "from=yesterday", "to=2026-02-30", "from=",         "to=2026-11-21T"};
    control_args args;
    aiq_err err;

    assert_true(read_args(*state,
                          "group_by=day%2Cmodel&from=1970-01-02&to=1970-01-01T02:00:00%2B01:00",
                          true, &args, &err));
    assert_int_equal(args.groups, CONTROL_BY_DAY | CONTROL_BY_MODEL);
    assert_int_equal(args.from_ms, 86400000);
    assert_int_equal(args.to_ms, 3600000);
    refuses_args(*state, wrong, sizeof(wrong) / sizeof(wrong[0]), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_every_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(null_is_not_given, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_amounts, setup, teardown),
        cmocka_unit_test(reads_times),
        cmocka_unit_test(writes_times),
        cmocka_unit_test_setup_teardown(reads_arguments, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_arguments_of_a_sum, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

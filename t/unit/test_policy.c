/* A policy document: what is read from it, and which files are refused. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/policy.h"

#define RULES "\"attempts\":5,\"backoff_ms\":6,\"breaker_failures\":7,\"breaker_open_ms\":8,"
#define MODEL "\"policy\":\"order\",\"retry_timeout_ms\":9,"

static const char good[] =
    "{\"aiq\":1,\"epoch\":7,\"providers\":["
    "{\"name\":\"openai\",\"dialect\":\"openai\"," RULES
    "\"url\":\"https://h/v1\",\"keys\":[\"env:K\",\"env:L\"],"
    "\"headers\":[{\"name\":\"X\",\"value\":\"y z\"}],\"query\":\"a=b\","
    "\"connect_ms\":1,\"first_byte_ms\":2,\"idle_ms\":3,\"total_ms\":4,\"check\":"
    "{\"uri\":\"/up\",\"interval_ms\":1,\"timeout_ms\":2,\"fails\":3,\"passes\":4}},"
    "{\"name\":\"local\",\"dialect\":\"local\"," RULES
    "\"models\":[{\"name\":\"demo\",\"path\":\"/d\"}]}],"
    "\"models\":[{\"name\":\"gpt\"," MODEL "\"context_fallback\":\"demo\",\"targets\":["
    "{\"provider\":\"openai\",\"model\":\"gpt-4o\",\"weight\":3,\"input\":2500000000,"
    "\"output\":10000000000,\"condition\":63,\"max_body\":11},"
    "{\"provider\":\"local\",\"model\":\"demo\",\"weight\":1,\"noncritical\":true}]},"
    "{\"name\":\"demo\",\"policy\":\"hash\",\"key\":7,\"hedge_ms\":12,\"retry_timeout_ms\":9,"
    "\"targets\":[{\"provider\":\"local\",\"model\":\"demo\",\"weight\":1}]}],"
    "\"locations\":[{\"service\":\"gateway\",\"max_body\":10,\"cache_ttl_ms\":7,"
    "\"semantic\":{\"threshold\":9000,\"embed\":\"demo\",\"tools\":true},"
    "\"stream_buffer\":65536,\"stream_grace_ms\":10000,\"abort_drain_ms\":5000,"
    "\"budgets\":[{\"scope\":\"user\",\"unit\":\"usd\",\"period\":\"day\",\"amount\":5}],"
    "\"limits\":[{\"zone\":\"z\",\"tokens\":50000,\"window_ms\":60000,\"keys\":2048}],"
    "\"rates\":[{\"zone\":\"r\",\"requests\":20,\"window_ms\":60000,\"grain_ms\":1,"
    "\"burst\":5,\"dry_run\":true}],"
    "\"files\":\"openai\"},{\"service\":\"echo\",\"max_body\":10}]}";

static const aiq_policy *parse(const char *text, aiq_err *err)
{
    memset(err, 0, sizeof(*err));
    return policy_parse(text, strlen(text), err);
}

static void reads_a_document(void **state)
{
    aiq_err err;
    const aiq_policy *p = parse(good, &err);
    const policy_model *m;

    (void)state;
    assert_non_null(p);
    assert_int_equal(p->epoch, 7);
    assert_int_equal(p->n_providers, 2);
    assert_string_equal(p->providers[0].url, "https://h/v1");
    assert_int_equal(p->providers[0].n_keys, 2);
    assert_string_equal(p->providers[0].keys[1], "env:L");
    assert_string_equal(p->providers[0].headers[0].value, "y z");
    assert_string_equal(p->providers[0].query, "a=b");
    assert_null(p->providers[0].proxy);
    assert_int_equal(p->providers[0].attempts, 5);
    assert_int_equal(p->providers[0].breaker_open_ms, 8);
    assert_int_equal(p->providers[0].idle_ms, 3);
    assert_int_equal(p->providers[0].total_ms, 4);
    assert_string_equal(p->providers[0].check.uri, "/up");
    assert_int_equal(p->providers[0].check.fails, 3);
    assert_null(p->providers[1].check.uri);
    assert_string_equal(p->providers[1].models[0].path, "/d");
    assert_int_equal(p->locations[0].max_body, 10);
    assert_int_equal(p->locations[0].cache_ttl_ms, 7);
    assert_int_equal(p->locations[0].semantic->threshold, 9000);
    assert_true(p->locations[0].semantic->tools);
    assert_string_equal(p->locations[0].semantic->embed->name, "demo");
    assert_false(p->locations[0].semantic->temperature);
    assert_null(p->locations[1].semantic);
    assert_int_equal(p->locations[0].stream_buffer, 65536);
    assert_int_equal(p->locations[0].stream_grace_ms, 10000);
    assert_int_equal(p->locations[0].abort_drain_ms, 5000);
    assert_int_equal(p->locations[0].n_budgets, 1);
    assert_int_equal(p->locations[0].budgets[0].scope, POLICY_USER);
    assert_int_equal(p->locations[0].budgets[0].unit, POLICY_USD);
    assert_int_equal(p->locations[0].budgets[0].period, POLICY_DAY);
    assert_int_equal(p->locations[0].budgets[0].amount, 5);
    assert_int_equal(p->locations[0].n_limits, 1);
    assert_string_equal(p->locations[0].limits[0].zone, "z");
    assert_int_equal(p->locations[0].limits[0].tokens, 50000);
    assert_int_equal(p->locations[0].limits[0].window_ms, 60000);
    assert_int_equal(p->locations[0].limits[0].keys, 2048);
    assert_int_equal(p->locations[0].n_rates, 1);
    assert_string_equal(p->locations[0].rates[0].zone, "r");
    assert_int_equal(p->locations[0].rates[0].requests, 20);
    assert_int_equal(p->locations[0].rates[0].window_ms, 60000);
    assert_int_equal(p->locations[0].rates[0].grain_ms, 1);
    assert_int_equal(p->locations[0].rates[0].burst, 5);
    assert_true(p->locations[0].rates[0].dry_run);
    m = p->locations[0].files;
    assert_non_null(m);
    assert_int_equal(m->n_targets, 1);
    assert_ptr_equal(m->targets[0].provider, &p->providers[0]);
    assert_int_equal(m->retry_timeout_ms, 0); /* nothing is asked twice */
    assert_null(p->locations[1].files);

    m = policy_find_model(p, "gpt", 3);
    assert_non_null(m);
    assert_string_equal(m->targets[0].model, "gpt-4o");
    assert_ptr_equal(m->targets[0].provider, &p->providers[0]);
    assert_int_equal(m->targets[0].weight, 3);
    assert_int_equal(m->targets[0].price.output, 10000000000);
    assert_int_equal(m->targets[0].price.cached, 2500000000); /* as input */
    assert_int_equal(m->targets[0].condition, 63);
    assert_int_equal(m->targets[0].max_body, 11);
    assert_int_equal(m->targets[1].condition, -1);
    assert_int_equal(m->targets[1].max_body, 0);
    assert_int_equal(m->context_fallback->order, POLICY_HASH);
    assert_int_equal(m->context_fallback->key, 7);
    assert_int_equal(m->context_fallback->hedge_ms, 12);
    assert_int_equal(m->hedge_ms, 0);
    assert_false(m->targets[0].noncritical);
    assert_true(m->targets[1].noncritical);
    assert_int_equal(m->targets[1].price.input, -1); /* not known */
    assert_int_equal(m->order, POLICY_ORDER);
    assert_int_equal(m->retry_timeout_ms, 9);
    assert_ptr_equal(m->context_fallback, policy_find_model(p, "demo", 4));
    assert_null(m->content_fallback);
    policy_unref(p);
}

static void finds_models_by_their_whole_name(void **state)
{
    aiq_err err;
    const aiq_policy *p = parse(good, &err);

    (void)state;
    assert_null(policy_find_model(p, "gp", 2));
    assert_null(policy_find_model(p, "gpt4", 4));
    assert_null(policy_find_model(p, "gpt\0x", 5));
    assert_null(policy_find_model(p, "", 0));
    assert_non_null(policy_find_model(p, "demo-and-more", 4));
    policy_unref(p);
}

/* Each edit of the good document must be refused. */
static void refuses_broken_documents(void **state)
{
    static const struct {
        const char *from, *to;
    } edits[] = {
        {"\"aiq\":1", "\"aiq\":2"},
        {"\"epoch\":7", "\"epoch\":\"7\""},
        {"\"epoch\":7", "\"epoch\":7,\"epoch\":8"},
        {"\"url\":\"https://h/v1\",", ""},
        {"\"idle_ms\":3", "\"idle_ms\":0"},
        {",\"total_ms\":4", ""},
        {"\"uri\":\"/up\",", ""},
        {"\"/up\"", "\"/up\\r\\n\""},
        {"\"fails\":3", "\"fails\":0"},
        {"\"name\":\"gpt\"", "\"name\":\"demo\""},
        {"\"provider\":\"local\"", "\"provider\":\"none\""},
        {"{\"provider\":\"local\",\"model\":\"demo\",\"weight\":1}", ""},
        {"\"weight\":3", "\"weight\":0"},
        {"\"input\":2500000000", "\"input\":-1"},
        {"\"output\":10000000000", "\"output\":1.5"},
        {"\"noncritical\":true", "\"noncritical\":1"},
        {"\"policy\":\"order\"", "\"policy\":\"best\""},
        {"\"policy\":\"order\"", "\"policy\":\"hash\""},
        {"\"policy\":\"hash\"", "\"policy\":\"cost\""},
        {"\"key\":7", "\"key\":8"},
        {"\"hedge_ms\":12", "\"hedge_ms\":0"},
        {"\"condition\":63", "\"condition\":64"},
        {"\"condition\":63", "\"condition\":-1"},
        {"\"max_body\":11", "\"max_body\":0"},
        {"\"max_body\":11", "\"max_body\":\"1k\""},
        {"\"context_fallback\":\"demo\"", "\"context_fallback\":\"none\""},
        {"\"attempts\":5", "\"attempts\":0"},
        {"\"breaker_open_ms\":8", "\"breaker_open_ms\":-8"},
        {"\"y z\"", "\"y\\r\\nz\""},
        {"\"max_body\":10", "\"max_body\":-1"},
        {"\"cache_ttl_ms\":7", "\"cache_ttl_ms\":0"},
        {"\"cache_ttl_ms\":7", "\"cache_ttl_ms\":\"1h\""},
        {"\"threshold\":9000", "\"threshold\":10001"},
        {"\"threshold\":9000,", ""},
        {"\"tools\":true", "\"tools\":1"},
        {"\"embed\":\"demo\"", "\"embed\":\"none\""},
        {"\"embed\":\"demo\"", "\"embed\":\"gpt-4o\""},
        {"\"stream_buffer\":65536", "\"stream_buffer\":67108865"},
        {"\"stream_grace_ms\":10000", "\"stream_grace_ms\":-1"},
        {"\"abort_drain_ms\":5000", "\"abort_drain_ms\":86400001"},
        {"\"locations\":[", "\"locations\":7,\"x\":["},
        {"\"env:K\"", "\"\""},
        {"\"scope\":\"user\"", "\"scope\":\"users\""},
        {"\"unit\":\"usd\"", "\"unit\":7"},
        {"\"period\":\"day\",", ""},
        {"\"amount\":5", "\"amount\":0"},
        {"\"budgets\":[", "\"budgets\":[{},{},{},{},{},"},
        {"\"zone\":\"z\",", ""},
        {"\"tokens\":50000", "\"tokens\":0"},
        {"\"tokens\":50000", "\"tokens\":9223372036854775807"},
        {"\"window_ms\":60000", "\"window_ms\":999"},
        {"\"window_ms\":60000", "\"window_ms\":86400001"},
        {"\"keys\":2048", "\"keys\":0"},
        {"\"limits\":[", "\"limits\":[{},{},{},{},"},
        {"\"rates\":[", "\"rates\":[{},{},{},{},{},{},{},{},"},
        {"\"requests\":20", "\"requests\":0"},
        {"\"grain_ms\":1", "\"grain_ms\":60001"},
        {"\"burst\":5", "\"burst\":-1"},
        {"\"dry_run\":true", "\"dry_run\":1"},
        {"\"files\":\"openai\"", "\"files\":\"nobody\""},
        {"\"files\":\"openai\"", "\"files\":7"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        const char *at = strstr(good, edits[i].from);
        char text[4096];
        aiq_err err;

        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, edits[i].to,
                 at + strlen(edits[i].from));
        assert_null(parse(text, &err));
        assert_true(err.message[0] != '\0');
    }
}

/* A folder with the good document under its right name. */
typedef struct {
    char folder[64], file[160];
    uint8_t sha256[32];
} folder;

static void folder_make(folder *f)
{
    aiq_err err;
    const aiq_policy *p = parse(good, &err);
    FILE *out;
    size_t n;

    strcpy(f->folder, "/tmp/aiq-policy-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    chmod(f->folder, 0755);
    memcpy(f->sha256, p->sha256, 32);
    policy_unref(p);
    n = (size_t)snprintf(f->file, sizeof(f->file), "%s/", f->folder);
    for (int i = 0; i < 32; i++) {
        n += (size_t)snprintf(f->file + n, sizeof(f->file) - n, "%02x", f->sha256[i]);
    }
    strcat(f->file, ".json");
    out = fopen(f->file, "w");
    fputs(good, out);
    fclose(out);
    chmod(f->file, 0644);
}

static void folder_remove(folder *f)
{
    unlink(f->file);
    rmdir(f->folder);
}

static const uid_t stranger = 4711;

static void shares_one_copy(void **state)
{
    folder f;
    policy_set *set;
    const aiq_policy *a, *b;
    aiq_err err;

    (void)state;
    folder_make(&f);
    set = policy_set_new(f.folder);
    a = policy_get(set, f.sha256, stranger, &err);
    b = policy_get(set, f.sha256, stranger, &err);
    assert_non_null(a);
    assert_ptr_equal(a, b);
    policy_unref(a);
    policy_unref(b);
    policy_set_free(set);
    folder_remove(&f);
}

static void expect_refusal(folder *f, uid_t peer, const char *code)
{
    policy_set *set = policy_set_new(f->folder);
    aiq_err err = {0};

    assert_null(policy_get(set, f->sha256, peer, &err));
    assert_string_equal(err.code, code);
    policy_set_free(set);
}

static void refuses_what_the_worker_could_have_written(void **state)
{
    folder f;

    (void)state;
    folder_make(&f);
    chmod(f.file, 0666);
    expect_refusal(&f, stranger, "policy_unsafe");
    chmod(f.file, 0664);
    expect_refusal(&f, stranger, "policy_unsafe");
    chmod(f.file, 0644);
    chmod(f.folder, 0777);
    expect_refusal(&f, stranger, "policy_unsafe");
    chmod(f.folder, 0755);
    if (geteuid() == 0) {
        assert_int_equal(chown(f.file, stranger, (gid_t)-1), 0);
        expect_refusal(&f, stranger, "policy_unsafe");
    }
    folder_remove(&f);
}

static void asks_again_for_another_user(void **state)
{
    folder f;
    aiq_err err;

    (void)state;
    folder_make(&f);
    chmod(f.file, 0666);
    policy_set *set = policy_set_new(f.folder);
    const aiq_policy *own = policy_get(set, f.sha256, geteuid(), &err);
    assert_non_null(own);
    assert_null(policy_get(set, f.sha256, stranger, &err));
    assert_string_equal(err.code, "policy_unsafe");
    policy_unref(own);
    policy_set_free(set);
    folder_remove(&f);
}

static void refuses_links_and_other_files(void **state)
{
    folder f;
    char other[200];

    (void)state;
    folder_make(&f);
    snprintf(other, sizeof(other), "%s/other", f.folder);
    assert_int_equal(rename(f.file, other), 0);
    expect_refusal(&f, stranger, "policy_missing");
    assert_int_equal(symlink(other, f.file), 0);
    expect_refusal(&f, stranger, "policy_missing");
    unlink(f.file);
    assert_int_equal(mkfifo(f.file, 0644), 0);
    expect_refusal(&f, stranger, "policy_unsafe");
    unlink(f.file);
    assert_int_equal(rename(other, f.file), 0);
    f.sha256[0] ^= 1;
    expect_refusal(&f, stranger, "policy_missing");
    f.sha256[0] ^= 1;
    FILE *out = fopen(f.file, "a");
    fputs(" ", out);
    fclose(out);
    expect_refusal(&f, stranger, "policy_invalid");
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_document),
        cmocka_unit_test(finds_models_by_their_whole_name),
        cmocka_unit_test(refuses_broken_documents),
        cmocka_unit_test(shares_one_copy),
        cmocka_unit_test(refuses_what_the_worker_could_have_written),
        cmocka_unit_test(asks_again_for_another_user),
        cmocka_unit_test(refuses_links_and_other_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

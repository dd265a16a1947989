/* Which target comes next, with a clock and draws of the test's own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/metrics.h"
#include "services/gateway/targets.h"

#define SECOND 1000000000ull
#define NOW    (1000 * SECOND)

/* Three targets a, b and c of one model; `more` of the model and of each target. */
typedef struct {
    aiq_engine engine;
    targets *targets;
    const aiq_policy *policy;
    target_question q;
} fixture;

static const aiq_policy *parse(const char *order, const char *const more[3], uint64_t epoch,
                               unsigned open_ms)
{
    char text[4096];
    aiq_err err;

    int n = snprintf(text, sizeof(text), "{\"aiq\":1,\"epoch\":%llu,\"providers\":[",
                     (unsigned long long)epoch);
    for (int i = 0; i < 3; i++) {
        n +=
            snprintf(text + n, sizeof(text) - (size_t)n,
                     "%s{\"name\":\"%c\",\"dialect\":\"openai\",\"attempts\":1,"
                     "\"backoff_ms\":1,\"breaker_failures\":1,\"breaker_open_ms\":%u,"
                     "\"url\":\"http://h\",\"keys\":[%s],\"headers\":[],\"connect_ms\":1,"
                     "\"first_byte_ms\":1,\"idle_ms\":1,\"total_ms\":1}",
                     i ? "," : "", 'a' + i, open_ms, i == 2 ? "" : "\"env:PATH\",\"env:HOME\"");
    }
    n += snprintf(text + n, sizeof(text) - (size_t)n,
                  "],\"models\":[{\"name\":\"m\",\"policy\":\"%s\",\"retry_timeout_ms\":1,%s"
                  "\"targets\":[",
                  order, strcmp(order, "hash") == 0 ? "\"key\":0," : "");
    for (int i = 0; i < 3; i++) {
        n += snprintf(text + n, sizeof(text) - (size_t)n,
                      "%s{\"provider\":\"%c\",\"model\":\"x\",\"weight\":%d%s}", i ? "," : "",
                      'a' + i, i + 1, more[i]);
    }
    snprintf(text + n, sizeof(text) - (size_t)n, "]}],\"locations\":[]}");
    const aiq_policy *policy = policy_parse(text, strlen(text), &err);
    assert_non_null(policy);
    return policy;
}

static void begin(fixture *f, const char *order, const char *a, const char *b, const char *c)
{
    *f = (fixture){0};
    f->engine.metrics = metrics_new();
    f->targets = targets_new(&f->engine);
    f->policy = parse(order, (const char *[]){a, b, c}, 1, 30000);
    targets_add(f->targets, f->policy);
    f->q = (target_question){.model = f->policy->models, .now_ns = NOW};
}

static void end(fixture *f)
{
    targets_remove(f->targets, f->policy);
    policy_unref(f->policy);
    targets_free(f->targets);
    metrics_free(f->engine.metrics);
}

static target_state *state(fixture *f, int i)
{
    return target_of(&f->policy->models[0].targets[i]);
}

static void in_the_written_order(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "order", "", "", "");
    assert_int_equal(target_pick(&f.q), 0);
    f.q.excluded = 1;
    assert_int_equal(target_pick(&f.q), 1);
    f.q.excluded = 7;
    assert_int_equal(target_pick(&f.q), -1);
    end(&f);
}

static void not_where_the_breaker_is_open(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "order", "", "", "");
    breaker_failure(&state(&f, 0)->breaker, false, NOW);
    assert_int_equal(target_pick(&f.q), 1);
    f.q.now_ns = NOW + 30 * SECOND;
    assert_int_equal(target_pick(&f.q), 0); /* to be tested */
    assert_int_equal(breaker_admit(&state(&f, 0)->breaker, f.q.now_ns), BREAKER_TEST);
    assert_int_equal(target_pick(&f.q), 1);
    end(&f);
}

static void says_when_to_come_back(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "order", "", "", "");
    for (int i = 0; i < 3; i++) {
        breaker_failure(&state(&f, i)->breaker, false, NOW + (uint64_t)i * SECOND);
    }
    assert_int_equal(target_pick(&f.q), -1);
    assert_int_equal(target_wait(f.q.model, NOW), 30);
    assert_int_equal(target_wait(f.q.model, NOW + SECOND / 2), 30);
    assert_int_equal(target_wait(f.q.model, NOW + 29 * SECOND), 1);
    assert_int_equal(target_wait(f.q.model, NOW + 60 * SECOND), 1);
    end(&f);
}

static void a_backup_last(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "order", ",\"backup\":true", "", "");
    assert_int_equal(target_pick(&f.q), 1);
    f.q.excluded = 6;
    assert_int_equal(target_pick(&f.q), 0);
    end(&f);
}

static void resting_keys_after_all_others(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "order", "", "", ",\"backup\":true");
    const policy_provider *a = f.policy->models[0].targets[0].provider;
    target_rest_key(a, 0, NOW + SECOND);
    assert_int_equal(target_pick(&f.q), 0);
    assert_int_equal(target_key(a, 0, true, NOW), 1);
    assert_int_equal(target_key(a, 2, false, NOW), -1);
    assert_int_equal(target_key(a, 2, true, NOW), 0);
    target_rest_key(a, 1, NOW + SECOND);
    assert_int_equal(target_pick(&f.q), 1);
    f.q.excluded = 2;
    assert_int_equal(target_pick(&f.q), 2); /* the backup before one whose keys rest */
    f.q.excluded = 6;
    assert_int_equal(target_pick(&f.q), 0); /* for there is nobody else */
    f.q = (target_question){.model = f.q.model, .now_ns = NOW + SECOND};
    assert_int_equal(target_pick(&f.q), 0);
    end(&f);
}

static void by_weight(void **unused)
{
    fixture f;
    int by[3] = {0};

    (void)unused;
    begin(&f, "weight", "", "", "");
    for (f.q.random = 0; f.q.random < 600; f.q.random++) {
        by[target_pick(&f.q)]++;
    }
    assert_int_equal(by[0], 100);
    assert_int_equal(by[1], 200);
    assert_int_equal(by[2], 300);
    f.q.excluded = 2;
    f.q.random = 1;
    assert_int_equal(target_pick(&f.q), 2);
    end(&f);
}

static void by_cost(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "cost", ",\"input\":5,\"output\":5", ",\"input\":1,\"output\":8",
          ",\"input\":8,\"output\":1");
    assert_int_equal(target_pick(&f.q), 1); /* 9 each: the first of them */
    f.q.excluded = 6;
    assert_int_equal(target_pick(&f.q), 0);
    end(&f);
}

static void by_hash_as_weighted(void **unused)
{
    fixture f;
    int by[3] = {0};

    (void)unused;
    begin(&f, "hash", "", "", "");
    for (f.q.hash = 0; f.q.hash < 6000; f.q.hash++) {
        by[target_pick(&f.q)]++;
        f.q.random++; /* has no say */
    }
    assert_in_range(by[0], 900, 1100);
    assert_in_range(by[1], 1850, 2150);
    assert_in_range(by[2], 2850, 3150);
    end(&f);
}

static void only_what_was_on_a_target_moves_with_it(void **unused)
{
    fixture f;
    int moved[3] = {0};

    (void)unused;
    begin(&f, "hash", "", "", "");
    for (f.q.hash = 0; f.q.hash < 600; f.q.hash++) {
        f.q.excluded = 0;
        int before = target_pick(&f.q);
        f.q.excluded = 4;
        int after = target_pick(&f.q);
        assert_true(after != 2 && (before == 2 || before == after));
        moved[after] += before == 2;
    }
    assert_true(moved[0] > 0 && moved[1] > 0); /* to all others */
    end(&f);
}

static void by_latency_the_better_of_two(void **unused)
{
    fixture f;
    int by[3] = {0};

    (void)unused;
    begin(&f, "latency", "", "", "");
    target_measured(state(&f, 0), 300, NOW);
    target_measured(state(&f, 1), 200, NOW);
    target_measured(state(&f, 2), 100, NOW);
    for (f.q.random = 0; f.q.random < 600; f.q.random++) {
        by[target_pick(&f.q)]++;
    }
    assert_int_equal(by[0], 0); /* never the better one */
    assert_int_equal(by[1], 200);
    assert_int_equal(by[2], 400);
    state(&f, 2)->in_flight = 3; /* busy: 400 */
    by[0] = by[1] = by[2] = 0;
    for (f.q.random = 0; f.q.random < 600; f.q.random++) {
        by[target_pick(&f.q)]++;
    }
    assert_int_equal(by[1], 400);
    assert_int_equal(by[2], 0);
    state(&f, 2)->in_flight = 0;
    end(&f);
}

static void old_latencies_fade(void **unused)
{
    fixture f;

    (void)unused;
    begin(&f, "latency", "", "", "");
    target_measured(state(&f, 0), 800, NOW);
    assert_int_equal(target_latency(state(&f, 0), NOW + 9 * SECOND), 800);
    assert_int_equal(target_latency(state(&f, 0), NOW + 20 * SECOND), 200);
    assert_int_equal(target_latency(state(&f, 0), NOW + 1000 * SECOND), 0);
    target_measured(state(&f, 0), 0, NOW);
    assert_int_equal(target_latency(state(&f, 0), NOW), 700); /* an eighth of the way */
    /* that nothing came for so long is no better than what is known */
    target_waited(state(&f, 0), 100, NOW);
    assert_int_equal(target_latency(state(&f, 0), NOW), 700);
    target_waited(state(&f, 0), 1500, NOW);
    assert_int_equal(target_latency(state(&f, 0), NOW), 800);
    /* and brings back what was forgotten, if that was too good */
    target_waited(state(&f, 0), 300, NOW + 10 * SECOND);
    assert_int_equal(target_latency(state(&f, 0), NOW + 10 * SECOND), 400);
    target_waited(state(&f, 0), 500, NOW + 10 * SECOND);
    assert_int_equal(target_latency(state(&f, 0), NOW + 10 * SECOND), 800);
    /* nothing was known */
    target_waited(state(&f, 1), 5, NOW);
    assert_int_equal(target_latency(state(&f, 1), NOW), 5);
    end(&f);
}

static void a_new_policy_finds_the_old_state(void **unused)
{
    static const char *const none[3] = {"", "", ""};
    fixture f;

    (void)unused;
    begin(&f, "order", "", "", "");
    breaker_failure(&state(&f, 0)->breaker, false, NOW);
    const aiq_policy *newer = parse("order", none, 2, 1000);
    targets_add(f.targets, newer);
    assert_ptr_equal(target_of(&newer->models[0].targets[0]), state(&f, 0));
    assert_int_equal(target_wait(f.q.model, NOW), 1); /* b and c are well */
    f.q.excluded = 6;
    f.q.now_ns = NOW + SECOND; /* by the parameters of the highest epoch */
    assert_int_equal(target_pick(&f.q), 0);
    const aiq_policy *older = parse("order", none, 0, 30000);
    targets_add(f.targets, older);
    assert_int_equal(target_pick(&f.q), 0);
    targets_remove(f.targets, older);
    targets_remove(f.targets, newer);
    policy_unref(older);
    policy_unref(newer);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_the_written_order),
        cmocka_unit_test(not_where_the_breaker_is_open),
        cmocka_unit_test(says_when_to_come_back),
        cmocka_unit_test(a_backup_last),
        cmocka_unit_test(resting_keys_after_all_others),
        cmocka_unit_test(by_weight),
        cmocka_unit_test(by_cost),
        cmocka_unit_test(by_hash_as_weighted),
        cmocka_unit_test(only_what_was_on_a_target_moves_with_it),
        cmocka_unit_test(by_latency_the_better_of_two),
        cmocka_unit_test(old_latencies_fade),
        cmocka_unit_test(a_new_policy_finds_the_old_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

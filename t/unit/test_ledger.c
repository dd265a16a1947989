/* The ledger on a real store: what is billed, what is refused, what a kill leaves. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "ledger/ledger.h"
#include "engine.h"
#include "store/store.h"

static char folder[64], url[96], journals[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/aiq-ledger-XXXXXX");
    snprintf(url, sizeof(url), "sqlite:%s/db", mkdtemp(folder));
    snprintf(journals, sizeof(journals), "%s/journal", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

/* An engine with one loop and no thread of its own. */
typedef struct {
    aiq_engine engine;
    aiq_loop loop;
    ledger *l;
} bench;

static void start(bench *b, uint64_t id)
{
    aiq_err err;

    *b = (bench){.engine = {.metrics = metrics_new(), .options = {.loops = 1}, .id = id}};
    b->engine.loops = &b->loop;
    assert_true(loop_init(&b->loop, &b->engine, 0, &err));
    b->engine.store = store_open(&b->engine, url, &err);
    assert_non_null(b->engine.store);
    b->l = ledger_open(&b->engine, journals, &err);
    assert_non_null(b->l);
}

static void stop(bench *b)
{
    ledger_stop(b->l);
    store_stop(b->engine.store);
    loop_flush(&b->loop);
    loop_free(&b->loop);
    ledger_close(b->l);
    store_close(b->engine.store);
    metrics_free(b->engine.metrics);
}

/* The first number that a statement answers. */
static int64_t ask(const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *s;

    assert_int_equal(sqlite3_open(url + strlen("sqlite:"), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

/* Turns the loop until *n is `expected`, or 20 s have gone. */
static void turn_until(bench *b, const unsigned *n, unsigned expected)
{
    uint64_t end = loop_now_ns() + 20000000000u;

    while (*n < expected) {
        assert_true(loop_now_ns() < end);
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

static void turn_until_stored(bench *b, int64_t events)
{
    uint64_t end = loop_now_ns() + 20000000000u;

    while (ask("SELECT COUNT(*) FROM usage_events") < events) {
        assert_true(loop_now_ns() < end);
        uv_run(&b->loop.uv, UV_RUN_ONCE);
    }
}

/* A call of the tests: the answer, and how often it came. */
typedef struct {
    ledger_call call;
    aiq_err err;
    bool refused;
} test_call;

static unsigned answered;

static void ready(ledger_call *call, const aiq_err *refused)
{
    test_call *c = (test_call *)call;

    answered++;
    c->refused = refused != NULL;
    if (refused) {
        c->err = *refused;
    }
}

static const policy_budget tenant_usd = {POLICY_TENANT, POLICY_USD, POLICY_MONTH, 1000};
static const policy_budget both[] = {{POLICY_TENANT, POLICY_USD, POLICY_MONTH, 1000},
                                     {POLICY_USER, POLICY_TOKENS, POLICY_DAY, 50}};

static ledger_answer begin(bench *b, test_call *c, const char *tenant, const char *user,
                           int64_t nano, const policy_budget *budgets, size_t n)
{
    const ledger_order order = {
        .tenant = {tenant, strlen(tenant)},
        .user = {user, strlen(user)},
        .key_id = AIQ_STR(""),
        .request_id = AIQ_STR("req_1"),
        .model = "m",
        .most = {.input = 10, .output = 10, .nano_usd = nano},
        .budgets = budgets,
        .n_budgets = n,
    };

    *c = (test_call){.refused = false};
    return ledger_begin(b->l, &c->call, &order, &b->loop, ready, &c->err);
}

/* Begins a call, whether at once or after an answer; true where it may go on. */
static bool may_begin(bench *b, test_call *c, const char *tenant, const char *user,
                      int64_t nano, const policy_budget *budgets, size_t n)
{
    unsigned before = answered;

    switch (begin(b, c, tenant, user, nano, budgets, n)) {
    case LEDGER_BEGUN:
        return true;
    case LEDGER_WAITS:
        turn_until(b, &answered, before + 1);
        return !c->refused;
    default:
        return false;
    }
}

static void settle(bench *b, test_call *c, int64_t nano)
{
    const ledger_result result = {
        .status = 200,
        .provider = "p",
        .target = "t",
        .used = {.input = 7, .cached = 2, .output = 3, .reasoning = 1, .nano_usd = nano},
        .duration_us = 5,
        .first_token_us = 4,
    };

    ledger_settle(b->l, &c->call, &result);
}

static void money_has_nine_decimals(void **state)
{
    char text[LEDGER_USD_SIZE];

    (void)state;
    assert_int_equal(ledger_write_usd(text, 7), 11);
    assert_memory_equal(text, "0.000000007", 11);
    assert_int_equal(ledger_write_usd(text, 12000903000), 12);
    assert_memory_equal(text, "12.000903000", 12);
    assert_int_equal(ledger_write_usd(text, INT64_MAX), 20);
    assert_memory_equal(text, "9223372036.854775807", 20);
}

static void a_call_without_a_budget_is_an_event(void **state)
{
    test_call c;
    bench b;

    (void)state;
    start(&b, 1);
    assert_int_equal(begin(&b, &c, "acme", "", 100, NULL, 0), LEDGER_BEGUN);
    settle(&b, &c, 42);
    turn_until_stored(&b, 1);
    assert_int_equal(ask("SELECT cost_nano_usd FROM usage_events WHERE tenant = 'acme' AND "
                         "tokens_in = 7 AND tokens_cached = 2 AND tokens_out = 3 AND "
                         "tokens_reasoning = 1 AND status = 200 AND estimated = 0"),
                     42);
    stop(&b);
}

static void the_account_is_the_sum_of_the_events(void **state)
{
    test_call c;
    bench b;

    (void)state;
    start(&b, 1);
    for (int i = 1; i <= 10; i++) {
        assert_true(may_begin(&b, &c, "acme", "bob", 90, both, 1));
        settle(&b, &c, i);
    }
    assert_true(may_begin(&b, &c, "other", "bob", 90, both, 1));
    settle(&b, &c, 1000);
    stop(&b); /* which stores the rest */
    assert_int_equal(ask("SELECT COUNT(*) FROM usage_events"), 11);
    assert_int_equal(ask("SELECT spent FROM budget_accounts WHERE id LIKE 'tenant/acme/usd/%'"),
                     55);
    assert_int_equal(ask("SELECT SUM(spent) FROM budget_accounts"),
                     ask("SELECT SUM(cost_nano_usd) FROM usage_events"));
}

static void what_does_not_fit_is_refused(void **state)
{
    test_call c;
    bench b;

    (void)state;
    start(&b, 1);
    assert_false(may_begin(&b, &c, "acme", "", 1001, &tenant_usd, 1));
    assert_int_equal(c.err.status, 402);
    assert_string_equal(c.err.code, "budget_exceeded");
    assert_false(c.err.retryable);
    assert_true(may_begin(&b, &c, "acme", "", 1000, &tenant_usd, 1));
    settle(&b, &c, 1000);
    assert_false(may_begin(&b, &c, "acme", "", 1, &tenant_usd, 1));
    assert_int_equal(c.err.status, 402);
    assert_true(may_begin(&b, &c, "another", "", 1, &tenant_usd, 1));
    settle(&b, &c, 1);
    stop(&b);
    assert_int_equal(ask("SELECT COUNT(*) FROM usage_events"), 2);
}

static void the_tightest_of_several_decides(void **state)
{
    test_call c[3];
    bench b;

    (void)state;
    start(&b, 1);
    /* 20 tokens each, of 50 for bob */
    assert_true(may_begin(&b, &c[0], "acme", "bob", 1, both, 2));
    settle(&b, &c[0], 1); /* 10 used */
    assert_true(may_begin(&b, &c[0], "acme", "bob", 1, both, 2));
    assert_true(may_begin(&b, &c[1], "acme", "bob", 1, both, 2));
    assert_int_equal(begin(&b, &c[2], "acme", "bob", 1, both, 2), LEDGER_WAITS);
    ledger_drop(b.l, &c[2].call);
    assert_true(may_begin(&b, &c[2], "acme", "eve", 1, both, 2));
    settle(&b, &c[2], 1);
    settle(&b, &c[0], 1);
    settle(&b, &c[1], 1);
    stop(&b);
}

/* 100 calls of 10 fit into 1,000; each turns out to use all it could. */
static void as_many_as_are_paid_for(void **state)
{
    static test_call calls[1000];
    unsigned begun = 0, waits = 0, refused = 0;
    bench b;

    (void)state;
    start(&b, 1);
    answered = 0;
    for (int i = 0; i < 1000; i++) {
        switch (begin(&b, &calls[i], "acme", "", 10, &tenant_usd, 1)) {
        case LEDGER_WAITS:
            waits++;
            break;
        case LEDGER_BEGUN:
            begun++;
            settle(&b, &calls[i], 10);
            break;
        default:
            refused++;
        }
    }
    /* those that may begin do, and end; then the others know */
    uint64_t end = loop_now_ns() + 20000000000u;
    unsigned settled = begun;
    while (answered < waits) {
        assert_true(loop_now_ns() < end);
        uv_run(&b.loop.uv, UV_RUN_ONCE);
        for (int i = 0; i < 1000; i++) {
            if (calls[i].call.entry && calls[i].call.state == 3) {
                settle(&b, &calls[i], 10);
                settled++;
            }
        }
    }
    assert_int_equal(settled, 100);
    for (int i = 0; i < 1000; i++) {
        refused += calls[i].refused;
        assert_true(!calls[i].refused || calls[i].err.status == 402);
    }
    assert_int_equal(refused, 900);
    stop(&b);
    assert_int_equal(ask("SELECT COUNT(*) FROM usage_events"), 100);
    assert_int_equal(ask("SELECT spent FROM budget_accounts"), 1000);
}

static void a_dropped_call_has_used_nothing(void **state)
{
    test_call c[2];
    bench b;

    (void)state;
    start(&b, 1);
    assert_true(may_begin(&b, &c[0], "acme", "", 1000, &tenant_usd, 1));
    assert_int_equal(begin(&b, &c[1], "acme", "", 1000, &tenant_usd, 1), LEDGER_WAITS);
    ledger_drop(b.l, &c[1].call); /* while it waits */
    ledger_drop(b.l, &c[0].call); /* and while it holds */
    assert_true(may_begin(&b, &c[0], "acme", "", 1000, &tenant_usd, 1));
    assert_int_equal(begin(&b, &c[1], "acme", "", 1000, &tenant_usd, 1), LEDGER_WAITS);
    settle(&b, &c[0], 0);         /* makes the other ready */
    ledger_drop(b.l, &c[1].call); /* before it hears of it */
    assert_true(may_begin(&b, &c[0], "acme", "", 1000, &tenant_usd, 1));
    settle(&b, &c[0], 0);
    stop(&b);
    assert_int_equal(ask("SELECT COUNT(*) FROM usage_events"), 2);
}

static void what_a_killed_engine_left_is_billed(void **state)
{
    bench b;
    int status;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        test_call c[3];
        start(&b, 1);
        for (int i = 0; i < 3; i++) {
            if (!may_begin(&b, &c[i], "acme", "", 100, &tenant_usd, 1)) {
                _exit(1);
            }
        }
        settle(&b, &c[0], 30);
        turn_until_stored(&b, 1);
        settle(&b, &c[1], 20); /* not stored; and the third is under way */
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(ask("SELECT SUM(spent) FROM budget_accounts"), 30);

    start(&b, 2);
    turn_until_stored(&b, 3);
    assert_int_equal(ask("SELECT SUM(cost_nano_usd) FROM usage_events"), 30 + 20 + 100);
    assert_int_equal(ask("SELECT cost_nano_usd FROM usage_events WHERE estimated = 1"), 100);
    assert_int_equal(ask("SELECT SUM(spent) FROM budget_accounts"), 150);
    assert_int_equal(ask("SELECT COUNT(*) FROM budget_leases"), 0);
    test_call c;
    assert_false(may_begin(&b, &c, "acme", "", 851, &tenant_usd, 1));
    assert_true(may_begin(&b, &c, "acme", "", 850, &tenant_usd, 1));
    settle(&b, &c, 850);
    stop(&b);
    assert_null(journal_find_dead(journals));
}

static void the_lease_of_a_dead_engine_ends(void **state)
{
    test_call c;
    bench b;

    (void)state;
    start(&b, 1);
    stop(&b);
    /* an engine elsewhere that has gone: a lease, and no journal here */
    budget_span span = budget_span_at(POLICY_MONTH, aiq_now_ms());
    aiq_buf id = {0};
    budget_account_id(&id, POLICY_TENANT, AIQ_STR("acme"), AIQ_STR(""), POLICY_USD,
                      POLICY_MONTH, span.starts_ms);
    char sql[256];
    snprintf(sql, sizeof(sql),
             "INSERT INTO budget_leases VALUES ('%.*s', 'gone', 600, %lld) RETURNING 1",
             (int)id.len, (char *)id.data, (long long)aiq_now_ms() + 2000);
    aiq_buf_free(&id);
    assert_int_equal(ask(sql), 1);
    start(&b, 2);
    assert_true(may_begin(&b, &c, "acme", "", 400, &tenant_usd, 1));
    settle(&b, &c, 0);
    /* waits, and gets it when the lease has run out */
    assert_true(may_begin(&b, &c, "acme", "", 401, &tenant_usd, 1));
    settle(&b, &c, 0);
    stop(&b);
}

static void answers_from_the_cache_do_not_crowd_out_calls(void **state)
{
    const ledger_order order = {.tenant = AIQ_STR("acme"), .model = "m"};
    const ledger_result result = {.status = 200, .provider = "cache", .target = ""};
    aiq_buf text = {0};
    test_call c;
    bench b;

    (void)state;
    start(&b, 1);
    assert_true(may_begin(&b, &c, "acme", "", 400, &tenant_usd, 1));
    settle(&b, &c, 100);
    for (unsigned i = 0; i < LEDGER_BEHIND + 4; i++) {
        ledger_note(b.l, &order, &result);
    }
    metrics_render(b.engine.metrics, &text);
    aiq_buf_add(&text, "", 1);
    assert_non_null(strstr((const char *)text.data, "\naiq_usage_let_go_total 5\n"));
    aiq_buf_free(&text);
    stop(&b);
    assert_int_equal(ask("SELECT COUNT(*) FROM usage_events WHERE provider = 'cache' AND "
                         "cost_nano_usd = 0 AND tokens_in = 0"),
                     LEDGER_BEHIND - 1);
    assert_int_equal(ask("SELECT SUM(spent) FROM budget_accounts"), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(money_has_nine_decimals),
        cmocka_unit_test_setup_teardown(a_call_without_a_budget_is_an_event, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(the_account_is_the_sum_of_the_events, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(the_tightest_of_several_decides, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(as_many_as_are_paid_for, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_dropped_call_has_used_nothing, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(what_a_killed_engine_left_is_billed, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(the_lease_of_a_dead_engine_ends, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(answers_from_the_cache_do_not_crowd_out_calls,
                                        make_folder, remove_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

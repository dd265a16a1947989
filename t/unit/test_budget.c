/* Budgets: periods, names, and that no sum of promises exceeds what there is. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ledger/budget.h"

static void periods_are_utc(void **state)
{
    /* 2026-11-21T06:07:00Z, 2024-02-29T23:59:59.999Z, 2026-12-31T00:00:00Z */
    static const struct {
        policy_period period;
        int64_t now, starts, ends;
    } cases[] = {
        {POLICY_DAY, 1795241220000, 1795219200000, 1795305600000},
        {POLICY_MONTH, 1795241220000, 1793491200000, 1796083200000},
        {POLICY_MONTH, 1709251199999, 1706745600000, 1709251200000},
        {POLICY_MONTH, 1798675200000, 1796083200000, 1798761600000},
        {POLICY_DAY, 0, 0, 86400000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        budget_span span = budget_span_at(cases[i].period, cases[i].now);
        assert_int_equal(span.starts_ms, cases[i].starts);
        assert_int_equal(span.ends_ms, cases[i].ends);
    }
}

static void expect_id(const char *id, policy_scope scope, const char *tenant,
                      const char *subject, policy_unit unit, policy_period period)
{
    aiq_buf out = {0};

    budget_account_id(&out, scope, (aiq_str){tenant, strlen(tenant)},
                      (aiq_str){subject, strlen(subject)}, unit, period, 1793491200000);
    assert_int_equal(out.len, strlen(id));
    assert_memory_equal(out.data, id, out.len);
    aiq_buf_free(&out);
}

static void names_cannot_be_confused(void **state)
{
    (void)state;
    expect_id("tenant/acme/usd/month/2026-11", POLICY_TENANT, "acme", "", POLICY_USD,
              POLICY_MONTH);
    expect_id("user/acme/bob/tokens/day/2026-11-01", POLICY_USER, "acme", "bob", POLICY_TOKENS,
              POLICY_DAY);
    expect_id("user/a%2Fb/c/usd/day/2026-11-01", POLICY_USER, "a/b", "c", POLICY_USD,
              POLICY_DAY);
    expect_id("user/a/b%2Fc/usd/day/2026-11-01", POLICY_USER, "a", "b/c", POLICY_USD,
              POLICY_DAY);
    expect_id("key/a%252F/k/usd/day/2026-11-01", POLICY_KEY, "a%2F", "k", POLICY_USD,
              POLICY_DAY);
}

static void an_account_knows_what_fits(void **state)
{
    budget_account a = {.limit = 100,
                        .own_limit = INT64_MAX,
                        .spent = 50,
                        .leased = 20,
                        .lease_until_ms = 1000};

    (void)state;
    assert_int_equal(budget_look(&a, 20, 0), BUDGET_FITS);
    assert_int_equal(budget_look(&a, 21, 0), BUDGET_LACKS);
    assert_int_equal(budget_look(&a, 50, 0), BUDGET_LACKS);
    assert_int_equal(budget_look(&a, 51, 0), BUDGET_SPENT);
    assert_int_equal(budget_look(&a, 1, 1000), BUDGET_LACKS); /* the lease has ended */
    budget_hold(&a, 15);
    assert_int_equal(budget_free(&a, 0), 5);
    budget_settle(&a, 15, 4);
    assert_int_equal(budget_free(&a, 0), 16);
    assert_int_equal(budget_look(&a, 46, 0), BUDGET_LACKS);
    assert_int_equal(budget_look(&a, 47, 0), BUDGET_SPENT);
    a.asking = true;
    assert_int_equal(budget_look(&a, 1, 0), BUDGET_LACKS);
}

static void a_provider_that_bills_more_makes_an_overdraft(void **state)
{
    budget_account a = {.limit = 100,
                        .own_limit = INT64_MAX,
                        .spent = 90,
                        .leased = 10,
                        .lease_until_ms = 1000};

    (void)state;
    budget_hold(&a, 10);
    budget_settle(&a, 10, 30);
    assert_int_equal(budget_free(&a, 0), -20);
    assert_int_equal(budget_look(&a, 1, 0), BUDGET_SPENT);
}

static void warns_at_four_fifths(void **state)
{
    budget_account a = {.limit = 100, .own_limit = INT64_MAX, .spent = 79};

    (void)state;
    assert_false(budget_warns(&a));
    a.used = 1;
    assert_true(budget_warns(&a));
    a = (budget_account){.limit = 100, .own_limit = 50, .spent = 40};
    assert_true(budget_warns(&a)); /* the stricter limit is the limit */
    assert_int_equal(budget_look(&a, 11, 0), BUDGET_SPENT);
}

static void grants_what_there_is(void **state)
{
    budget_question q = {.limit = 1000, .keep = 100, .amount = 10};

    (void)state;
    assert_int_equal(budget_grant(&q, 0, 0), 100 + 50);   /* a sixteenth, in whole portions */
    assert_int_equal(budget_grant(&q, 800, 0), 100 + 10); /* near the end: one */
    assert_int_equal(budget_grant(&q, 890, 0), 100 + 10);
    assert_int_equal(budget_grant(&q, 891, 0), 100); /* none; what was free goes back */
    assert_int_equal(budget_grant(&q, 500, 391), 100);
    assert_int_equal(budget_grant(&q, 2000, 0), 100);
    q.amount = 0;
    q.free = 30;
    assert_int_equal(budget_grant(&q, 0, 0), 130);
    assert_int_equal(budget_grant(&q, 890, 0), 110);
    assert_int_equal(budget_grant(&q, 990, 0), 100);
}

/* Three engines and one store, to which questions and usages take their time; each
 * engine's come there, and are answered, in their order. */

enum { ENGINES = 3, LIMIT = 5000, CALL = 50, PENDING = 8 };

typedef struct {
    bool question;
    budget_question q;
    int64_t used, leased, spent;
} message;

typedef struct {
    budget_account a;
    int64_t held;                            /* by a call under way */
    message sent[PENDING], answers[PENDING]; /* queues */
    unsigned n_sent, n_answers;
    int64_t lease, storing; /* at the store; on the way there */
} engine_model;

static message shift(message *queue, unsigned *n)
{
    message first = queue[0];

    memmove(queue, queue + 1, --*n * sizeof(*queue));
    return first;
}

static void store_handles_one(engine_model *engines, engine_model *e, int64_t *spent)
{
    message m = shift(e->sent, &e->n_sent);
    int64_t others = 0;

    for (unsigned i = 0; i < ENGINES; i++) {
        others += &engines[i] == e ? 0 : engines[i].lease;
    }
    if (m.question) {
        m.leased = e->lease = budget_grant(&m.q, *spent, others);
        m.spent = *spent;
    } else {
        *spent += m.used;
        e->lease = e->lease > m.used ? e->lease - m.used : 0;
    }
    e->answers[e->n_answers++] = m;
}

static void engine_hears_one(engine_model *e)
{
    message m = shift(e->answers, &e->n_answers);

    if (m.question) {
        budget_answered(&e->a, m.leased, m.spent, 1);
    } else {
        budget_stored(&e->a, m.used);
        e->storing -= m.used;
    }
}

static void engine_acts(engine_model *e, int64_t *billed, unsigned *served)
{
    budget_account *a = &e->a;

    if (e->held) { /* the call ends; it used at most what it held */
        int64_t used = 1 + random() % CALL;
        budget_settle(a, e->held, used);
        *billed += used;
        e->held = 0;
        (*served)++;
    } else if (budget_look(a, CALL, 0) == BUDGET_FITS) {
        budget_hold(a, CALL);
        e->held = CALL;
    } else if (!a->asking && e->n_sent + e->n_answers < PENDING) {
        e->sent[e->n_sent++] = (message){.question = true, .q = budget_ask(a, CALL, 0)};
    }
}

static void engine_stores(engine_model *e)
{
    int64_t used = e->a.used - e->storing;

    if (used && e->n_sent + e->n_answers < PENDING) {
        e->sent[e->n_sent++] = (message){.used = used};
        e->storing += used;
    }
}

static void no_order_of_things_overspends(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 300; seed++) {
        engine_model engines[ENGINES] = {{{0}}};
        int64_t spent = 0, billed = 0;
        unsigned served = 0;

        srandom(seed);
        for (unsigned step = 0; step < 20000; step++) {
            engine_model *e = &engines[random() % ENGINES];
            e->a.limit = LIMIT;
            e->a.own_limit = INT64_MAX;
            switch (random() % 4) {
            case 0:
                engine_acts(e, &billed, &served);
                break;
            case 1:
                engine_stores(e);
                break;
            case 2:
                if (e->n_sent) {
                    store_handles_one(engines, e, &spent);
                }
                break;
            default:
                if (e->n_answers) {
                    engine_hears_one(e);
                }
            }
            assert_true(billed <= LIMIT);
        }
        assert_true(served >= LIMIT / CALL);
        assert_true(billed > LIMIT - CALL); /* as much as could be sold */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(periods_are_utc),
        cmocka_unit_test(names_cannot_be_confused),
        cmocka_unit_test(an_account_knows_what_fits),
        cmocka_unit_test(a_provider_that_bills_more_makes_an_overdraft),
        cmocka_unit_test(warns_at_four_fifths),
        cmocka_unit_test(grants_what_there_is),
        cmocka_unit_test(no_order_of_things_overspends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

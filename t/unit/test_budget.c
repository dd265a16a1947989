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
    budget_account a = {.limit = 100, .spent = 50, .leased = 20, .lease_until_ms = 1000};

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
    budget_account a = {.limit = 100, .spent = 90, .leased = 10, .lease_until_ms = 1000};

    (void)state;
    budget_hold(&a, 10);
    budget_settle(&a, 10, 30);
    assert_int_equal(budget_free(&a, 0), -20);
    assert_int_equal(budget_look(&a, 1, 0), BUDGET_SPENT);
}

static void warns_at_four_fifths(void **state)
{
    budget_account a = {.limit = 100, .spent = 79};

    (void)state;
    assert_false(budget_warns(&a));
    a.used = 1;
    assert_true(budget_warns(&a));
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

/* Engines that hold, settle, store and die in a random order. */
static void no_order_of_things_overspends(void **state)
{
    enum { ENGINES = 3, LIMIT = 5000 };

    (void)state;
    for (unsigned seed = 0; seed < 200; seed++) {
        budget_account engines[ENGINES] = {{0}};
        int64_t spent = 0, billed = 0, leases[ENGINES] = {0};
        unsigned served = 0;

        srandom(seed);
        for (unsigned step = 0; step < 3000; step++) {
            unsigned n = (unsigned)random() % ENGINES;
            budget_account *a = &engines[n];
            a->limit = LIMIT;
            a->lease_until_ms = 1;
            switch (random() % 3) {
            case 0: /* a call, which uses at most what it holds */
                if (budget_look(a, 50, 0) == BUDGET_FITS) {
                    int64_t used = 1 + random() % 50;
                    budget_hold(a, 50);
                    billed += used;
                    budget_settle(a, 50, used);
                    served++;
                }
                break;
            case 1: { /* its usage is stored */
                spent += a->used;
                leases[n] -= a->used;
                a->spent = spent;
                a->leased -= a->used;
                a->used = 0;
                break;
            }
            default: {
                int64_t others = 0;
                for (unsigned i = 0; i < ENGINES; i++) {
                    others += i == n ? 0 : leases[i];
                }
                budget_question q = {LIMIT, a->held + a->used, 50, budget_free(a, 0)};
                leases[n] = a->leased = budget_grant(&q, spent, others);
                a->spent = spent;
            }
            }
            assert_true(billed <= LIMIT);
            assert_true(spent + leases[0] + leases[1] + leases[2] <= LIMIT);
        }
        assert_true(served >= LIMIT / 50);
        assert_true(billed > LIMIT - 2 * 50); /* and hardly anything is left over */
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

/* The journal: what is still there after a kill, and who may read it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "ledger/journal.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/aiq-journal-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

typedef struct {
    unsigned held, settled;
    int64_t used;
} seen;

static void look(void *arg, const journal_entry *e)
{
    seen *s = arg;

    if (e->state == JOURNAL_HELD) {
        s->held++;
        s->used += e->most.nano_usd;
    } else {
        s->settled++;
        s->used += e->used.nano_usd;
    }
}

/* Three calls, one of them settled and one done with; then killed. */
static void die(uint64_t engine)
{
    aiq_err err;
    journal *j = journal_new(folder, engine, &err);
    journal_entry *e[3];

    for (int i = 0; i < 3; i++) {
        e[i] = journal_take(j, &err);
        e[i]->most.nano_usd = 100 + i;
        journal_publish(e[i], JOURNAL_HELD);
    }
    e[1]->used.nano_usd = 7;
    journal_publish(e[1], JOURNAL_SETTLED);
    journal_give_back(j, e[2]);
    kill(getpid(), SIGKILL);
}

static void a_killed_engine_leaves_what_it_knew(void **state)
{
    pid_t pid = fork();
    int status;
    seen s = {0};

    (void)state;
    if (pid == 0) {
        die(7);
    }
    waitpid(pid, &status, 0);
    journal *j = journal_find_dead(folder);
    assert_non_null(j);
    assert_int_equal(journal_engine(j), 7);
    journal_each(j, look, &s);
    assert_int_equal(s.held, 1);
    assert_int_equal(s.settled, 1);
    assert_int_equal(s.used, 107);
    assert_null(journal_find_dead(folder)); /* it is ours now */
    journal_bury(j);
    assert_null(journal_find_dead(folder));
}

static void a_living_engine_keeps_its_own(void **state)
{
    aiq_err err;
    journal *j = journal_new(folder, 8, &err);

    (void)state;
    assert_non_null(j);
    assert_null(journal_find_dead(folder));
    journal_free(j);
    assert_null(journal_find_dead(folder));
}

static void what_is_left_at_the_end_stays(void **state)
{
    aiq_err err;
    journal *j = journal_new(folder, 9, &err);
    seen s = {0};

    (void)state;
    journal_publish(journal_take(j, &err), JOURNAL_SETTLED);
    journal_free(j);
    j = journal_find_dead(folder);
    assert_non_null(j);
    journal_each(j, look, &s);
    assert_int_equal(s.settled, 1);
    journal_bury(j);
}

static void grows_to_its_bound_and_no_further(void **state)
{
    aiq_err err;
    journal *j = journal_new(folder, 10, &err);
    journal_entry *last = NULL, *e;
    unsigned n = 0;

    (void)state;
    while ((e = journal_take(j, &err)) != NULL) {
        journal_publish(e, JOURNAL_HELD);
        last = e;
        n++;
    }
    assert_int_equal(n, JOURNAL_ENTRIES);
    assert_int_equal(err.status, 503);
    assert_string_equal(err.code, "overloaded");
    journal_give_back(j, last);
    assert_ptr_equal(journal_take(j, &err), last);
    journal_free(j);
    journal_bury(journal_find_dead(folder));
}

static void what_is_no_journal_is_left_alone(void **state)
{
    static const char *const names[] = {"0123456789abcdef", "0123456789abcde",
                                        ".0123456789abcdef", "readme"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        FILE *f = fopen(path, "w");
        for (int n = 0; n < 8192; n++) {
            fputc(n & 255, f);
        }
        fclose(f);
    }
    assert_null(journal_find_dead(folder));
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
}

static void a_folder_that_cannot_be_is_an_error(void **state)
{
    aiq_err err = {0};

    (void)state;
    assert_null(journal_new("/dev/null/x", 1, &err));
    assert_string_equal(err.code, "ledger_unavailable");
    assert_non_null(strstr(err.detail, "/dev/null/x"));
    assert_null(journal_find_dead("/dev/null/x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_killed_engine_leaves_what_it_knew, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_living_engine_keeps_its_own, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(what_is_left_at_the_end_stays, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(grows_to_its_bound_and_no_further, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(what_is_no_journal_is_left_alone, make_folder,
                                        remove_folder),
        cmocka_unit_test(a_folder_that_cannot_be_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

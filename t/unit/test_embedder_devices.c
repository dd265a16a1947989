/*
 * Vectors of texts from several devices: the same as from one, in the request's order,
 * whichever of them fails, is slow or has no room. The devices are those of the back end for
 * tests, which lies beside this program.
 */
#include "unit.h"

#include "embed_client.h"
#include "fake_devices.h"

enum { REQUESTS = 12, TEXTS = 90 };

static char *path;
static char texts[TEXTS][TINY_ENCODER_CTX * 2];
static embed_input inputs[TEXTS];
static float alone[TEXTS][D];

static embedder *open_on(devices *d, uint32_t replicas)
{
    const embedder_options opt = {.n_threads = 1, .devices = d, .replicas = replicas};
    char err[256] = "";
    embedder *e = embedder_open(path, &opt, err, sizeof(err));

    if (e == NULL) {
        fail_msg("%s", err);
    }
    return e;
}

static void ask_all(embedder *e)
{
    static result r[REQUESTS];

    for (uint32_t i = 0; i < REQUESTS; i++) {
        begin(e, &r[i], inputs + i % 7, TEXTS - i);
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        await(&r[i]);
        assert_int_equal(r[i].rc, EMBED_OK);
        assert_memory_equal(r[i].vectors, alone[i % 7], (TEXTS - i) * sizeof(alone[0]));
        end(&r[i]);
    }
}

/* What each text gets of the CPU, one at a time. */
static int ask_alone(void **state)
{
    embedder *e;
    result r;

    (void)state;
    path = make_file(&(tiny_encoder){.n_layers = 2, .pooling = MEAN});
    e = open_on(NULL, 1);
    for (size_t i = 0; i < TEXTS; i++) {
        for (size_t k = 0; k <= i % (TINY_ENCODER_CTX - 2); k++) {
            texts[i][2 * k] = (char)('a' + (i + k * k) % 20);
            texts[i][2 * k + 1] = ' ';
        }
        inputs[i] = text(texts[i]);
        begin(e, &r, &inputs[i], 1);
        await(&r);
        memcpy(alone[i], r.vectors, sizeof(alone[i]));
        end(&r);
    }
    embedder_close(e);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    free(path);
    return 0;
}

/* All answers are right; failures are as told, soon: who gets how much is the system's affair.
 */
static void check(uint32_t replicas, const char *fake, const char *failures)
{
    devices *d = open_devices(fake);
    embedder *e = open_on(d, replicas);

    for (int i = 0; i < 2 || (i < 1000 && !told(failures)); i++) {
        ask_all(e);
    }
    embedder_close(e);
    devices_close(d);
    if (!told(failures)) {
        fail_msg("%s: failed: %s, taken: %s", fake, failed, taken);
    }
}

static void a_device_makes_the_cpus_vectors(void **state)
{
    (void)state;
    check(1, "", "");
    assert_string_equal(taken, "fake:0 ");
    check(3, "devices=4", "");
    assert_string_equal(taken, "fake:0 fake:1 fake:2 ");
}

/* Either is lost at its first batch, so it has had one. */
static void all_of_them_work(void **state)
{
    (void)state;
    check(2, "devices=2 only=0 lost=1", "fake:0 ");
    check(2, "devices=2 only=1 lost=1", "fake:1 ");
}

static void the_others_go_on_without_one(void **state)
{
    (void)state;
    check(2, "devices=2 only=1 lost=3", "fake:1 ");
    assert_string_equal(taken, "fake:0 fake:1 ");
    check(2, "devices=2 only=0 oom=5", "fake:0 ");
    check(2, "devices=2 only=1 slow=20", "");
}

static void one_that_is_free_takes_over(void **state)
{
    (void)state;
    check(2, "devices=3 only=1 lost=3", "fake:1 ");
    assert_string_equal(taken, "fake:0 fake:1 fake:2 ");
}

static void the_last_one_goes_to_the_cpu(void **state)
{
    (void)state;
    check(1, "lost=2", "fake:0 ");
    assert_string_equal(taken, "fake:0 cpu ");
}

/* All texts of a request in the one call that does not fail. */
static void batches_are_as_large_as_the_device_says(void **state)
{
    devices *d = open_devices("batch=2000 lost=2");
    embedder *e = open_on(d, 1);
    result r;

    (void)state;
    begin(e, &r, inputs, TEXTS);
    await(&r);
    assert_memory_equal(r.vectors, alone, sizeof(alone));
    end(&r);
    embedder_close(e);
    devices_close(d);
    assert_string_equal(failed, "");
}

/* The CPU takes what was gathered for a call of another in several. */
static void large_batches_go_on_in_small_ones(void **state)
{
    (void)state;
    check(1, "batch=4000 lost=2", "fake:0 ");
    assert_string_equal(taken, "fake:0 cpu ");
    check(2, "devices=2 batch=4000 only=1 lost=2", "fake:1 ");
}

static void there_is_one_replica_a_device(void **state)
{
    devices *d = open_devices("devices=2 load=1");
    embedder *e = open_on(d, 3);

    (void)state;
    assert_int_equal(embedder_replicas(e), 1);
    assert_string_equal(taken, "fake:0 fake:1 ");
    assert_string_equal(failed, "fake:0 ");
    ask_all(e);
    embedder_close(e);
    devices_close(d);
}

/* Two replicas fit, and no more: of a device's memory a share is never taken. */
static void a_share_of_the_memory_is_taken(void **state)
{
    devices *d = open_devices("devices=2 memory=150000");
    embedder *e = open_on(d, 3), *other;

    (void)state;
    assert_string_equal(taken, "fake:0 fake:1 ");
    other = open_on(d, 2);
    assert_string_equal(taken, "fake:0 fake:1 cpu ");
    ask_all(other);
    embedder_close(e);
    embedder_close(other);
    other = open_on(d, 2);
    assert_string_equal(taken, "fake:0 fake:1 cpu fake:0 fake:1 ");
    embedder_close(other);
    devices_close(d);
    assert_string_equal(failed, "");
}

/* Cancelling and closing while devices fail leaves nothing behind. */
static void cancelled_and_closed_while_they_fail(void **state)
{
    static result r[REQUESTS];

    (void)state;
    for (int lost = 1; lost < 8; lost++) {
        char fake[64];

        snprintf(fake, sizeof(fake), "devices=2 slow=1 lost=%d oom=%d", lost, lost + 1);
        devices *d = open_devices(fake);
        embedder *e = open_on(d, 2);

        for (uint32_t i = 0; i < REQUESTS; i++) {
            begin(e, &r[i], inputs, TEXTS);
            if (i % 2 == 0) {
                embed_cancel(r[i].req);
            }
        }
        await(&r[0]);
        embedder_close(e);
        devices_close(d);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            end(&r[i]);
        }
    }
}

static void one_that_hangs_leaves_its_texts_to_others(void **state)
{
    (void)state;
    check(2, "devices=2 only=1 limit=1000 hang=3", "fake:1 ");
    check(2, "devices=3 only=1 limit=1000 hang=1", "fake:1 ");
    assert_string_equal(taken, "fake:0 fake:1 fake:2 ");
    check(1, "limit=1000 hang=2", "fake:0 ");
    assert_string_equal(taken, "fake:0 cpu ");
    check(1, "limit=1000 hangload=1", "fake:0 ");
    assert_string_equal(taken, "fake:0 cpu ");
}

/* Whoever closes a model does not wait for the limit, and each request has its event. */
static void closed_while_one_hangs(void **state)
{
    static result r[REQUESTS];
    devices *d = open_devices("hang=2");
    embedder *e = open_on(d, 1);

    (void)state;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        begin(e, &r[i], inputs, TEXTS);
    }
    embedder_close(e);
    devices_close(d);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        end(&r[i]);
        assert_int_not_equal(r[i].rc, EMBED_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_makes_the_cpus_vectors),
        cmocka_unit_test(all_of_them_work),
        cmocka_unit_test(the_others_go_on_without_one),
        cmocka_unit_test(one_that_is_free_takes_over),
        cmocka_unit_test(the_last_one_goes_to_the_cpu),
        cmocka_unit_test(batches_are_as_large_as_the_device_says),
        cmocka_unit_test(large_batches_go_on_in_small_ones),
        cmocka_unit_test(there_is_one_replica_a_device),
        cmocka_unit_test(a_share_of_the_memory_is_taken),
        cmocka_unit_test(cancelled_and_closed_while_they_fail),
        cmocka_unit_test(one_that_hangs_leaves_its_texts_to_others),
        cmocka_unit_test(closed_while_one_hangs),
    };

    return cmocka_run_group_tests(tests, ask_alone, remove_file);
}

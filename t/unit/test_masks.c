/*
 * Languages that requests share: the masks are those of the language, however many walk in it
 * and whoever makes them; few are kept, and none goes while it is used.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "infer/masks.h"
#include "infer/schema.h"
#include "infer/token_mask.h"
#include "tiny_model.h"

enum { WORDS = TINY_VOCAB / 64, WALKERS = 4, STEPS = 1500 };

static char err[256];

typedef struct {
    uint8_t *file;
    gguf *g;
    tokenizer *t;
    masks *s;
} vocabulary;

static vocabulary open_vocabulary(void)
{
    tiny_model tm = {0};
    gw w = {0};
    vocabulary v;
    size_t size;

    tiny_vocab(&w, &tm);
    v.file = gw_finish(&w, &size);
    v.g = gguf_parse(v.file, size, err, sizeof(err));
    assert_non_null(v.g);
    v.t = tokenizer_new(v.g, err, sizeof(err));
    assert_non_null(v.t);
    v.s = masks_new(v.t);
    assert_non_null(v.s);
    assert_int_equal(masks_words(v.s), WORDS);
    return v;
}

static void close_vocabulary(vocabulary v)
{
    masks_free(v.s);
    tokenizer_free(v.t);
    gguf_close(v.g);
    free(v.file);
}

static grammar *any_array(void)
{
    static const char schema[] = "{\"type\":\"array\"}";

    return schema_compile(schema, sizeof(schema) - 1, true, err, sizeof(err));
}

/* --- many in one --- */

typedef struct {
    const vocabulary *v;
    mask_language *language;
    uint64_t seed;
    int steps;
    bool same;
} walker;

/* A token that is allowed; of a few that open and close, so that it goes up and down. */
static int32_t pick(const uint64_t *mask, uint64_t *seed)
{
    static const char liked[] = "[[]{{},:\"k1 ";
    int32_t id;

    do {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        id = (*seed >> 33) % 8 > 0 ? liked[(*seed >> 40) % (sizeof(liked) - 1)]
                                   : (int32_t)((*seed >> 40) % TINY_END_OF_TEXT);
    } while ((mask[id / 64] >> (id % 64) & 1) == 0);
    return id;
}

static const char deep[] = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[";

/* Beside a matcher of its own, which says what is right. */
static void *walk(void *arg)
{
    walker *me = arg;
    mask_walk *w = mask_walk_new(me->v->s, me->language);
    token_order *order = token_order_new(me->v->t);
    matcher *m = matcher_new(any_array());
    int32_t at = MATCHER_START, *const kept[] = {&at};
    uint64_t mask[WORDS];

    me->same = mask_walk_text(w, deep, sizeof(deep) - 1);
    for (size_t i = 0; i < sizeof(deep) - 1; i++) {
        at = matcher_next(m, at, (uint8_t)deep[i]);
    }
    for (; me->steps < STEPS && me->same && !matcher_finished(m, at); me->steps++) {
        int32_t id;

        mask_walk_mask(w, mask);
        me->same =
            memcmp(mask, token_mask(order, m, at), sizeof(mask)) == 0 && !mask_walk_finished(w);
        id = pick(mask, &me->seed);
        mask_walk_token(w, id);
        at = token_follow(me->v->t, m, at, id);
        if (matcher_is_large(m)) {
            matcher_trim(m, kept, 1);
        }
    }
    me->same = me->same && mask_walk_finished(w) == matcher_finished(m, at);
    matcher_free(m);
    token_order_free(order);
    mask_walk_free(w);
    return NULL;
}

static void many_walk_in_one(void **state)
{
    vocabulary v = open_vocabulary();
    mask_language *l = masks_add(v.s, AIQ_STR("array"), any_array());
    walker walkers[WALKERS];
    pthread_t threads[WALKERS];

    (void)state;
    for (int i = 0; i < WALKERS; i++) {
        walkers[i] = (walker){.v = &v, .language = l, .seed = (uint64_t)i / 2};
        assert_int_equal(pthread_create(&threads[i], NULL, walk, &walkers[i]), 0);
    }
    for (int i = 0; i < WALKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(walkers[i].same);
        assert_in_range(walkers[i].steps, 100, STEPS);
    }
    mask_language_drop(l);
    close_vocabulary(v);
}

/* --- what was said before --- */

static void walks_go_past_texts(void **state)
{
    vocabulary v = open_vocabulary();
    mask_language *l = masks_add(v.s, AIQ_STR("array"), any_array());
    mask_walk *w = mask_walk_new(v.s, l);
    uint64_t mask[WORDS];

    (void)state;
    assert_true(mask_walk_text(w, "[1, [", 5));
    mask_walk_mask(w, mask);
    assert_true(mask[']' / 64] >> (']' % 64) & 1);
    assert_false(mask['}' / 64] >> ('}' % 64) & 1);
    assert_true(mask_walk_text(w, "]]", 2));
    assert_true(mask_walk_finished(w));
    assert_false(mask_walk_text(w, "x", 1));
    assert_false(mask_walk_finished(w));
    mask_walk_mask(w, mask);
    for (int i = 0; i < WORDS; i++) {
        assert_true(mask[i] == 0);
    }
    mask_walk_free(w);
    mask_language_drop(l);
    close_vocabulary(v);
}

/* --- what is guessed --- */

static uint32_t follow(mask_walk *w, const char *bytes)
{
    int32_t ids[16];
    uint32_t n = (uint32_t)strlen(bytes);

    for (uint32_t i = 0; i < n; i++) {
        ids[i] = (uint8_t)bytes[i]; /* of a byte, the token is its number */
    }
    return mask_walk_follow(w, ids, n);
}

/* As far as the language goes along; the walk stays, whatever is guessed. */
static void guesses_are_cut(void **state)
{
    vocabulary v = open_vocabulary();
    mask_language *l = masks_add(v.s, AIQ_STR("array"), any_array());
    mask_walk *w = mask_walk_new(v.s, l);
    const int32_t control = TINY_IM_END;
    uint64_t before[WORDS], after[WORDS];

    (void)state;
    assert_true(mask_walk_text(w, "[1", 2));
    mask_walk_mask(w, before);
    assert_true(mask_walk_is_ready(w));
    assert_int_equal(follow(w, ", [2]"), 5);
    assert_int_equal(follow(w, ", }2]"), 2);
    assert_int_equal(follow(w, "x"), 0);
    assert_int_equal(follow(w, "]x"), 1);
    assert_int_equal(follow(w, ""), 0);
    assert_int_equal(mask_walk_follow(w, &control, 1), 0);
    mask_walk_mask(w, after);
    assert_memory_equal(before, after, sizeof(before));
    assert_true(mask_walk_text(w, "]", 1));
    assert_int_equal(follow(w, "]"), 0);
    assert_false(mask_walk_text(w, "x", 1));
    assert_int_equal(follow(w, "]"), 0);
    mask_walk_free(w);
    mask_language_drop(l);
    close_vocabulary(v);
}

static void only(mask_walk *w, uint32_t most, const char *want)
{
    int32_t ids[8];
    uint32_t n = mask_walk_only(w, ids, most);
    char text[64] = "";

    for (uint32_t i = 0; i < n; i++) {
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%d ", ids[i]);
    }
    assert_string_equal(text, want);
    assert_int_equal(mask_walk_follow(w, ids, n), n);
}

/* A name, once it began: white space may come before its quote, and before its colon. */
static void what_must_come(void **state)
{
    static const char schema[] =
        "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"the theme\"],"
        "\"properties\":{\"the theme\":{\"enum\":[\"12\",\"13\"]}}}";
    vocabulary v = open_vocabulary();
    mask_language *l =
        masks_add(v.s, AIQ_STR("theme"),
                  schema_compile(schema, sizeof(schema) - 1, true, err, sizeof(err)));
    mask_walk *w = mask_walk_new(v.s, l);

    (void)state;
    only(w, 8, "123 ");
    assert_true(mask_walk_text(w, "{", 1));
    only(w, 8, "");
    assert_true(mask_walk_text(w, "\"", 1));
    only(w, 8, "258 259 109 101 34 "); /* the, the with its space, m, e, quote */
    only(w, 2, "258 259 ");
    only(w, 0, "");
    assert_true(mask_walk_text(w, "the theme\":\"", 12));
    only(w, 8, "49 ");
    assert_true(mask_walk_text(w, "12", 2));
    only(w, 8, "34 ");
    assert_true(mask_walk_text(w, "\"}", 2));
    only(w, 8, "");
    assert_false(mask_walk_text(w, "x", 1));
    only(w, 8, "");
    mask_walk_free(w);
    mask_language_drop(l);
    close_vocabulary(v);
}

/* --- what is kept --- */

static mask_language *add(const vocabulary *v, int number)
{
    char key[16];
    int n = snprintf(key, sizeof(key), "language %d", number);

    return masks_add(v->s, (aiq_str){key, (size_t)n}, any_array());
}

static bool is_known(const vocabulary *v, int number)
{
    char key[16];
    int n = snprintf(key, sizeof(key), "language %d", number);
    mask_language *l = masks_find(v->s, (aiq_str){key, (size_t)n});

    if (l != NULL) {
        mask_language_drop(l);
    }
    return l != NULL;
}

static void few_are_kept(void **state)
{
    vocabulary v = open_vocabulary();
    mask_language *used = add(&v, 0), *again;

    (void)state;
    again = masks_find(v.s, AIQ_STR("language 0"));
    assert_ptr_equal(again, used);
    mask_language_drop(again);
    for (int i = 1; i <= 3 * MASKS_IDLE; i++) {
        mask_language_drop(add(&v, i));
        assert_true(is_known(&v, i));
        assert_true(is_known(&v, 1)); /* whoever is used stays */
    }
    assert_false(is_known(&v, 2));
    assert_true(is_known(&v, 0)); /* as long as somebody has it */
    mask_language_drop(used);
    for (int i = 100; i < 100 + 2 * MASKS_IDLE; i++) {
        mask_language_drop(add(&v, i));
    }
    assert_false(is_known(&v, 0));
    close_vocabulary(v);
}

static void large_names_are_not(void **state)
{
    vocabulary v = open_vocabulary();
    char *key = calloc(1, MASKS_KEY + 1);
    aiq_str large = {key, MASKS_KEY + 1};
    mask_language *l = masks_add(v.s, large, any_array());

    (void)state;
    assert_non_null(l);
    assert_null(masks_find(v.s, large));
    mask_language_drop(l);
    free(key);
    close_vocabulary(v);
}

/* A language may outlive the model. */
static void the_model_may_go_first(void **state)
{
    vocabulary v = open_vocabulary();
    mask_language *l = add(&v, 1);
    mask_walk *w = mask_walk_new(v.s, l);

    (void)state;
    mask_walk_free(w);
    close_vocabulary(v);
    mask_language_drop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_walk_in_one),       cmocka_unit_test(walks_go_past_texts),
        cmocka_unit_test(guesses_are_cut),        cmocka_unit_test(what_must_come),
        cmocka_unit_test(few_are_kept),           cmocka_unit_test(large_names_are_not),
        cmocka_unit_test(the_model_may_go_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

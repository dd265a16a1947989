/*
 * Answers that are held to a schema, with drafts: token for token what one token a step gives,
 * whatever they are drawn with, whoever comes between, however often they stop. The prompt has
 * what the schema allows and what it does not, so guesses are right, wrong, and cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "infer/model.h"
#include "infer/schema.h"
#include "infer/token_mask.h"
#include "infer/tokenizer.h"
#include "infer_client.h"
#include "kernels/aiq_kernels.h"

enum { PAGES = TINY_CTX / KERN_PAGE, MOST = 72, MASK_WORDS = TINY_VOCAB / 64 };

static const char said[] = "[{\"the\": \"the 12\", \"b\": true}, {\"the\": \"the 13";

static const char *const schemas[] = {
    "{\"type\":\"array\",\"minItems\":2,\"items\":{\"type\":\"object\",\"required\":[\"the\","
    "\"b\"],\"additionalProperties\":false,\"properties\":{\"the\":{\"enum\":[\"the 12\","
    "\"then\"]},\"b\":{\"type\":\"boolean\"}}}}",
    "{\"type\":\"object\",\"required\":[\"a\",\"z\"],\"additionalProperties\":false,"
    "\"properties\":{\"a\":{\"type\":\"array\",\"minItems\":4,\"items\":{\"enum\":[12,\"12\"]}}"
    ","
    "\"z\":{\"const\":[\"the\",\"the\",\"the\"]}}}",
    "{\"type\":\"array\"}",
    "{\"type\":\"string\"}",
};

enum { SCHEMAS = sizeof(schemas) / sizeof(*schemas) };

/* --- one token at a time, straight from the kernels --- */

typedef struct {
    uint8_t *file;
    gguf *g;
    infer_model model;
    tokenizer *t;
    token_order *order;
    kern_device *dev;
    kern_model *km;
} oracle;

typedef struct {
    int32_t ids[TINY_CTX];
    float logprobs[TINY_CTX];
    uint32_t n;
    bool stops; /* at the language's end */
} answer_by_hand;

static oracle open_oracle(void)
{
    const aiq_kernels *k = &aiq_kernels_cpu;
    gw w = {0};
    size_t size;
    oracle o;

    tiny_write(&w, (tiny_model){.tensor_type = GGUF_TENSOR_F32, .seed = 3});
    o.file = gw_finish(&w, &size);
    o.g = gguf_parse(o.file, size, err, sizeof(err));
    assert_true(infer_model_read(&o.model, o.g, TINY_VOCAB, err, sizeof(err)));
    o.t = tokenizer_new(o.g, err, sizeof(err));
    assert_non_null(o.t);
    o.order = token_order_new(o.t);
    o.dev = k->open(0, 1);
    o.km = k->model_load(o.dev, &o.model.config, &o.model.weights, 1, 1, PAGES);
    return o;
}

static void close_oracle(oracle o)
{
    aiq_kernels_cpu.model_free(o.km);
    aiq_kernels_cpu.close(o.dev);
    token_order_free(o.order);
    tokenizer_free(o.t);
    infer_model_free(&o.model);
    gguf_close(o.g);
    free(o.file);
}

static grammar *compile(const char *schema)
{
    grammar *g = schema_compile(schema, strlen(schema), true, err, sizeof(err));

    if (g == NULL) {
        fail_msg("%s", err);
    }
    return g;
}

static float logprob_of(const float *logits, int32_t id)
{
    double sum = 0;

    for (int i = 0; i < TINY_VOCAB; i++) {
        sum += exp((double)logits[i] - logits[id]);
    }
    return (float)-log(sum);
}

static answer_by_hand answer_alone(const oracle *o, const infer_params *p, const char *schema)
{
    matcher *m = matcher_new(compile(schema));
    int32_t at = MATCHER_START, ids[TINY_CTX], id;
    sampler s = {.temperature = p->temperature,
                 .frequency = p->frequency,
                 .bias = p->bias,
                 .n_bias = p->n_bias,
                 .state = p->seed};
    sampler_candidate scratch[TINY_VOCAB];
    uint32_t counts[TINY_VOCAB] = {0}, pages[PAGES], n_prompt = (uint32_t)p->n_ids;
    float logits[TINY_VOCAB], raw[TINY_VOCAB];
    answer_by_hand a = {0};

    for (uint32_t i = 0; i < PAGES; i++) {
        pages[i] = i;
    }
    memcpy(ids, p->ids, n_prompt * sizeof(*ids));
    for (uint32_t pos = 0; a.n < p->max_tokens && !a.stops; pos++) {
        kern_seq seq = {.pages = pages, .ids = ids + pos, .n = 1, .pos = pos, .n_logits = 1};

        assert_true(aiq_kernels_cpu.step(o->km, &seq, 1, logits));
        if (pos + 1 < n_prompt) {
            continue;
        }
        sampler_context context = {ids, n_prompt, a.n, token_mask(o->order, m, at)};

        memcpy(raw, logits, sizeof(raw));
        id = sampler_pick(&s, &context, logits, TINY_VOCAB, scratch, counts);
        assert_true(id >= 0);
        if (tokenizer_is_end(o->t, id)) {
            a.stops = true;
            break;
        }
        a.logprobs[a.n] = logprob_of(raw, id);
        ids[n_prompt + a.n] = a.ids[a.n] = id;
        a.n++;
        at = token_follow(o->t, m, at, id);
        a.stops = matcher_finished(m, at);
    }
    matcher_free(m);
    return a;
}

/* --- the same from a model --- */

/* What a client is told of its tokens, beside the rest. */
typedef struct {
    client c;
    int32_t ids[TINY_CTX];
    float logprobs[TINY_CTX];
    uint32_t n;
} scored_client;

static void on_scored(void *arg, const infer_event *ev)
{
    scored_client *s = arg;

    for (size_t i = 0; ev->type != INFER_FAILED && i < ev->n_tokens; i++) {
        assert_true(s->n < TINY_CTX);
        s->ids[s->n] = ev->tokens[i].chosen.id;
        s->logprobs[s->n++] = ev->tokens[i].chosen.logprob;
    }
    on_event(&s->c, ev);
}

static mask_language *language(infer *m, const char *schema)
{
    mask_language *l = masks_find(infer_masks(m), (aiq_str){schema, strlen(schema)});

    return l != NULL
               ? l
               : masks_add(infer_masks(m), (aiq_str){schema, strlen(schema)}, compile(schema));
}

static void submit_held(infer *m, scored_client *s, infer_params p, const char *schema)
{
    infer_rc rc;

    p.language = language(m, schema);
    pthread_mutex_lock(&lock); /* so that c.req is there before the first event */
    rc = infer_submit(m, &p, on_scored, s, &s->c.req, err, sizeof(err));
    pthread_mutex_unlock(&lock);
    mask_language_drop(p.language);
    if (rc != INFER_OK) {
        fail_msg("%s", err);
    }
}

static void check_same(const scored_client *s, const answer_by_hand *want)
{
    assert_int_equal(s->c.last.type, INFER_DONE);
    assert_int_equal(s->c.last.completion_tokens, want->n);
    assert_memory_equal(s->c.ids, want->ids, want->n * sizeof(*want->ids));
    assert_int_equal(s->c.last.finish, want->stops ? INFER_FINISH_STOP : INFER_FINISH_LENGTH);
    assert_int_equal(s->n, want->n);
    assert_memory_equal(s->ids, want->ids, want->n * sizeof(*want->ids));
    for (uint32_t i = 0; i < want->n; i++) {
        assert_true(fabsf(s->logprobs[i] - want->logprobs[i]) < 1e-4f);
    }
}

/* The prompt's ids; the caller frees them. */
static tokenizer_ids prompt_of(const oracle *o)
{
    tokenizer_ids ids = {0};

    assert_true(tokenizer_encode(o->t, said, strlen(said), false, &ids));
    return ids;
}

static infer_params held_params(const tokenizer_ids *ids)
{
    return (infer_params){
        .ids = ids->v, .n_ids = ids->n, .max_tokens = MOST, .has_seed = true, .logprobs = true};
}

static uint64_t accepted(infer *m)
{
    client next = {0};
    infer_stats stats;

    submit(m, &next, params(1)); /* a turn later its figures are there */
    wait_last(&next);
    infer_get_stats(m, &stats);
    return stats.accepted_tokens;
}

static void drafts_change_nothing(void **state)
{
    static const sampler_bias bias[] = {{'}', 1}, {'"', 2}, {TINY_THE, -1}};
    oracle o = open_oracle();
    infer *m = open_tiny((infer_options){0});
    tokenizer_ids ids = prompt_of(&o);
    infer_params p = held_params(&ids);
    static scored_client s;

    (void)state;
    for (uint32_t i = 0; i < SCHEMAS; i++) {
        uint64_t before = accepted(m);

        for (p.seed = 0; p.seed < 12; p.seed++) {
            answer_by_hand want;

            p.temperature = (float)(p.seed % 3) / 2;
            p.frequency = p.seed % 4 == 3 ? 0.3f : 0;
            p.bias = bias;
            p.n_bias = p.seed % 5 == 4 ? 3 : 0;
            want = answer_alone(&o, &p, schemas[i]);
            memset(&s, 0, sizeof(s));
            submit_held(m, &s, p, schemas[i]);
            wait_last(&s.c);
            check_same(&s, &want);
        }
        assert_true(accepted(m) > before);
    }
    infer_close(m);
    free(ids.v);
    close_oracle(o);
}

/* Whose contexts are taken away in between, while others come and go. */
static void company_changes_nothing(void **state)
{
    enum { N = 9, PAGE_BYTES = 2 * 2 * 32 * 2 * KERN_PAGE };
    oracle o = open_oracle();
    infer *m =
        open_tiny((infer_options){.max_running = 4, .kv_bytes = PAGE_BYTES * PAGES * 3 / 2});
    tokenizer_ids ids = prompt_of(&o);
    infer_params p = held_params(&ids);
    static scored_client s[N];
    infer_stats stats;

    (void)state;
    memset(s, 0, sizeof(s));
    for (uint32_t i = 0; i < N; i++) {
        p.seed = i;
        p.temperature = i % 2;
        submit_held(m, &s[i], p, schemas[i % SCHEMAS]);
    }
    for (uint32_t i = 0; i < N; i++) {
        answer_by_hand want;

        wait_last(&s[i].c);
        p.seed = i;
        p.temperature = i % 2;
        want = answer_alone(&o, &p, schemas[i % SCHEMAS]);
        check_same(&s[i], &want);
    }
    infer_get_stats(m, &stats);
    assert_true(stats.preemptions > 0);
    infer_close(m);
    free(ids.v);
    close_oracle(o);
}

/* Wherever it pauses, and wherever it is cancelled. */
static void stops_change_nothing(void **state)
{
    oracle o = open_oracle();
    infer *m = open_tiny((infer_options){0});
    tokenizer_ids ids = prompt_of(&o);
    infer_params p = held_params(&ids);
    answer_by_hand want = answer_alone(&o, &p, schemas[0]);

    (void)state;
    for (uint32_t i = 1; i < want.n; i++) {
        static scored_client s;

        memset(&s, 0, sizeof(s));
        s.c.pause_after = i;
        submit_held(m, &s, p, schemas[0]);
        wait_texts(&s.c, i);
        if (i % 3 == 0) {
            infer_cancel(s.c.req);
            wait_last(&s.c);
            assert_true(s.c.last.type == INFER_FAILED || s.c.n_texts == i);
            continue;
        }
        infer_resume(s.c.req);
        wait_last(&s.c);
        check_same(&s, &want);
    }
    infer_close(m);
    free(ids.v);
    close_oracle(o);
}

/* Stop strings end it in the middle of what was guessed. */
static void a_stop_string_ends_it(void **state)
{
    static const char *const stops[] = {"12\", \"b"};
    oracle o = open_oracle();
    infer *m = open_tiny((infer_options){0});
    tokenizer_ids ids = prompt_of(&o);
    infer_params p = held_params(&ids);

    (void)state;
    for (p.seed = 0; p.seed < 8; p.seed++) {
        static scored_client whole, cut;
        const char *at;

        memset(&whole, 0, sizeof(whole));
        memset(&cut, 0, sizeof(cut));
        p.temperature = p.seed > 0;
        p.n_stop = 0;
        submit_held(m, &whole, p, schemas[0]);
        wait_last(&whole.c);
        p.stop = stops;
        p.n_stop = 1;
        submit_held(m, &cut, p, schemas[0]);
        wait_last(&cut.c);
        at = strstr(whole.c.text, stops[0]);
        assert_int_equal(cut.c.len, at != NULL ? (size_t)(at - whole.c.text) : whole.c.len);
        assert_memory_equal(cut.c.text, whole.c.text, cut.c.len);
    }
    infer_close(m);
    free(ids.v);
    close_oracle(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafts_change_nothing),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(stops_change_nothing),
        cmocka_unit_test(a_stop_string_ends_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

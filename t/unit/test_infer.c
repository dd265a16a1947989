/*
 * The batching thread, on a tiny model of noise: the right tokens, alone and in company; stop
 * strings, lengths, back-pressure, fairness; and that every request gets exactly one last
 * event.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "infer/infer.h"
#include "infer/model.h"
#include "infer/schema.h"
#include "infer/tokenizer.h"
#include "infer/tool_grammar.h"
#include "infer_client.h"

/* --- tokens --- */

/* Greedy ids straight from the kernels, one token at a time. */
static void by_hand(int32_t *ids, uint32_t n)
{
    gw w = {0};
    size_t size;
    uint8_t *file;
    gguf *g;
    infer_model model;
    const aiq_kernels *k = &aiq_kernels_cpu;
    kern_device *dev = k->open(0, 1);
    kern_model *km;
    uint32_t pages[TINY_CTX / KERN_PAGE];
    float logits[TINY_VOCAB];
    int32_t id;

    tiny_write(&w, (tiny_model){.tensor_type = GGUF_TENSOR_F32, .seed = 3});
    file = gw_finish(&w, &size);
    g = gguf_parse(file, size, err, sizeof(err));
    assert_true(infer_model_read(&model, g, TINY_VOCAB, err, sizeof(err)));
    km = k->model_load(dev, &model.config, &model.weights, 1, 1, TINY_CTX / KERN_PAGE);
    for (uint32_t i = 0; i < TINY_CTX / KERN_PAGE; i++) {
        pages[i] = i;
    }
    for (uint32_t pos = 0; pos < 4 + n; pos++) {
        kern_seq s = {.pages = pages, .ids = &id, .n = 1, .pos = pos, .n_logits = 1};

        id = pos < 5 ? prompt[pos] : ids[pos - 5];
        assert_true(k->step(km, &s, 1, logits));
        if (pos >= 4) {
            uint32_t best = 0;

            for (uint32_t i = 1; i < TINY_VOCAB; i++) {
                best = logits[i] > logits[best] ? i : best;
            }
            ids[pos - 4] = (int32_t)best;
        }
    }
    k->model_free(km);
    k->close(dev);
    infer_model_free(&model);
    gguf_close(g);
    free(file);
}

static void greedy_is_the_best_token_each_time(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client c = {0};
    int32_t ids[20];

    (void)state;
    by_hand(ids, 20);
    submit(m, &c, params(20));
    wait_last(&c);
    assert_int_equal(c.last.type, INFER_DONE);
    assert_int_equal(c.last.finish, INFER_FINISH_LENGTH);
    assert_int_equal(c.last.prompt_tokens, 5);
    assert_int_equal(c.last.completion_tokens, 20);
    assert_memory_equal(c.ids, ids, sizeof(ids));
    infer_close(m);
}

/* Noise repeats itself soon, so guesses are right often. */
static void drafts_change_nothing(void **state)
{
    enum { N = 110 };
    infer *m = open_tiny((infer_options){0});
    client c = {0}, next = {0};
    infer_stats stats;
    int32_t ids[N];

    (void)state;
    by_hand(ids, N);
    submit(m, &c, params(N));
    wait_last(&c);
    assert_int_equal(c.last.completion_tokens, N);
    assert_memory_equal(c.ids, ids, sizeof(ids));
    submit(m, &next, params(1)); /* a turn later its figures are there */
    wait_last(&next);
    infer_get_stats(m, &stats);
    assert_true(stats.accepted_tokens > N / 2);
    assert_true(stats.drafted_tokens >= stats.accepted_tokens);
    infer_close(m);
}

/* Prompts of 1 to 120 tokens, seeds of their own, together and one after another. */
static void company_changes_nothing(void **state)
{
    enum { N = 12 };
    infer *m = open_tiny((infer_options){.max_running = 8});
    static client together[N], alone;
    int32_t ids[N][TINY_CTX];
    infer_params p[N];

    (void)state;
    memset(together, 0, sizeof(together));
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < TINY_CTX; j++) {
            ids[i][j] = (int32_t)((i * 31 + j * 7) % 256);
        }
        p[i] = (infer_params){.ids = ids[i],
                              .n_ids = 1 + i * 119 / (N - 1),
                              .temperature = i % 3 == 0 ? 0 : 1.0f,
                              .seed = i,
                              .has_seed = true};
        submit(m, &together[i], p[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        wait_last(&together[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        memset(&alone, 0, sizeof(alone));
        submit(m, &alone, p[i]);
        wait_last(&alone);
        assert_int_equal(alone.last.completion_tokens, together[i].last.completion_tokens);
        assert_memory_equal(alone.ids, together[i].ids, sizeof(alone.ids));
        assert_int_equal(alone.len, together[i].len);
        assert_memory_equal(alone.text, together[i].text, alone.len);
    }
    infer_close(m);
}

static void the_text_is_the_tokens(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client c = {0};
    char want[4096];
    size_t at = 0, len;

    (void)state;
    submit(m, &c, params(60));
    wait_last(&c);
    for (uint32_t i = 0; i < c.last.completion_tokens; i++) {
        const char *piece = tokenizer_piece(infer_tokenizer(m), c.ids[i], &len);

        memcpy(want + at, piece, len);
        at += len;
    }
    /* the noise writes ASCII words and stray bytes; the words must be there in order */
    for (size_t i = 0, j = 0; i < at; i++) {
        if ((unsigned char)want[i] < 0x80) {
            while (j < c.len && c.text[j] != want[i]) {
                j++;
            }
            assert_true(j++ < c.len);
        }
    }
    infer_close(m);
}

/* --- ends --- */

static void a_stop_string_ends_it(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client whole = {0}, cut = {0};
    char stop[16] = {0};
    const char *stops[] = {"never to be seen", stop};
    infer_params p = params(40);
    size_t at;

    (void)state;
    submit(m, &whole, p);
    wait_last(&whole);
    at = whole.len / 2;
    while (((unsigned char)whole.text[at] & 0xc0) == 0x80) {
        at++;
    }
    memcpy(stop, whole.text + at, 6);
    at = (size_t)((char *)memmem(whole.text, whole.len, stop, strlen(stop)) - whole.text);

    p.stop = stops;
    p.n_stop = 2;
    submit(m, &cut, p);
    wait_last(&cut);
    assert_int_equal(cut.last.type, INFER_DONE);
    assert_int_equal(cut.last.finish, INFER_FINISH_STOP);
    assert_true(cut.last.completion_tokens < whole.last.completion_tokens);
    assert_int_equal(cut.len, at);
    assert_memory_equal(cut.text, whole.text, at);
    infer_close(m);
}

static void the_context_ends_it(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client c = {0};

    (void)state;
    submit(m, &c, params(0));
    wait_last(&c);
    assert_int_equal(c.last.type, INFER_DONE);
    assert_true(c.last.completion_tokens == TINY_CTX - 5 || c.last.finish == INFER_FINISH_STOP);
    infer_close(m);
}

static void cancel_ends_it(void **state)
{
    infer *m = open_tiny((infer_options){0});
    client c = {.pause_after = 2};

    (void)state;
    submit(m, &c, params(0));
    wait_texts(&c, 2);
    infer_cancel(c.req);
    infer_cancel(c.req);
    wait_last(&c);
    assert_int_equal(c.last.type, INFER_FAILED);
    assert_string_equal(c.error, "cancelled");
    infer_close(m);
    assert_int_equal(c.n_last, 1);
}

static void close_ends_all(void **state)
{
    enum { N = 30 };
    infer *m = open_tiny((infer_options){.max_running = 4});
    static client c[N];

    (void)state;
    memset(c, 0, sizeof(c));
    for (int i = 0; i < N; i++) {
        c[i].pause_after = 1 + (uint32_t)i % 3;
        submit(m, &c[i], params(0));
    }
    wait_texts(&c[0], 1);
    infer_close(m);
    for (int i = 0; i < N; i++) {
        assert_int_equal(c[i].n_last, 1);
        infer_cancel(c[i].req);
        infer_release(c[i].req);
    }
}

/* --- sharing --- */

/* A client that does not read stops its own generation and nobody else's. */
static void pause_holds_one_back(void **state)
{
    infer *m = open_tiny((infer_options){.max_running = 1});
    client slow = {.pause_after = 3}, other = {0};

    (void)state;
    submit(m, &slow, params(30));
    wait_texts(&slow, 3);
    submit(m, &other, params(30));
    wait_last(&other);
    assert_int_equal(other.last.type, INFER_DONE);
    assert_in_range(slow.n_texts, 3, 4);
    assert_int_equal(slow.n_last, 0);
    infer_resume(slow.req);
    wait_last(&slow);
    assert_memory_equal(slow.ids, other.ids, sizeof(slow.ids));
    infer_close(m);
}

/* Wherever it stops, guesses or not, it goes on as if it had not. */
static void a_pause_changes_nothing(void **state)
{
    enum { N = 100 };
    infer *m = open_tiny((infer_options){0});
    client whole = {0};

    (void)state;
    submit(m, &whole, params(N));
    wait_last(&whole);
    for (uint32_t i = 1; i < whole.n_texts; i++) {
        client c = {.pause_after = i};

        submit(m, &c, params(N));
        wait_texts(&c, i);
        infer_resume(c.req);
        wait_last(&c);
        assert_int_equal(c.last.completion_tokens, N);
        assert_memory_equal(c.ids, whole.ids, N * sizeof(*c.ids));
    }
    infer_close(m);
}

static void a_full_queue_says_busy(void **state)
{
    infer *m = open_tiny((infer_options){.max_running = 1, .max_waiting = 2});
    client first = {.held = true}, second = {0}, third = {0};
    infer_params p = params(10);
    infer_req *none = NULL;

    (void)state;
    submit(m, &first, p);
    wait_texts(&first, 1);
    submit(m, &second, p);
    submit(m, &third, p);
    assert_int_equal(infer_submit(m, &p, on_event, NULL, &none, err, sizeof(err)), INFER_BUSY);
    assert_null(none);
    let_go(&first);
    wait_last(&first);
    wait_last(&second);
    wait_last(&third);
    assert_int_equal(third.last.type, INFER_DONE);
    infer_close(m);
}

/*
 * Seven requests with long prompts and long answers run; one comes that wants 8 tokens. When it
 * ends, all together may have made twice what an even split would have given, and no more.
 */
static void a_short_one_gets_its_share(void **state)
{
    enum { LONG = 7, SHORT = 8 };
    infer *m = open_tiny((infer_options){0});
    static client c[LONG];
    client brief = {0};
    int32_t ids[64];
    uint32_t before;

    (void)state;
    memset(c, 0, sizeof(c));
    for (int i = 0; i < 64; i++) {
        ids[i] = 65 + i % 26;
    }
    for (int i = 0; i < LONG; i++) {
        infer_params p = {
            .ids = ids, .n_ids = 64, .temperature = 1, .seed = 1, .has_seed = true};

        submit(m, &c[i], p);
    }
    wait_texts(&c[LONG - 1], 1);
    pthread_mutex_lock(&lock);
    before = all_texts;
    pthread_mutex_unlock(&lock);
    submit(m, &brief, params(SHORT));
    wait_last(&brief);
    for (int i = 0; i < LONG; i++) {
        infer_cancel(c[i].req);
        wait_last(&c[i]);
    }
    if (brief.all_when_over - before > 2 * (LONG + 1) * SHORT) {
        fail_msg("%u tokens while it waited", brief.all_when_over - before);
    }
    infer_close(m);
}

/* --- what is refused --- */

static void refused(infer *m, infer_params p, infer_rc want, const char *why)
{
    infer_req *req = NULL;

    assert_int_equal(infer_submit(m, &p, on_event, NULL, &req, err, sizeof(err)), want);
    assert_string_equal(err, why);
    assert_null(req);
}

static void bad_parameters(void **state)
{
    infer *m = open_tiny((infer_options){0});
    const char *empty[] = {""};
    int32_t beyond[] = {TINY_VOCAB}, negative[] = {-1}, many[TINY_CTX] = {0};
    infer_message tool = {.role = "function", .content = "x", .content_len = 1};
    infer_params p;

    (void)state;
    refused(m, (infer_params){0}, INFER_INVALID, "the prompt is empty");
    p = params(1);
    p.temperature = 2.5f;
    refused(m, p, INFER_INVALID, "temperature is not between 0 and 2");
    p.temperature = -1;
    refused(m, p, INFER_INVALID, "temperature is not between 0 and 2");
    p.temperature = 0.0f / 0.0f;
    refused(m, p, INFER_INVALID, "temperature is not between 0 and 2");
    p = params(1);
    p.top_p = 1.5f;
    refused(m, p, INFER_INVALID, "top_p is not between 0 and 1");
    p = params(1);
    p.stop = empty;
    p.n_stop = 1;
    refused(m, p, INFER_INVALID, "a stop string is empty or too long");
    p.n_stop = 5;
    refused(m, p, INFER_INVALID, "more than 4 stop strings");
    p = (infer_params){.ids = beyond, .n_ids = 1};
    refused(m, p, INFER_INVALID, "512 is not a token");
    p.ids = negative;
    refused(m, p, INFER_INVALID, "-1 is not a token");
    p = (infer_params){.ids = many, .n_ids = TINY_CTX};
    refused(m, p, INFER_TOO_LONG, "the prompt does not fit the model's context of 128 tokens");
    p = (infer_params){.messages = &tool, .n_messages = 1};
    refused(m, p, INFER_INVALID, "a message's role is none of system, user, assistant, tool");
    infer_close(m);
}

static void a_chat_too_long(void **state)
{
    infer *m = open_tiny((infer_options){0});
    size_t len = 10 << 20;
    char *content = malloc(len);
    infer_message msg = {.role = "user", .content = content, .content_len = 200};
    infer_params p = {.messages = &msg, .n_messages = 1};

    (void)state;
    memset(content, 'x', len);
    refused(m, p, INFER_TOO_LONG, "the prompt does not fit the model's context of 128 tokens");
    msg.content_len = len;
    refused(m, p, INFER_TOO_LONG, "the prompt does not fit the model's context of 128 tokens");
    free(content);
    infer_close(m);
}

static void a_chat_is_rendered(void **state)
{
    infer *m = open_tiny((infer_options){0});
    static const char end[] = "<|im_end|>";
    infer_message msgs[] = {{.role = "system", .content = "the", .content_len = 3},
                            {.role = "user", .content = end, .content_len = sizeof(end) - 1}};
    infer_params p = {.messages = msgs, .n_messages = 2, .max_tokens = 1};
    infer_model_info info;
    client c = {0};

    (void)state;
    infer_info(m, &info);
    assert_true(info.chat);
    assert_string_equal(info.name, "tiny");
    assert_int_equal(info.n_ctx, TINY_CTX);
    assert_int_equal(info.n_vocab, TINY_VOCAB);
    submit(m, &c, p);
    wait_last(&c);
    /* start system \n the end \n, start user \n and ten bytes, not one token, end \n,
     * start assistant \n */
    assert_int_equal(c.last.prompt_tokens,
                     (1 + 6 + 1 + 1 + 2) + (1 + 4 + 1 + 10 + 2) + (1 + 10));
    infer_close(m);
}

/* As many as the request that says the same would have, and where it would be refused, too. */
static void a_chat_is_counted(void **state)
{
    infer *m = open_tiny((infer_options){0});
    char content[TINY_CTX] = "";
    infer_message msg = {.role = "user", .content = content};
    infer_params p = {.messages = &msg, .n_messages = 1, .max_tokens = 1};
    uint32_t n = 0, room = TINY_CTX;

    (void)state;
    memset(content, '#', sizeof(content)); /* a token each */
    for (; msg.content_len < room; msg.content_len++) {
        client c = {0};

        assert_int_equal(infer_count(m, &p, &n, err, sizeof(err)), INFER_OK);
        submit(m, &c, p);
        wait_last(&c);
        assert_int_equal(n, c.last.prompt_tokens);
        room = msg.content_len == 0 ? TINY_CTX - n : room;
    }
    assert_int_equal(n, TINY_CTX - 1);
    assert_int_equal(infer_count(m, &p, &n, err, sizeof(err)), INFER_TOO_LONG);
    refused(m, p, INFER_TOO_LONG, "the prompt does not fit the model's context of 128 tokens");
    msg.role = "tool user";
    assert_int_equal(infer_count(m, &p, &n, err, sizeof(err)), INFER_INVALID);
    infer_close(m);
}

/* What it begins with is of the prompt, of the answer only what was said behind it. */
static void an_answer_that_has_begun(void **state)
{
    infer *m = open_tiny((infer_options){0});
    infer_message msgs[] = {{.role = "user", .content = "the", .content_len = 3},
                            {.role = "assistant", .content = "###", .content_len = 3},
                            {.role = "assistant", .content = "##", .content_len = 2}};
    infer_params p = {.messages = msgs, .n_messages = 1};
    uint32_t without = 0, n = 0;
    client c = {0};

    (void)state;
    assert_int_equal(infer_count(m, &p, &without, err, sizeof(err)), INFER_OK);
    p = (infer_params){.messages = msgs, .n_messages = 2, .max_tokens = 4, .begun = true};
    assert_int_equal(infer_count(m, &p, &n, err, sizeof(err)), INFER_OK);
    assert_int_equal(n, without + 3);
    submit(m, &c, p);
    wait_last(&c);
    assert_int_equal(c.last.prompt_tokens, without + 3);
    assert_int_equal(c.last.completion_tokens, 4);
    c = (client){0};
    p.n_messages = 3;
    p.goes_on = true;
    submit(m, &c, p);
    wait_last(&c);
    assert_int_equal(c.last.prompt_tokens, without + 3);
    assert_int_equal(c.last.completion_tokens, 4); /* two of them were there */
    infer_close(m);
}

/* --- calls of tools --- */

/* A control token that is a mark of calls can be had as text, and a grammar can ask for it. */
static void marks_of_calls(void **state)
{
    infer *m = open_model(
        (tiny_model){.control = "[TOOL_CALLS]",
                     .chat_template = "{# [TOOL_CALLS] #}{% for m in messages %}{{ m.content }}"
                                      "{% endfor %}{{ tools | tojson if tools else '' }}"},
        (infer_options){0});
    const sampler_bias only = {TINY_CONTROL, 100};
    const tool_shape f = {.name = AIQ_STR("f"), .schema = AIQ_STR("{\"enum\":[{}]}")};
    tool_language language = {.format = TOOL_MISTRAL,
                              .tokenizer = infer_tokenizer(m),
                              .tools = &f,
                              .n = 1,
                              .required = true,
                              .one = true};
    infer_model_info info;

    (void)state;
    infer_info(m, &info);
    assert_int_equal(info.tool_format, TOOL_MISTRAL);
    for (int shows = 0; shows < 2; shows++) {
        infer_params p = params(2);
        client c = {0};

        p.shows_marks = shows;
        p.bias = &only;
        p.n_bias = 1;
        submit(m, &c, p);
        wait_last(&c);
        assert_string_equal(c.text, shows ? "[TOOL_CALLS][TOOL_CALLS]" : "");
    }
    for (int shows = 0; shows < 2; shows++) {
        infer_params p = params(100);
        client c = {0};

        p.shows_marks = shows;
        p.language = masks_find(infer_masks(m), AIQ_STR("calls"));
        assert_int_equal(p.language != NULL, shows);
        if (p.language == NULL) {
            grammar *g = tool_grammar_new(&language, err, sizeof(err));

            assert_non_null(g);
            p.language = masks_add(infer_masks(m), AIQ_STR("calls"), g);
        }
        submit(m, &c, p);
        mask_language_drop(p.language);
        wait_last(&c);
        assert_int_equal(c.ids[0], TINY_CONTROL);
        assert_int_equal(c.last.finish, INFER_FINISH_STOP);
        assert_string_equal(strchr(c.text, '{'), "{\"name\": \"f\", \"arguments\": {}}]");
        assert_int_equal(strncmp(c.text, "[TOOL_CALLS]", 12) == 0, shows);
    }
    infer_close(m);
}

/* The token that ends a thought can begin the answer, where </think> is none of its own. */
static void thoughts_end_inside_a_token(void **state)
{
    static const char only_yes[] = "{\"enum\":[\"yes\"]}";
    infer *m = open_model(
        (tiny_model){.control = "</think>\n\"y",
                     .skip_key = "tokenizer.ggml.token_type",
                     .chat_template =
                         "{% for m in messages %}{{ m.content }}{% endfor %}<think>"},
        (infer_options){0});
    const infer_message message = {.role = "user", .content = "Hi", .content_len = 2};
    const sampler_bias end = {TINY_CONTROL, 100};
    grammar *g = schema_compile(only_yes, strlen(only_yes), true, err, sizeof(err));
    infer_params p = {.messages = &message, .n_messages = 1, .max_tokens = 20, .n_bias = 1};
    client c = {0};

    (void)state;
    assert_non_null(g);
    p.thinks = true;
    p.bias = &end;
    p.language = masks_add(infer_masks(m), AIQ_STR("yes"), g);
    submit(m, &c, p);
    wait_last(&c);
    assert_string_equal(c.text, "</think>\n\"yes\"");
    assert_int_equal(c.last.finish, INFER_FINISH_STOP);
    assert_int_equal(c.last.thought_tokens, 1);
    mask_language_drop(p.language);
    infer_close(m);
}

/* What is thought is not held to a language; what comes behind it is. */
static void thoughts_are_free(void **state)
{
    static const char only_yes[] = "{\"enum\":[\"yes\"]}";
    infer *m = open_model(
        (tiny_model){.control = "</think>",
                     .chat_template =
                         "{% for m in messages %}{{ m.content }}{% endfor %}<think>"},
        (infer_options){0});
    const infer_message message = {.role = "user", .content = "Hi", .content_len = 2};
    const sampler_bias x = {'x', 100}, end = {TINY_CONTROL, 100};
    grammar *g = schema_compile(only_yes, strlen(only_yes), true, err, sizeof(err));

    (void)state;
    assert_non_null(g);
    infer_params p = {.messages = &message, .n_messages = 1, .max_tokens = 20, .n_bias = 1};
    p.thinks = p.shows_marks = true;
    p.language = masks_add(infer_masks(m), AIQ_STR("yes"), g);
    for (int ends = 0; ends < 2; ends++) {
        client c = {0};

        p.bias = ends ? &end : &x;
        submit(m, &c, p);
        wait_last(&c);
        assert_string_equal(c.text, ends ? "</think>\"yes\"" : "xxxxxxxxxxxxxxxxxxxx");
        assert_int_equal(c.last.finish, ends ? INFER_FINISH_STOP : INFER_FINISH_LENGTH);
        assert_int_equal(c.last.thought_tokens, ends ? 1 : 20);
    }
    mask_language_drop(p.language);
    infer_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_the_best_token_each_time),
        cmocka_unit_test(drafts_change_nothing),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(the_text_is_the_tokens),
        cmocka_unit_test(a_stop_string_ends_it),
        cmocka_unit_test(the_context_ends_it),
        cmocka_unit_test(cancel_ends_it),
        cmocka_unit_test(close_ends_all),
        cmocka_unit_test(pause_holds_one_back),
        cmocka_unit_test(a_pause_changes_nothing),
        cmocka_unit_test(a_full_queue_says_busy),
        cmocka_unit_test(a_short_one_gets_its_share),
        cmocka_unit_test(bad_parameters),
        cmocka_unit_test(a_chat_too_long),
        cmocka_unit_test(a_chat_is_rendered),
        cmocka_unit_test(a_chat_is_counted),
        cmocka_unit_test(an_answer_that_has_begun),
        cmocka_unit_test(marks_of_calls),
        cmocka_unit_test(thoughts_are_free),
        cmocka_unit_test(thoughts_end_inside_a_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

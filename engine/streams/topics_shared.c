#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/json.h"
#include "engine.h"
#include "streams/topics_impl.h"

#define PREFIX   "{aiq:topics}:"
#define NEWS     PREFIX "news"
#define TOPIC    PREFIX "t:" /* then its name, ':' and the tenant */
#define NEWS_MAX "512"

/* Entries of a reply. */

static bool is_text(const redisReply *r)
{
    return r->type == REDIS_REPLY_STRING;
}

static aiq_str text_of(const redisReply *r)
{
    return is_text(r) ? (aiq_str){r->str, r->len} : AIQ_STR("");
}

/* Digits, and what may follow them. */
static bool read_number(aiq_str text, uint64_t *number)
{
    size_t i = 0;

    *number = 0;
    for (; i < text.len && i < 18 && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        *number = *number * 10 + (uint64_t)(text.data[i] - '0');
    }
    return i > 0 && (i == text.len || text.data[i] == '-');
}

static void take_entries(topic *t, const redisReply *entries)
{
    for (size_t i = 0; i < entries->elements; i++) {
        const redisReply *e = entries->element[i];
        uint64_t number;
        if (e->type == REDIS_REPLY_ARRAY && e->elements == 2 &&
            read_number(text_of(e->element[0]), &number)) {
            topic_take(t, number, text_of(e->element[1]));
        }
    }
}

/* What topics.lua answers. False: it is none. t: NULL: it has been forgotten. */
static bool take_answer(topic *t, const redisReply *reply, uint64_t *said)
{
    uint64_t last;

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != 3 ||
        reply->element[2]->type != REDIS_REPLY_ARRAY ||
        !read_number(text_of(reply->element[0]), &last) ||
        !read_number(text_of(reply->element[1]), said)) {
        return false;
    }
    if (t == NULL) {
        return true;
    }
    take_entries(t, reply->element[2]);
    if (!t->ready || stream_log_last(stream_log_of(t->stream)) < last) {
        topic_restart(t, last); /* there was more, which nobody keeps */
    }
    return true;
}

/* Commands. */

static bool run_script(script_run *run, aiq_str tenant, aiq_str name, uint64_t after,
                       const topic_question *said, aiq_str event,
                       void (*fn)(void *arg, const redisReply *reply), void *arg)
{
    aiq_buf key = {0};
    char number[24], bytes[24], keep[24];
    aiq_str words[11];

    aiq_buf_text(&key, TOPIC);
    aiq_buf_add(&key, name.data, name.len);
    aiq_buf_text(&key, ":");
    aiq_buf_add(&key, tenant.data, tenant.len);
    script_words(run, words);
    words[2] = AIQ_STR("2");
    words[3] = (aiq_str){(char *)key.data, key.len};
    words[4] = AIQ_STR(NEWS);
    words[5] = (aiq_str){
        number, (size_t)snprintf(number, sizeof(number), "%llu", (unsigned long long)after)};
    words[6] = (aiq_str){bytes, (size_t)snprintf(bytes, sizeof(bytes), "%zu", TOPIC_BYTES)};
    words[7] = (aiq_str){keep, (size_t)snprintf(keep, sizeof(keep), "%d", TOPIC_KEEP_MS)};
    if (said) {
        words[8] = (aiq_str){said->id, strlen(said->id)};
        words[9] = event;
        words[10] = said->tries ? AIQ_STR("1") : AIQ_STR("0");
    }
    bool sent = redis_ask(run->loop->engine->redis, run->loop, &run->call, words, said ? 11 : 8,
                          fn, arg);
    aiq_buf_free(&key);
    return sent;
}

static uint64_t last_of(const topic *t)
{
    return t && t->ready ? stream_log_last(stream_log_of(t->stream)) : 0;
}

/* What others have said. */

static void fetch(topic *t);

static void on_fetched(void *arg, const redisReply *reply);

static bool ask_for(topic *t)
{
    const aiq_str none = {NULL, 0};

    return run_script(&t->run, (aiq_str){t->text, t->tenant_len},
                      (aiq_str){t->text + t->tenant_len, t->name_len}, last_of(t), NULL, none,
                      on_fetched, t);
}

static void look(aiq_loop *loop, void *arg);

/* It is asked for with the next look, which had better be soon. */
static void set_stale(topic *t)
{
    topic_table *in = t->table;

    t->stale = true;
    in->some_stale = true;
    if (in->poll.heap_index && in->poll.due_ns > loop_now_ns() + TOPIC_NEWS_MS * 1000000ull) {
        loop_timer_start(in->loop, &in->poll, TOPIC_NEWS_MS, look, in);
    }
}

static void on_fetched(void *arg, const redisReply *reply)
{
    topic *t = arg;
    uint64_t said;

    if (script_forgotten(&t->run, reply) && ask_for(t)) {
        return;
    }
    if (!take_answer(t, reply, &said)) {
        set_stale(t);
    } else if (t->stale) {
        fetch(t);
    }
}

static void fetch(topic *t)
{
    if (t->run.call.command) {
        set_stale(t); /* once it is answered */
        return;
    }
    t->stale = false;
    script_begin(&t->run, t->table->all->script, t->table->loop);
    if (!ask_for(t)) {
        set_stale(t);
    }
}

static void set_all_stale(topic_table *in)
{
    for (size_t i = 0; i < TOPIC_BUCKETS; i++) {
        for (topic *t = in->buckets[i]; t; t = t->next) {
            set_stale(t);
        }
    }
}

/* What could not be asked for before; not all at once. */
static void fetch_stale(topic_table *in)
{
    unsigned n = 0;

    in->some_stale = false;
    for (size_t i = 0; i < TOPIC_BUCKETS; i++) {
        for (topic *t = in->buckets[i]; t; t = t->next) {
            if (t->stale && t->run.call.command == NULL && n++ < TOPIC_FETCHES) {
                fetch(t);
            }
            in->some_stale |= t->stale;
        }
    }
}

/* The news. */

static void look_later(topic_table *in, uint64_t ms)
{
    if (in->n > 0) {
        loop_timer_start(in->loop, &in->poll, ms, look, in);
    } else {
        in->news[0] = '\0'; /* nobody keeps up with them */
    }
}

static void take_news(topic_table *in, const redisReply *entry)
{
    const redisReply *fields = entry->elements == 2 ? entry->element[1] : NULL;
    aiq_str key, name, tenant;

    if (fields == NULL || fields->type != REDIS_REPLY_ARRAY || fields->elements < 2 ||
        !aiq_str_after(text_of(fields->element[1]), TOPIC, &key)) {
        return;
    }
    const char *colon = memchr(key.data, ':', key.len);
    if (colon == NULL) {
        return;
    }
    name = (aiq_str){key.data, (size_t)(colon - key.data)};
    tenant = (aiq_str){colon + 1, key.len - name.len - 1};
    topic *t = topic_find(in, tenant, name);
    if (t) {
        fetch(t);
    }
}

/* The name of the last entry is where the next look begins. */
static bool note_place(topic_table *in, const redisReply *reply)
{
    const redisReply *e = reply->elements ? reply->element[reply->elements - 1] : NULL;
    aiq_str name =
        e && e->type == REDIS_REPLY_ARRAY && e->elements ? text_of(e->element[0]) : AIQ_STR("");

    if (name.len >= sizeof(in->news)) {
        return false;
    }
    if (name.len) {
        memcpy(in->news, name.data, name.len);
        in->news[name.len] = '\0';
    } else if (in->news[0] == '\0') {
        memcpy(in->news, "0-0", sizeof("0-0"));
    }
    return true;
}

static void on_news(void *arg, const redisReply *reply)
{
    topic_table *in = arg;
    bool all = in->away || in->news[0] == '\0';

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || !note_place(in, reply)) {
        in->away = true;
        look_later(in, TOPIC_TRY_MS);
        return;
    }
    in->away = false;
    for (size_t i = 0; !all && i < reply->elements; i++) {
        if (reply->element[i]->type == REDIS_REPLY_ARRAY) {
            take_news(in, reply->element[i]);
        }
    }
    if (all || loop_turn_ns(in->loop) - in->touched_ns > TOPIC_TOUCH_MS * 1000000ull) {
        in->touched_ns = loop_turn_ns(in->loop);
        set_all_stale(in);
    }
    if (in->some_stale) {
        fetch_stale(in);
    }
    bool hears = redis_hears(in->loop->engine->redis) && !in->some_stale;
    look_later(in, in->again ? 0 : hears ? in->all->look_ms : TOPIC_NEWS_MS);
    in->again = false;
}

static void look(aiq_loop *loop, void *arg)
{
    topic_table *in = arg;
    char from[TOPIC_ENTRY + 1];
    const aiq_str latest[] = {AIQ_STR("XREVRANGE"), AIQ_STR(NEWS),    AIQ_STR("+"),
                              AIQ_STR("-"),         AIQ_STR("COUNT"), AIQ_STR("1")};
    aiq_str next[] = {AIQ_STR("XRANGE"), AIQ_STR(NEWS),    {from, 0},
                      AIQ_STR("+"),      AIQ_STR("COUNT"), AIQ_STR(NEWS_MAX)};

    next[2].len = (size_t)snprintf(from, sizeof(from), "(%s", in->news);
    if (!redis_ask(loop->engine->redis, loop, &in->call, in->news[0] ? next : latest, 6,
                   on_news, in)) {
        on_news(in, NULL);
    }
}

static void on_told(aiq_loop *loop, void *arg)
{
    topic_table *in = arg;

    __atomic_store_n(&in->told, false, __ATOMIC_RELAXED);
    if (in->call.command) {
        in->again = true;
    } else if (in->poll.heap_index) {
        loop_timer_start(loop, &in->poll, 0, look, in);
    }
}

static void on_any_news(void *arg)
{
    topics *all = arg;

    for (unsigned i = 0; i < all->engine->options.loops; i++) {
        topic_table *in = &all->tables[i];
        if (!__atomic_exchange_n(&in->told, true, __ATOMIC_RELAXED)) {
            loop_post(in->loop, on_told, in);
        }
    }
}

void topics_hear(topics *all)
{
    redis_hear(all->engine->redis, NEWS, on_any_news, all);
}

/* Topics. */

static void end_question(topic_question *q)
{
    loop_timer_stop(q->run.loop, &q->again);
    redis_cancel(&q->run.call);
    *q->prev = q->next;
    if (q->next) {
        q->next->prev = q->prev;
    }
    topic_answer(q);
}

static bool unavailable(aiq_err *err)
{
    return aiq_fail(err, 503, "topics_unavailable",
                    "Topics are shared by several engines, and what they share does not answer "
                    "at the moment.");
}

static void on_exit_loop(aiq_loop *loop, void *arg)
{
    topic_table *in = arg;

    in->ended = true;
    loop_timer_stop(loop, &in->poll);
    redis_cancel(&in->call);
    for (size_t i = 0; i < TOPIC_BUCKETS; i++) {
        for (topic *t = in->buckets[i]; t; t = t->next) {
            redis_cancel(&t->run.call);
        }
    }
    while (in->asked) {
        unavailable(&in->asked->err);
        end_question(in->asked);
    }
}

void topic_shared_start(topic_table *in)
{
    in->exit = (loop_hook){.fn = on_exit_loop, .arg = in};
    loop_at_exit(in->loop, &in->exit);
}

static void begin(topic_table *in)
{
    if (in->poll.heap_index == 0 && in->call.command == NULL) {
        loop_timer_start(in->loop, &in->poll, 0, look, in);
    }
}

/* Where the news are looked at for the first time, all are asked for behind that. */
void topic_shared_begin(topic *t)
{
    t->ready = false;
    if (t->table->ended) {
        return;
    }
    begin(t->table);
    if (t->table->news[0]) {
        fetch(t);
    } else {
        set_stale(t);
    }
}

void topic_shared_end(topic *t)
{
    redis_cancel(&t->run.call);
}

/* Publishing. */

static void ask_again(aiq_loop *loop, void *arg);

static void on_said(void *arg, const redisReply *reply);

static bool say(topic_question *q)
{
    topic_table *in = &q->run.loop->engine->topics->tables[q->run.loop->index];
    aiq_buf event = {0};

    topic_event_text(&event, q);
    bool sent =
        run_script(&q->run, q->tenant, q->name, last_of(topic_find(in, q->tenant, q->name)), q,
                   (aiq_str){(char *)event.data, event.len}, on_said, q);
    aiq_buf_free(&event);
    return sent;
}

static void say_later(topic_question *q)
{
    if (++q->tries < TOPIC_TRIES) {
        loop_timer_start(q->run.loop, &q->again, TOPIC_TRY_MS, ask_again, q);
    } else {
        unavailable(&q->err);
        end_question(q);
    }
}

static void on_said(void *arg, const redisReply *reply)
{
    topic_question *q = arg;
    topic_table *in = &q->run.loop->engine->topics->tables[q->run.loop->index];

    if (script_forgotten(&q->run, reply) && say(q)) {
        return;
    }
    if (take_answer(topic_find(in, q->tenant, q->name), reply, &q->seq) && q->seq) {
        metric_add(in->all->events, 1);
        end_question(q);
    } else {
        say_later(q);
    }
}

static void ask_again(aiq_loop *loop, void *arg)
{
    topic_question *q = arg;

    script_begin(&q->run, loop->engine->topics->script, loop);
    if (!say(q)) {
        say_later(q);
    }
}

void topic_shared_publish(topic_table *in, topic_question *q)
{
    if (in->ended) {
        unavailable(&q->err);
        topic_answer(q);
        return;
    }
    q->next = in->asked;
    q->prev = &in->asked;
    if (q->next) {
        q->next->prev = &q->next;
    }
    in->asked = q;
    aiq_id(q->id, "");
    begin(in);
    q->run.loop = in->loop;
    ask_again(in->loop, q);
}

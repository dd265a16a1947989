#include "streams/topics.h"

#include <stdlib.h>
#include <string.h>
#include "access/role.h"
#include "core/json.h"
#include "engine.h"
#include "streams/topics_impl.h"
#include "topics_lua.h" /* made by the build: topics_lua[], the script */

#define EXPIRY_MS 10000 /* how often it is looked who was kept long enough */

/* Names. */

bool topic_is_name(aiq_str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-')) {
            return false;
        }
    }
    return name.len > 0 && name.len <= TOPIC_NAME_MAX;
}

static bool begins(aiq_str name, aiq_str with)
{
    return name.len >= with.len && memcmp(name.data, with.data, with.len) == 0;
}

bool topic_may_read(aiq_str role, aiq_str name)
{
    return !begins(name, AIQ_STR("aiq.admin.")) ||
           role_rank(role) >= role_rank(AIQ_STR("admin"));
}

bool topic_may_publish(aiq_str name)
{
    return !begins(name, AIQ_STR("aiq."));
}

/* FNV-1a. What a tenant picks can meet in one bucket, but TOPICS_TENANT_MAX bounds how
 * much of that there is. */
static uint32_t hash_of(aiq_str tenant, aiq_str name)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < tenant.len + name.len; i++) {
        char c = i < tenant.len ? tenant.data[i] : name.data[i - tenant.len];
        hash = (hash ^ (uint8_t)c) * 16777619u;
    }
    return hash;
}

aiq_loop *topic_owner(aiq_engine *engine, aiq_str tenant, aiq_str name, aiq_err *err)
{
    if (!topic_is_name(name)) {
        aiq_fail(err, 404, "topic_not_found",
                 "A topic's name has 1 to %d letters, digits, '.', '_' and '-'.",
                 TOPIC_NAME_MAX);
        return NULL;
    }
    return &engine->loops[hash_of(tenant, name) % engine->options.loops];
}

/* Those that nobody reads. */

static void take_off_idle(topic *t)
{
    topic_table *in = t->table;

    if (!t->idle) {
        return;
    }
    *(t->older ? &t->older->newer : &in->oldest) = t->newer;
    *(t->newer ? &t->newer->older : &in->newest) = t->older;
    t->older = t->newer = NULL;
    t->idle = false;
}

/* Its stream goes as all do that have ended. */
static void drop(topic *t)
{
    topic_table *in = t->table;
    topic **at = &in->buckets[t->hash % TOPIC_BUCKETS];

    take_off_idle(t);
    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    in->n--;
    if (in->all->script) {
        topic_shared_end(t);
    }
    metric_add(in->all->open, -1);
    stream_end(t->stream);
    free(t);
}

static void on_expiry(aiq_loop *loop, void *arg)
{
    topic_table *in = arg;
    uint64_t now = loop_now_ns();

    while (in->oldest && now - in->oldest->since_ns >= TOPIC_KEEP_MS * 1000000ull) {
        drop(in->oldest);
    }
    if (in->oldest) {
        loop_timer_start(loop, &in->expiry, EXPIRY_MS, on_expiry, in);
    }
}

static void put_on_idle(topic *t)
{
    topic_table *in = t->table;

    t->idle = true;
    t->since_ns = loop_now_ns();
    t->older = in->newest;
    *(in->newest ? &in->newest->newer : &in->oldest) = t;
    in->newest = t;
    if (in->expiry.heap_index == 0) {
        loop_timer_start(in->loop, &in->expiry, EXPIRY_MS, on_expiry, in);
    }
}

static void on_watched(void *arg, bool watched)
{
    (watched ? take_off_idle : put_on_idle)(arg);
}

static void evict(topic_table *in)
{
    metric_add(in->all->evictions, 1);
    drop(in->oldest);
}

/* A topic. */

static const stream_producer producer = {.watched = on_watched};

static bool is_of(const topic *t, aiq_str tenant)
{
    return aiq_str_eq((aiq_str){t->text, t->tenant_len}, tenant);
}

static topic *find(const topic_table *in, uint32_t hash, aiq_str tenant, aiq_str name)
{
    topic *t = in->buckets[hash % TOPIC_BUCKETS];

    while (t && !(t->hash == hash && is_of(t, tenant) &&
                  aiq_str_eq((aiq_str){t->text + t->tenant_len, t->name_len}, name))) {
        t = t->next;
    }
    return t;
}

static unsigned count_of(const topic_table *in, aiq_str tenant)
{
    unsigned n = 0;

    for (size_t i = 0; i < TOPIC_BUCKETS; i++) {
        for (const topic *t = in->buckets[i]; t; t = t->next) {
            n += is_of(t, tenant);
        }
    }
    return n;
}

/* One of the tenant's that nobody reads and nobody has said anything in: whoever may only read
 * is not to use up what others may publish to. */
static bool drop_empty(topic_table *in, aiq_str tenant)
{
    topic *t = in->oldest;

    while (t && !(is_of(t, tenant) && stream_log_end(stream_log_of(t->stream)) == 0)) {
        t = t->newer;
    }
    if (t) {
        drop(t);
    }
    return t;
}

static topic *make(topic_table *in, uint32_t hash, aiq_str tenant, aiq_str name)
{
    topic *t = aiq_zalloc(sizeof(*t) + tenant.len + name.len);

    t->table = in;
    t->hash = hash;
    t->tenant_len = tenant.len;
    t->name_len = name.len;
    memcpy(mempcpy(t->text, tenant.data, tenant.len), name.data, name.len);
    t->stream = stream_new(in->loop, tenant, TOPIC_BYTES, &producer, t);
    stream_objects(t->stream, (uint64_t)aiq_now_ms() * 1000);
    t->next = in->buckets[hash % TOPIC_BUCKETS];
    in->buckets[hash % TOPIC_BUCKETS] = t;
    in->n++;
    metric_add(in->all->open, 1);
    put_on_idle(t);
    t->ready = true;
    if (in->all->script) {
        topic_shared_begin(t);
    }
    return t;
}

static topic *find_or_make(aiq_loop *loop, aiq_str tenant, aiq_str name, aiq_err *err)
{
    topic_table *in = &loop->engine->topics->tables[loop->index];
    uint32_t hash = hash_of(tenant, name);
    topic *t = find(in, hash, tenant, name);

    if (t) {
        return t;
    }
    if (in->n >= TOPICS_MAX && in->oldest) {
        evict(in);
    }
    if (in->n >= TOPICS_MAX ||
        (!aiq_str_is(name, TOPIC_BUDGETS) && count_of(in, tenant) >= TOPICS_TENANT_MAX &&
         !drop_empty(in, tenant))) {
        metric_add(in->all->refusals, 1);
        aiq_fail(err, 429, "too_many_topics",
                 "There are too many topics; those that nobody uses are forgotten after "
                 "%d s.",
                 TOPIC_KEEP_MS / 1000);
        return NULL;
    }
    return make(in, hash, tenant, name);
}

stream *topic_stream(aiq_loop *loop, aiq_str tenant, aiq_str name, aiq_err *err)
{
    topic *t = find_or_make(loop, tenant, name, err);

    return t && t->ready ? t->stream : NULL;
}

topic *topic_find(const topic_table *in, aiq_str tenant, aiq_str name)
{
    return find(in, hash_of(tenant, name), tenant, name);
}

/* Publishing. */

/* An event is one line: newlines stand between a document's tokens alone. */
static void add_line(aiq_buf *out, aiq_str data)
{
    size_t at = out->len;

    aiq_buf_add(out, data.data, data.len);
    for (; at < out->len; at++) {
        if (out->data[at] == '\n' || out->data[at] == '\r') {
            out->data[at] = ' ';
        }
    }
}

void topic_event_text(aiq_buf *out, const topic_question *q)
{
    aiq_buf_text(out, "{\"type\":");
    json_quote(out, q->type.data, q->type.len);
    aiq_buf_text(out, ",\"data\":");
    add_line(out, q->data);
    aiq_buf_text(out, ",\"timestamp\":\"");
    stream_log_time(out, aiq_now_ms());
    aiq_buf_text(out, "\"");
}

static uint64_t last_of(const topic *t)
{
    return stream_log_last(stream_log_of(t->stream));
}

/* Those who read it find their places anew. */
void topic_restart(topic *t, uint64_t number)
{
    stream *old = t->stream;

    t->stream = stream_new(t->table->loop, (aiq_str){t->text, t->tenant_len}, TOPIC_BYTES,
                           &producer, t);
    stream_objects(t->stream, number);
    t->ready = true;
    if (!t->idle) {
        put_on_idle(t); /* until they are back */
    }
    stream_moved(old);
}

/* Nothing else has been said by an engine. */
static bool is_line(const aiq_buf *event)
{
    const size_t before = strlen("data: "), behind = strlen("\n\n");
    const char *text = (char *)event->data + before;
    const size_t len = event->len - before - behind;
    json_error wrong;

    return memchr(text, '\n', len) == NULL && json_valid(text, len, &wrong);
}

void topic_take(topic *t, uint64_t number, aiq_str text)
{
    aiq_buf out = {0};

    if (t->ready && number <= last_of(t)) {
        return;
    }
    aiq_buf_text(&out, "data: ");
    aiq_buf_add(&out, text.data, text.len);
    aiq_buf_printf(&out, ",\"seq\":%llu}\n\n", (unsigned long long)number);
    if (is_line(&out)) {
        if (!t->ready || number != last_of(t) + 1) {
            topic_restart(t, number - 1);
        }
        if (t->idle) {
            take_off_idle(t);
            put_on_idle(t);
        }
        stream_add(t->stream, out.data, out.len);
        if (t->table->oldest && t->table->oldest != t && streams_full(t->table->loop)) {
            evict(t->table);
        }
    }
    aiq_buf_free(&out);
}

static uint64_t add_event(topic *t, const topic_question *q)
{
    uint64_t number = last_of(t) + 1;
    aiq_buf text = {0};

    topic_event_text(&text, q);
    topic_take(t, number, (aiq_str){(char *)text.data, text.len});
    aiq_buf_free(&text);
    return number;
}

static void on_published(aiq_loop *loop, void *arg)
{
    topic_question *q = arg;

    (void)loop;
    if (q->told) {
        q->told(q->arg, q->seq, &q->err);
    }
    free(q);
}

void topic_answer(topic_question *q)
{
    if (q->home) {
        loop_post(q->home, on_published, q);
    } else {
        free(q);
    }
}

static void on_publish(aiq_loop *loop, void *arg)
{
    topic_question *q = arg;
    topics *all = loop->engine->topics;
    topic *t = find_or_make(loop, q->tenant, q->name, &q->err);

    if (t && all->script) {
        topic_shared_publish(t->table, q);
        return;
    }
    if (t) {
        metric_add(all->events, 1);
        q->seq = add_event(t, q);
    }
    topic_answer(q);
}

static char *keep(char *at, aiq_str from, aiq_str *to)
{
    *to = (aiq_str){at, from.len};
    return mempcpy(at, from.data, from.len);
}

static topic_question *post(aiq_engine *engine, aiq_loop *home, aiq_str tenant, aiq_str name,
                            aiq_str type, aiq_str data, topic_told told, void *arg)
{
    topic_question *q = aiq_zalloc(sizeof(*q) + tenant.len + name.len + type.len + data.len);
    uint32_t owner = hash_of(tenant, name) % engine->options.loops;

    q->home = home;
    q->told = told;
    q->arg = arg;
    keep(keep(keep(keep(q->text, tenant, &q->tenant), name, &q->name), type, &q->type), data,
         &q->data);
    loop_post(&engine->loops[owner], on_publish, q);
    return q;
}

void topic_publish(aiq_engine *engine, aiq_str tenant, aiq_str name, aiq_str type, aiq_str data)
{
    if (engine->topics) {
        (void)post(engine, NULL, tenant, name, type, data, NULL, NULL);
    }
}

topic_question *topic_ask(aiq_loop *loop, aiq_str tenant, aiq_str name, aiq_str type,
                          aiq_str data, topic_told told, void *arg)
{
    return post(loop->engine, loop, tenant, name, type, data, told, arg);
}

void topic_forget(topic_question *question)
{
    question->told = NULL;
}

/* Life of all. */

static metric *only(metric_family *family)
{
    return metrics_sample(family, NULL);
}

topics *topics_new(aiq_engine *engine)
{
    unsigned n = engine->options.loops;
    topics *all = aiq_zalloc(sizeof(*all) + n * sizeof(all->tables[0]));
    metrics *m = engine->metrics;

    all->engine = engine;
    all->look_ms = TOPIC_LOOK_MS;
    all->open =
        only(metrics_family(m, METRIC_GAUGE, "aiq_topics", "Topics that are kept.", "", NULL));
    all->events = only(metrics_family(m, METRIC_COUNTER, "aiq_topic_events_total",
                                      "Events published to topics.", "", NULL));
    all->refusals =
        only(metrics_family(m, METRIC_COUNTER, "aiq_topic_refusals_total",
                            "Topics that were refused, for there were too many.", "", NULL));
    all->evictions =
        only(metrics_family(m, METRIC_COUNTER, "aiq_topic_evictions_total",
                            "Topics that were forgotten early for want of room.", "", NULL));
    if (engine->options.redis) {
        all->script = script_new(engine, topics_lua, sizeof(topics_lua) - 1);
    }
    for (unsigned i = 0; i < n; i++) {
        all->tables[i].all = all;
        all->tables[i].loop = &engine->loops[i];
        if (all->script) {
            topic_shared_start(&all->tables[i]);
        }
    }
    return all;
}

void topics_free(topics *all)
{
    unsigned n = all ? all->engine->options.loops : 0;

    /* readers have left, which their topics hear */
    for (unsigned i = 0; i < 2 * n; i++) {
        loop_flush(&all->engine->loops[i % n]);
    }
    for (unsigned i = 0; i < n; i++) {
        loop_timer_stop(all->tables[i].loop, &all->tables[i].expiry);
        while (all->tables[i].oldest) {
            drop(all->tables[i].oldest);
        }
    }
    if (all) {
        script_free(all->script);
        free(all);
    }
}

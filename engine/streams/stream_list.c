#include "streams/stream_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine.h"
#include "streams/durable.h"

/* It visits the loops one after the other, then the store, and comes home. */
struct stream_lister {
    aiq_loop *home;
    stream_listed told; /* NULL: nobody waits any more */
    void *arg;
    unsigned next; /* loop */
    stream_list list;
    durable_owned owned;
    size_t tenant_len, user_len;
    char texts[]; /* both */
};

static aiq_str tenant_of(const stream_lister *l)
{
    return (aiq_str){l->texts, l->tenant_len};
}

static aiq_str user_of(const stream_lister *l)
{
    return (aiq_str){l->texts + l->tenant_len, l->user_len};
}

void stream_list_add(stream_list *list, const stream_entry *entry)
{
    size_t at = list->n;

    while (at > 0 && list->of[at - 1].began_ms < entry->began_ms) {
        at--;
    }
    if (at == STREAM_LIST_MOST) {
        return;
    }
    size_t behind = list->n - at - (list->n == STREAM_LIST_MOST);
    memmove(&list->of[at + 1], &list->of[at], behind * sizeof(*entry));
    list->of[at] = *entry;
    list->n += list->n < STREAM_LIST_MOST;
}

static void on_all(aiq_loop *loop, void *arg)
{
    stream_lister *l = arg;

    (void)loop;
    if (l->told) {
        l->told(l->arg, &l->list);
    }
    free(l);
}

static void on_owned(aiq_loop *loop, void *arg, const aiq_err *err)
{
    stream_lister *l = arg;

    for (size_t i = 0; err == NULL && i < l->owned.n; i++) {
        stream_list_add(&l->list, &l->owned.of[i]);
    }
    on_all(loop, l);
}

static void ask_store(aiq_loop *loop, void *arg)
{
    stream_lister *l = arg;

    l->owned = (durable_owned){.tenant = tenant_of(l), .user = user_of(l)};
    if (l->told == NULL || !durable_list(loop, &l->owned, on_owned, l)) {
        on_all(loop, l);
    }
}

static void add_one(void *arg, const stream_info *info)
{
    stream_entry entry = {
        .last = info->last, .began_ms = info->began_ms, .guaranteed = info->guaranteed};

    snprintf(entry.id, sizeof(entry.id), "%s", info->id);
    snprintf(entry.model, sizeof(entry.model), "%.*s", (int)info->model.len, info->model.data);
    stream_list_add(arg, &entry);
}

static void visit(aiq_loop *loop, void *arg)
{
    stream_lister *l = arg;
    aiq_engine *engine = loop->engine;

    streams_of(loop, tenant_of(l), user_of(l), add_one, &l->list);
    if (++l->next < engine->options.loops) {
        loop_post(&engine->loops[l->next], visit, l);
    } else {
        loop_post(l->home, ask_store, l);
    }
}

stream_lister *stream_list_ask(aiq_loop *loop, aiq_str tenant, aiq_str user, stream_listed told,
                               void *arg)
{
    stream_lister *l = aiq_zalloc(sizeof(*l) + tenant.len + user.len);

    l->home = loop;
    l->told = told;
    l->arg = arg;
    l->tenant_len = tenant.len;
    l->user_len = user.len;
    memcpy(l->texts, tenant.data, tenant.len);
    if (user.len) {
        memcpy(l->texts + tenant.len, user.data, user.len);
        loop_post(&loop->engine->loops[0], visit, l);
    } else {
        loop_post(loop, on_all, l);
    }
    return l;
}

void stream_list_forget(stream_lister *l)
{
    l->told = NULL;
}

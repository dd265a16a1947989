/*
 * Questions about API keys. A CHECK takes a slot and is answered by the keyring.
 * A job with a key is vouched for before its end() runs, so that what its
 * handler does is for a key that lives, and the key's own limit and budgets join those
 * of its location; and when keys change, the keys of the
 * jobs that run are looked at again, one after the other, and jobs whose key is
 * gone end.
 */

#include <openssl/evp.h>
#include <string.h>
#include "core/json.h"
#include "core/log.h"
#include "link/link.h"
#include "link/route.h"

/* Keys that have a rate of tokens, as many as may be counted at a time. */
#define RATED_KEYS 16384

/* CHECK. */

static void on_verdict(aiq_loop *loop, void *arg, const keyring_verdict *v)
{
    (void)loop;
    link_job_verdict(arg, v);
}

/* The one field that matters; others are skipped. */
static bool parse_check(const uint8_t *payload, uint32_t len, uint8_t hash[KEYRING_NAME])
{
    aiq_fields fields = {payload, payload + len};
    bool found = false;
    const uint8_t *data;
    uint16_t id, n;
    int rc;

    while ((rc = aiq_field_next(&fields, &id, &data, &n)) == 1) {
        if (id == AIQ_FIELD_KEY_HASH && n == KEYRING_NAME) {
            memcpy(hash, data, KEYRING_NAME);
            found = true;
        }
    }
    return rc == 0 && found;
}

void link_check(aiq_link *l, const aiq_frame *frame, const uint8_t *payload)
{
    uint8_t *copy = l->end->scratch, hash[KEYRING_NAME];

    if (l->slots[frame->slot]) {
        link_break(l, "CHECK on a slot in use");
        return;
    }
    /* out of the worker's reach before it is parsed */
    memcpy(copy, payload, frame->len);
    if (frame->len > AIQ_CHECK_MAX || !parse_check(copy, frame->len, hash)) {
        link_break(l, "CHECK without a key's hash");
        return;
    }
    link_job *j = link_job_new(l, frame->slot, frame->generation);
    j->state = JOB_CHECKING;
    j->ask.answer = on_verdict;
    j->ask.arg = j;
    if (!l->wants_epoch) {
        l->wants_epoch = true;
        link_push_epoch(l); /* before the verdict: the worker keeps those it has heard of */
    }
    const keyring_verdict *v = keyring_find(l->end->loop, KEYRING_HASH,
                                            (aiq_str){(char *)hash, sizeof(hash)}, &j->ask);
    if (v) {
        link_job_verdict(j, v);
    }
}

/* Jobs with a key. */

static bool dead(const keyring_verdict *v)
{
    return v->status == 401 || v->status == 403;
}

static void fail_unvouched(const keyring_verdict *v, aiq_err *err)
{
    if (dead(v)) {
        aiq_fail(err, 401, "key_revoked", "This API key is not valid any more.");
    } else {
        aiq_fail(err, 503, "key_unverified", "The server cannot verify API keys right now.");
        err->retry_after = 1;
    }
}

static void take_models(link_job *j, const keyring_verdict *v)
{
    aiq_job *job = &j->job;

    if (v->models.len) {
        job->models =
            (aiq_str){aiq_pool_copy(job->pool, v->models.data, v->models.len), v->models.len};
    }
}

/* Budgets that the location has, too, are one: the ledger finds the stricter. */
static bool has_budget(const aiq_job *job, const policy_budget *budget)
{
    for (size_t i = 0; i < job->n_budgets; i++) {
        const policy_budget *b = &job->budgets[i];
        if (b->scope == budget->scope && b->unit == budget->unit &&
            b->period == budget->period) {
            return true;
        }
    }
    return false;
}

static void take_budgets(aiq_job *job, const keyring_verdict *v)
{
    size_t n = job->n_budgets;

    if (v->n_budgets == 0) {
        return;
    }
    policy_budget *all = aiq_pool_alloc(job->pool, (n + v->n_budgets) * sizeof(*all));
    if (n) {
        memcpy(all, job->budgets, n * sizeof(*all));
    }
    for (size_t i = 0; i < v->n_budgets; i++) {
        if (!has_budget(job, &v->budgets[i])) {
            all[n++] = v->budgets[i];
        }
    }
    job->budgets = all;
    job->n_budgets = n;
}

static void take_limit(aiq_job *job, const keyring_verdict *v)
{
    size_t n = job->n_limits;
    uint8_t digest[EVP_MAX_MD_SIZE];

    if (v->tokens == 0) {
        return;
    }
    policy_limit *limits = aiq_pool_alloc(job->pool, (n + 1) * sizeof(*limits));
    uint8_t *keys = aiq_pool_alloc(job->pool, (n + 1) * AIQ_LIMIT_KEY);
    if (n) {
        memcpy(limits, job->limits, n * sizeof(*limits));
        memcpy(keys, job->limit_keys, n * AIQ_LIMIT_KEY);
    }
    EVP_Digest(v->key_id.data, v->key_id.len, digest, NULL, EVP_sha256(), NULL);
    memcpy(keys + n * AIQ_LIMIT_KEY, digest, AIQ_LIMIT_KEY);
    limits[n] = (policy_limit){
        .zone = "aiq_key", .tokens = v->tokens, .window_ms = 60000, .keys = RATED_KEYS};
    job->limits = limits;
    job->n_limits = n + 1;
    job->limit_keys = keys;
}

static void take_key(link_job *j, const keyring_verdict *v)
{
    take_models(j, v);
    take_budgets(&j->job, v);
    take_limit(&j->job, v);
}

static void on_vouched(aiq_loop *loop, void *arg, const keyring_verdict *v)
{
    link_job *j = arg;
    aiq_err err;

    (void)loop;
    j->asking = false;
    if (v->status != 200) {
        fail_unvouched(v, &err);
        link_job_abort(j, &err);
        return;
    }
    take_key(j, v);
    if (j->whole && j->job.route->handler->end) {
        j->job.route->handler->end(&j->job);
    }
}

bool link_job_vouch(link_job *j)
{
    aiq_job *job = &j->job;
    link_end *end = job->loop->links;
    aiq_err err;

    if (job->key_id.len == 0) {
        return true;
    }
    if (j->link && !j->link->wants_epoch) {
        j->link->wants_epoch = true;
        link_push_epoch(j->link);
    }
    j->ask.answer = on_vouched;
    j->ask.arg = j;
    const keyring_verdict *v = keyring_find(end->loop, KEYRING_ID, job->key_id, &j->ask);
    if (v && v->status != 200) {
        fail_unvouched(v, &err);
        job_fail(job, &err);
        return false;
    }
    if (v) {
        take_key(j, v);
    }
    j->asking = v == NULL;
    j->next_keyed = end->keyed;
    j->prev_keyed = &end->keyed;
    if (j->next_keyed) {
        j->next_keyed->prev_keyed = &j->next_keyed;
    }
    end->keyed = j;
    return true;
}

void link_job_unkey(link_job *j)
{
    keyring_forget(&j->ask);
    j->asking = false;
    if (j->prev_keyed) {
        *j->prev_keyed = j->next_keyed;
        if (j->next_keyed) {
            j->next_keyed->prev_keyed = j->prev_keyed;
        }
        j->prev_keyed = NULL;
    }
}

bool job_is_vouched(const aiq_job *job)
{
    return !((const link_job *)job)->asking;
}

bool job_may_use(const aiq_job *job, const char *model)
{
    const json_value models = {.type = JSON_ARRAY, .text = job->models};
    json_value name;
    size_t cursor = 0;

    if (job->models.len == 0) {
        return true;
    }
    while (json_each(&models, &cursor, NULL, &name)) {
        if (json_string_is(&name, model)) {
            return true;
        }
    }
    return false;
}

/* When keys have changed. */

static bool same_key(const link_end *end, const link_job *j)
{
    return aiq_str_eq(j->job.key_id, (aiq_str){end->recheck_id, end->recheck_len});
}

static void log_end(const link_job *j)
{
    char id[KEYRING_NAME + 1] = "";

    memcpy(id, j->job.key_id.data, j->job.key_id.len);
    aiq_log(AIQ_LOG_INFO, "link", "the key of a running request is gone", AIQ_S("key_id", id));
}

/* What a verdict means for the jobs that run with the key. */
static void apply(link_end *end, const keyring_verdict *v)
{
    link_job *j = end->keyed;
    aiq_err err;

    fail_unvouched(v, &err);
    while (j) {
        bool ends = same_key(end, j) && dead(v);
        if (same_key(end, j)) {
            j->unsure = false;
        }
        if (ends) {
            log_end(j);
            link_job_abort(j, &err);
        }
        /* the end of one may have ended others: from the start, which is shorter now */
        j = ends ? end->keyed : j->next_keyed;
    }
}

static void recheck(link_end *end);

static void on_rechecked(aiq_loop *loop, void *arg, const keyring_verdict *v)
{
    link_end *end = arg;

    (void)loop;
    end->rechecking = false;
    if (v->status != 503) { /* else again when the store has answered */
        apply(end, v);
        recheck(end);
    }
}

/* Asks about the keys of the jobs that are unsure, one at a time. */
static void recheck(link_end *end)
{
    link_job *j = end->keyed;

    while (j && !end->rechecking) {
        if (!j->unsure) {
            j = j->next_keyed;
            continue;
        }
        /* that of a job is one: link_job_vouch() has found it */
        end->recheck_len = j->job.key_id.len;
        memcpy(end->recheck_id, j->job.key_id.data, j->job.key_id.len);
        const keyring_verdict *v = keyring_find(
            end->loop, KEYRING_ID, (aiq_str){end->recheck_id, end->recheck_len}, &end->recheck);
        if (v == NULL) {
            end->rechecking = true;
        } else if (v->status == 503) {
            return;
        } else {
            apply(end, v);
            j = end->keyed;
        }
    }
}

static void on_epoch(aiq_loop *loop, void *arg, bool changed)
{
    link_end *end = arg;

    (void)loop;
    for (aiq_link *l = end->links; l; l = l->next) {
        if (l->wants_epoch) {
            link_push_epoch(l);
        }
    }
    for (link_job *j = end->keyed; changed && j; j = j->next_keyed) {
        j->unsure = true;
    }
    recheck(end);
}

void link_end_watch_keys(link_end *end)
{
    end->recheck.answer = on_rechecked;
    end->recheck.arg = end;
    keyring_watch(end->loop, on_epoch, end);
}

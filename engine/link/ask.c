/* Questions whether a request may go on to its content. An ASK takes a slot and is
 * answered by the rates that its location shares with other engines. */

#include <string.h>
#include "link/link.h"

static void on_answer(void *arg, const rates_answer *answer)
{
    link_job_answer(arg, answer);
}

/* The keys of the location's rates, or NULL: the fields are wrong. */
static const uint8_t *find_keys(aiq_job *job, aiq_fields fields)
{
    const uint8_t *keys = NULL, *data;
    uint16_t id, len;
    int rc;

    while ((rc = aiq_field_next(&fields, &id, &data, &len)) == 1) {
        if (id == AIQ_FIELD_REQUEST_ID) {
            job->request_id = (aiq_str){(const char *)data, len};
        } else if (id == AIQ_FIELD_RATE_KEYS && len == job->location->n_rates * AIQ_LIMIT_KEY) {
            keys = data;
        }
    }
    return rc == 0 ? keys : NULL;
}

/* NULL, or what is wrong with the payload. */
static const char *ask(link_job *j, const uint8_t *payload, uint32_t len)
{
    aiq_job *job = &j->job;
    aiq_ask head;

    if (len < sizeof(head) || len > AIQ_CHECK_MAX) {
        return "ASK of a wrong length";
    }
    /* one copy; what is parsed and kept is out of the worker's reach */
    const uint8_t *text = (const uint8_t *)aiq_pool_copy(job->pool, payload, len);
    memcpy(&head, text, sizeof(head));
    if (head.location >= j->link->policy->n_locations) {
        return "ASK of an unknown location";
    }
    job->location = &j->link->policy->locations[head.location];
    const uint8_t *keys = find_keys(job, (aiq_fields){text + sizeof(head), text + len});
    if (keys == NULL) {
        return "ASK without the keys of its rates";
    }
    j->state = JOB_ASKING;
    j->question = aiq_pool_zalloc(job->pool, sizeof(*j->question));
    if (!rates_ask(j->question, job->loop, job->location->rates, job->location->n_rates, keys,
                   on_answer, j)) {
        link_job_answer(j, NULL);
    }
    return NULL;
}

void link_ask(aiq_link *l, const aiq_frame *frame, const uint8_t *payload)
{
    if (l->slots[frame->slot]) {
        link_break(l, "ASK on a slot in use");
        return;
    }
    link_job *j = link_job_new(l, frame->slot, frame->generation);
    const char *wrong = ask(j, payload, frame->len);
    if (wrong) {
        link_break(l, wrong);
    }
}

/* Questions whether a request may go on to its content. An ASK takes a slot and is
 * answered by the rates that its location shares with other engines. */

#include "link/link.h"

static void on_answer(void *arg, const rates_answer *answer)
{
    link_job_answer(arg, answer);
}

void link_ask(aiq_link *l, const aiq_frame *frame, const uint8_t *payload)
{
    if (l->slots[frame->slot]) {
        link_break(l, "ASK on a slot in use");
        return;
    }
    link_job *j = link_job_new(l, frame->slot, frame->generation);
    aiq_job *job = &j->job;
    const char *wrong = link_ask_parse(j, payload, frame->len);
    if (wrong) {
        link_break(l, wrong);
        return;
    }
    j->state = JOB_ASKING;
    j->question = aiq_pool_zalloc(job->pool, sizeof(*j->question));
    if (!rates_ask(j->question, job->loop, job->location->rates, job->location->n_rates,
                   job->rate_keys, on_answer, j)) {
        link_job_answer(j, NULL);
    }
}

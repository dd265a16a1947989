/*
 * A large form (sounds, images) on its way to its provider while it comes from the client:
 * as soon as the model is known, wherever in the form that stands, and nothing before it was
 * wrong. All of it stays in the spool, so that another target gets it from its beginning.
 *
 * The form is read ahead of what is sent. One that proves to be bad, or that its client does
 * not finish, is broken off at the provider, who never has it whole.
 *
 * What is no form waits for its end as ever, and so does one where more than the model decides
 * what it costs.
 */

#include <string.h>
#include "services/gateway/chat.h"

static void refuse(chat *c, const aiq_err *err)
{
    if (c->state == CHAT_ENDING) {
        return; /* he has his answer, and it did not need the rest */
    }
    if (c->state == CHAT_CALLING) {
        chat_stop_calling(c);
    }
    chat_refuse(c, err);
}

static void refuse_form(chat *c)
{
    aiq_err err;

    client_form_invalid(&c->upload->form, &err);
    refuse(c, &err);
}

static bool is_decided(const chat *c)
{
    const form_field *fields = c->upload->form.fields;
    bool counted = strncmp(c->job->route->path, "/v1/images/", 11) == 0;

    return fields[CLIENT_FORM_MODEL].found && (fields[CLIENT_FORM_N].found || !counted) &&
           job_is_vouched(c->job);
}

static void begin(chat *c, aiq_str body, size_t filled)
{
    upload *u = c->upload;
    aiq_err err;

    u->begun = true;
    u->filling = (http_filling){.data = body.data, .len = body.len, .filled = filled};
    c->body = body;
    c->asked = &c->request;
    if (!client_form_parse(&c->request, c->job, body, &u->form, &err) || !chat_admit(c, &err)) {
        refuse(c, &err);
        return;
    }
    c->request.filling = &u->filling;
    chat_hold(c);
}

static void on_grown(aiq_job *job, aiq_str body, size_t filled)
{
    chat *c = job->state;
    upload *u = c->upload;

    if (form_read(&u->form, (aiq_str){body.data, filled}, false) == FORM_BAD) {
        refuse_form(c);
    } else if (u->begun) {
        http_filled(&u->filling, filled);
    } else if (is_decided(c)) {
        begin(c, body, filled);
    }
}

void chat_upload_open(chat *c)
{
    form f;

    if (c->client == &client_raw && form_is(c->job->content_type) &&
        client_form_begin(&f, c->job) && spool_follow(c->spool, on_grown)) {
        c->upload = aiq_pool_zalloc(c->job->pool, sizeof(*c->upload));
        c->upload->form = f;
    }
}

bool chat_upload_end(chat *c, aiq_str body, const aiq_err *wrong)
{
    upload *u = c->upload;

    if (u == NULL || !u->begun) {
        c->upload = NULL;
        return false;
    }
    if (wrong) {
        refuse(c, wrong);
    } else if (form_read(&u->form, body, true) == FORM_BAD) {
        refuse_form(c);
    } else {
        u->whole = true;
        http_filled(&u->filling, body.len);
    }
    return true;
}

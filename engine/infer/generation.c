/* From logits to a token, from tokens to events, to the last one. */
#include "infer/infer_impl.h"

#include <string.h>

void infer_drop_context(infer_replica *p, infer_req *r)
{
    if (r->kv.n > 0) {
        kv_drop(p->pool, &r->kv);
    }
    r->pos = 0;
}

static void finish(infer_replica *p, infer_req *r, const infer_event *ev)
{
    infer_drop_context(p, r);
    infer_drop_walk(r); /* it needs the model, which the request may outlive */
    r->cb(r->arg, ev);
    infer_req_drop(r);
}

void infer_fail(infer_replica *p, infer_req *r, const char *error)
{
    infer_event ev = {.type = INFER_FAILED, .error = error};

    finish(p, r, &ev);
}

static void tell_prompt(const infer_req *r, infer_event *ev)
{
    ev->prompt_tokens = r->n_prompt - r->n_said;
    ev->cached_tokens = r->n_cached < ev->prompt_tokens ? r->n_cached : ev->prompt_tokens;
}

static void emit_ready(infer_req *r)
{
    infer_event ev = {
        .type = INFER_TEXT, .text = r->answer.text, .len = answer_ready(&r->answer)};

    if (ev.len > 0) {
        tell_prompt(r, &ev);
        scores_give(&r->scores, &ev);
        r->cb(r->arg, &ev);
        answer_drop(&r->answer, ev.len);
    }
}

static void finish_done(infer_replica *p, infer_req *r, infer_finish why)
{
    infer_event ev = {.type = INFER_DONE, .finish = why};

    if (!answer_end(&r->answer)) {
        infer_fail(p, r, "out of memory");
        return;
    }
    emit_ready(r);
    tell_prompt(r, &ev);
    ev.completion_tokens = r->n_said + r->n_answer;
    ev.stop = r->answer.stopped;
    ev.thought_tokens = thoughts_tokens(&r->thoughts);
    ev.ids = r->ids + ev.prompt_tokens;
    scores_give(&r->scores, &ev);
    finish(p, r, &ev);
}

bool infer_is_held(const infer_req *r)
{
    return r->walk != NULL && r->thoughts.at != THOUGHTS_WITHIN;
}

/* The next token's id, -1: the logits make no sense, -2: memory ends. */
static int32_t sample(infer_replica *p, infer_req *r, float *logits)
{
    uint32_t n = p->m->model.config.n_vocab;
    sampler_context context = {.ids = r->ids,
                               .n_prompt = r->n_prompt - r->n_said,
                               .n_answer = r->n_said + r->n_answer};
    int32_t id;

    if (r->scores.wanted) {
        if (!scores_look(&r->scores, logits, n)) {
            return -2;
        }
        memcpy(p->raw, logits, n * sizeof(*logits));
    }
    if (infer_is_held(r)) {
        mask_walk_mask(r->walk, p->mask);
        context.mask = p->mask;
    }
    id = sampler_pick(&r->sampler, &context, logits, n, p->scratch, p->counts);
    if (id >= 0 && r->scores.wanted && !tokenizer_is_end(p->m->tok, id)) {
        scores_choose(&r->scores, id, p->raw[id]);
    }
    return id;
}

/* What the answer says with a token. */
static const char *text_of(const infer *m, const infer_req *r, int32_t id, size_t *len)
{
    for (uint32_t i = 0; r->shows_marks && i < m->n_marks; i++) {
        if (m->marks[i] == id) {
            return tokenizer_name(m->tok, id, len);
        }
    }
    return tokenizer_piece(m->tok, id, len);
}

/* What a token says goes to the thoughts, and what stands behind their end in it to the walk:
 * the answer has begun with it. White space there is nobody's. */
static void take_thoughts(infer_req *r, const char *piece, size_t len)
{
    bool was_held = infer_is_held(r);
    size_t i = thoughts_take(&r->thoughts, piece, len);

    if (was_held || !infer_is_held(r)) {
        return;
    }
    while (i < len && memchr(" \n\r\t", piece[i], 4) != NULL) {
        i++;
    }
    mask_walk_text(r->walk, piece + i, len - i);
}

bool infer_take_token(infer_replica *p, infer_req *r, float *logits)
{
    int32_t id = sample(p, r, logits);
    const char *piece;
    size_t len;

    if (id == -2) {
        infer_fail(p, r, "out of memory");
        return false;
    }
    if (id < 0) {
        infer_fail(p, r,
                   infer_is_held(r) ? "no token continues the answer in its format"
                                    : "the model computed something that is not a number");
        return false;
    }
    if (tokenizer_is_end(p->m->tok, id)) {
        finish_done(p, r, INFER_FINISH_STOP);
        return false;
    }
    r->ids[r->n_prompt + r->n_answer++] = id;
    if (infer_is_held(r)) {
        mask_walk_token(r->walk, id);
    }
    piece = text_of(p->m, r, id, &len);
    take_thoughts(r, piece, len);
    if (!answer_push(&r->answer, piece, len)) {
        infer_fail(p, r, "out of memory");
        return false;
    }
    if (r->answer.stopped || (r->walk != NULL && mask_walk_finished(r->walk))) {
        finish_done(p, r, INFER_FINISH_STOP);
        return false;
    }
    if (r->n_answer == r->max_tokens) {
        finish_done(p, r, INFER_FINISH_LENGTH);
        return false;
    }
    emit_ready(r);
    return true;
}

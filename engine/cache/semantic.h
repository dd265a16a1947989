/*
 * The semantic cache: answers to questions that ask the same in other words.
 *
 * A question is the text of a request's last message; everything else that has a say in the
 * answer, to the byte, names the partition (vectors/vectors.h) in which it is looked for: the
 * tenant, the model and its targets, instructions, history, settings, and the embedder. So
 * nothing is found across any of these. Of what is near enough the first that passes the gates
 * (gate.h) is the answer.
 *
 * A thread of its own has the index: it makes vectors, looks, keeps, and writes the index to
 * a file beside the engine's socket once in a while and when the engine leaves. A file that
 * another engine has written there meanwhile is read, too: the engine that leaves has written
 * it last. Loops ask and are told by messages; who asks goes on without an answer when the
 * thread has too much to do.
 *
 * Who was given a wrong answer says so by the entry's id, and it is given to nobody any more.
 */

#ifndef AIQ_CACHE_SEMANTIC_H
#define AIQ_CACHE_SEMANTIC_H

#include "cache/gate.h"
#include "cache/lru.h"
#include "core/loop.h"
#include "vectors/vectors.h"

#define SEMANTIC_QUEUE 1024 /* what waits for the thread, */
#define SEMANTIC_PUTS  128  /* and as long as an answer may join it */
#define SEMANTIC_NEAR  8    /* how many are looked at of what is near */

typedef struct semantic semantic;
typedef struct semantic_question semantic_question;
typedef struct semantic_call semantic_call; /* one that is under way */

/* size: bytes of the index. NULL: there is none, for size is 0, or there is no thread. Main
 * thread, before the loops start. */
semantic *semantic_start(aiq_engine *engine, size_t size);
/* Writes the index. Main thread, after the loops; NULL is fine. */
void semantic_stop(semantic *s);

/* NULL: there is nothing in it to be compared. With one reference, the caller's. mode: STRICT:
 * the thread makes its vector, by infer/lexical.h; LOOSE: a model does. Any thread. */
semantic_question *semantic_question_new(const uint8_t partition[VECTORS_KEY], aiq_str tenant,
                                         aiq_str text, gate_mode mode);
/* A copy of the vector that a model has made; once, before the question is asked or put. */
void semantic_question_made(semantic_question *q, const float *vector, uint32_t dims);
/* Can it be asked and put? */
bool semantic_question_ready(const semantic_question *q);
/* As it was given. */
aiq_str semantic_question_text(const semantic_question *q);
/* Any thread; so the next one. */
semantic_question *semantic_question_ref(semantic_question *q);
void semantic_question_unref(semantic_question *q);

typedef struct {
    lru_entry *answer; /* with a reference for who is told; NULL: there is none */
    double similarity;
    uint64_t id; /* of the entry; 0: there is none */
} semantic_hit;

/* On the loop that asked. */
typedef void (*semantic_told)(void *arg, const semantic_hit *hit);

/* Is there an answer, kept at most max_age_ms ago? NULL: the thread has too much to do, and
 * told() does not come. On `loop`; so the next two. */
semantic_call *semantic_ask(semantic *s, aiq_loop *loop, semantic_question *q, double threshold,
                            uint64_t max_age_ms, semantic_told told, void *arg);

/* Was an entry's answer right? A wrong one goes. told(): its id, or 0 where this tenant has no
 * such entry. */
semantic_call *semantic_judge(semantic *s, aiq_loop *loop, aiq_str tenant, uint64_t id,
                              bool right, semantic_told told, void *arg);

/* told() does not come any more. */
void semantic_cancel(semantic_call *call);

/* The answer to a question, for ttl_ms from when it was kept. Any thread. */
void semantic_put(semantic *s, semantic_question *q, lru_entry *answer, uint64_t ttl_ms);

/* "ent_" and 16 digits. */
#define SEMANTIC_ID_SIZE 21
void semantic_write_id(char out[SEMANTIC_ID_SIZE], uint64_t id);
bool semantic_read_id(aiq_str text, uint64_t *id);

#endif

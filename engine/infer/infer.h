/*
 * Local inference: one loaded model, many generations at once.
 *
 * An `infer` owns a GGUF file's weights and replicas: each is the weights on a device and a
 * thread. Each turn of that thread is one batch: first one token for every generation that is
 * decoding, then prompt chunks, shared evenly among those still reading their prompt. A
 * newcomer therefore joins at the next step, and a long prompt cannot hold up a short answer.
 * Requests wait in one queue, and the replica with the fewest takes the next one.
 *
 * Contexts are made of pages (kv.h). A request is let in when there are pages for its prompt,
 * and takes more as it speaks; pages that hold the beginning of a prompt already are not read
 * again. Where none is left, one of those that run goes back to the head of the queue, without
 * its pages: of the paused, then of flex, then of all the last that came. Later it reads what
 * was said anew and goes on, and nobody sees a difference but in time.
 *
 * Invariants:
 *  - Every submitted request gets exactly one last event, DONE or FAILED, whatever happens:
 *    cancel, close, an error in the kernels.
 *  - Events of one request come in order, and on the thread of the replica that has it.
 *  - TEXT events carry whole UTF-8 characters and never a part of a stop string; their
 *    concatenation is the answer.
 *  - Where a device fails, or does not answer (runner.h), its replica moves to the next one of
 *    the devices that has no other, and what runs goes on there, or at another replica:
 *    nothing is said twice. Where there is no such device the replica ends, and the last one
 *    goes to the CPU. Without any place the requests are FAILED.
 *  - Any request that was queued fits the pages alone, so the first of all that run always goes
 *    on, and nothing fails because another one grew.
 *  - A token is chosen from the logits that all before it give, guessed or not: drafts change
 *    the time an answer takes and nothing else.
 *  - Requests in the queue are let in as they came. Flex ones wait for others, but one of four
 *    that are let in is flex if such wait, and they never have the last quarter of the batch
 *    or of the queue. One that gave its pages up three times has them as long as the others.
 *  - The same request with the same seed gives the same answer, alone or in company; with
 *    packed weights as far as rounding in the kernels allows (aiq_kernels.h, step).
 */
#ifndef AIQ_INFER_H
#define AIQ_INFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/masks.h"
#include "infer/sampler.h"
#include "infer/tool_calls.h"

#define INFER_MAX_STOP     4 /* as in OpenAI's API */
#define INFER_MAX_STOP_LEN 1024
#define INFER_MAX_TOP      20
#define INFER_MAX_BIAS     1024

typedef struct infer infer;         /* one loaded model */
typedef struct infer_req infer_req; /* one generation under way */

typedef enum {
    INFER_OK,
    INFER_BUSY,     /* the waiting queue is full: try again later */
    INFER_TOO_LONG, /* the prompt does not fit the context */
    INFER_INVALID,  /* the parameters make no sense, or the model has no usable template */
    INFER_NOMEM
} infer_rc;

/* Zero means the default, given in brackets. */
typedef struct {
    uint32_t n_threads;   /* threads that compute [one for each core] */
    uint32_t max_running; /* generations in one batch [16] */
    uint32_t max_waiting; /* requests that wait to be admitted [256] */
    uint64_t kv_bytes;    /* memory for the contexts of all running requests [1 GiB] */

    /* Told how far the file is read, from 0 to 100, and 100 again while a device takes its
     * time to load it, on infer_open's thread; false ends it [weights are read when they are
     * needed]. */
    bool (*progress)(void *arg, unsigned percent);
    void *progress_arg;

    struct devices *devices; /* where it may compute; outlives the model [the CPU] */
    uint32_t replicas;       /* on so many of them, as far as there are [1] */
    const char *label; /* what it is called where devices tell of it; outlives it [none] */
} infer_options;

typedef struct {
    const char *name;         /* general.name of the file, or "" */
    const char *architecture; /* "llama", "qwen2", … */
    uint32_t n_ctx;           /* tokens of prompt and answer together */
    uint32_t n_vocab;
    uint64_t n_params;
    uint64_t file_bytes;
    bool chat; /* it has a chat template that we can run */

    tool_format tool_format; /* how it writes calls of tools */
    bool thinks;             /* its answers may begin with thoughts */
} infer_model_info;

/* Since the model was opened, and now. */
typedef struct {
    uint32_t replicas; /* that have a device */
    uint32_t pages;    /* of KERN_PAGE tokens each */
    uint32_t used;     /* that running requests have */
    uint32_t running;
    uint32_t waiting;
    uint64_t prompt_tokens;   /* of requests that were let in */
    uint64_t cached_tokens;   /* of these, not read */
    uint64_t preemptions;     /* contexts that were taken away */
    uint64_t drafted_tokens;  /* guessed from what was said, and read ahead */
    uint64_t accepted_tokens; /* of these, what the model said */
} infer_stats;

/* UTF-8; role is "system", "user", "assistant" or "tool". Borrowed for the call. */
typedef struct {
    const char *role;
    const char *content;
    size_t content_len;

    /* of the assistant; maybe nothing */
    aiq_str thought;
    aiq_str calls; /* "tool_calls" as in OpenAI's API: valid JSON, a list of objects */

    /* of a tool */
    aiq_str call_id;
    aiq_str name;
} infer_message;

/* What to generate. Everything is borrowed for the call. */
typedef struct {
    const infer_message *messages; /* a chat, rendered with the model's template; or */
    size_t n_messages;
    aiq_str tools; /* "tools" as in OpenAI's API; empty: none */
    const char
        *effort; /* in thinking: "none", "minimal", "low", …; NULL: the template\'s own */
    bool shows_marks;   /* control tokens that are marks of calls and thoughts come as text */
    bool thinks;        /* the answer may begin with thoughts: their tokens are counted */
    bool goes_on;       /* the last message is the beginning of the answer: the rest is asked
                           for, as if it had not been interrupted */
    bool begun;         /* the last message (before that one) is the assistant's and ends the
                           prompt: the answer is what comes behind it, without thoughts */
    const int32_t *ids; /* raw token ids, used as they stand */
    size_t n_ids;

    uint32_t max_tokens; /* 0: as many as the context holds */

    aiq_str scope; /* prompts share what is read of them with those of the same scope only */
    bool flex;     /* others are in a hurry, this one is not */

    /* How to sample: sampler.h says what these mean, and in which order they come. */
    float temperature;        /* 0: greedy; at most 2 */
    float top_p;              /* 0 or 1: off */
    float min_p;              /* 0: off; below 1 */
    uint32_t top_k;           /* 0: off */
    float repetition;         /* 0 or 1: off; positive */
    float frequency;          /* 0: off; from -2 to 2 */
    float presence;           /* the same */
    const sampler_bias *bias; /* each token at most once, at most INFER_MAX_BIAS of them */
    size_t n_bias;
    uint64_t seed; /* used if has_seed, otherwise random */
    bool has_seed;

    bool logprobs;         /* events name the tokens, with their log-probabilities, */
    uint32_t top_logprobs; /* and so many of the likeliest; at most INFER_MAX_TOP */
    const char *const
        *stop; /* at most INFER_MAX_STOP, none empty or longer than INFER_MAX_STOP_LEN */
    size_t n_stop;

    mask_language *language; /* what the answer must be behind its thoughts, NULL: anything. An
                                answer that has no room for its end is none of the language. */
} infer_params;

typedef enum { INFER_TEXT, INFER_DONE, INFER_FAILED } infer_event_type;

typedef enum {
    INFER_FINISH_STOP,  /* the model ended its turn, or a stop string came */
    INFER_FINISH_LENGTH /* max_tokens or the context is used up */
} infer_finish;

/* A token and the logarithm of its probability: of the model's own logits, before anything
 * that the request asks for. */
typedef struct {
    int32_t id;
    float logprob;
} infer_scored;

/* A token that was chosen, and the likeliest in its place. */
typedef struct {
    infer_scored chosen;
    const infer_scored *top; /* [n_top] the likeliest first */
} infer_token;

/* Valid during the callback only. */
typedef struct {
    infer_event_type type;

    /* TEXT, DONE; where logprobs were asked for: tokens that no earlier event had, up to and
     * including those that made this text. */
    const infer_token *tokens;
    size_t n_tokens;
    uint32_t n_top; /* of each */

    const char *text; /* TEXT: not terminated, never empty */
    size_t len;

    uint32_t prompt_tokens; /* TEXT, DONE */
    uint32_t cached_tokens; /* of these, how many were not read anew */

    infer_finish finish; /* DONE */
    const char *stop;    /* the stop string that came, as long as the request; NULL: none */
    uint32_t completion_tokens; /* the token that ends the turn is not counted */
    uint32_t thought_tokens;    /* of these */
    const int32_t *ids;         /* the completion_tokens ids, in order */

    const char *error; /* FAILED: "cancelled", or what went wrong */
} infer_event;

/*
 * Called on a replica's thread: it must not block, and may call infer_cancel, infer_pause,
 * infer_resume and, at the last event, infer_release on its own request. The first call can
 * come before infer_submit has returned.
 */
typedef void (*infer_cb)(void *arg, const infer_event *ev);

/*
 * Maps and checks the file, starts the replicas' threads. Blocks (file reads). Returns NULL and
 * one line in err if the file is missing, corrupt, or of a kind that is not supported.
 */
infer *infer_open(const char *path, const infer_options *opt, char *err, size_t errlen);

/*
 * Cancels what runs and waits, gives each its last event, joins the threads. Nobody may be
 * inside infer_submit, nor on a replica's thread. Requests keep until they are released.
 */
void infer_close(infer *m);

/* The strings live as long as the model. Any thread. */
void infer_info(const infer *m, infer_model_info *info);

/* The languages that answers can be held to. Lives as long as the model. */
masks *infer_masks(const infer *m);

/* As of the last turn. Any thread. */
void infer_get_stats(const infer *m, infer_stats *stats);

/* For counting and showing tokens. Any thread; lives as long as the model. */
const tokenizer *infer_tokenizer(const infer *m);

/*
 * How many tokens the prompt would have: the prompt_tokens of the request's last event. At the
 * same cost, refused as infer_submit() would refuse it but for INFER_BUSY, and nothing is
 * queued. Any thread.
 */
infer_rc infer_count(const infer *m, const infer_params *p, uint32_t *n_prompt, char *err,
                     size_t errlen);

/*
 * Renders and tokenizes on the caller's thread (about 0.1 µs a byte; a prompt that cannot fit
 * is refused by its size first), queues the rest. Never waits. On INFER_OK *out is the
 * caller's until infer_release; otherwise there will be no event, and err says why in one
 * line that a client may see. Any thread.
 */
infer_rc infer_submit(infer *m, const infer_params *p, infer_cb cb, void *arg, infer_req **out,
                      char *err, size_t errlen);

/* The prompt ends within a thought: the answer begins there. */
bool infer_is_thought(const infer_req *req);

/* Asks for an early end. The last event still comes, soon: FAILED "cancelled", or DONE if it
 * was on its way. Any thread, any number of times until the release. */
void infer_cancel(infer_req *req);

/*
 * Back-pressure: a paused request makes no tokens (at most one more after the call) and
 * leaves its place in the batch to others, but keeps its context memory; whoever pauses
 * bounds how long. Any thread.
 */
void infer_pause(infer_req *req);
void infer_resume(infer_req *req);

/* Frees the handle: once, during or after the last event. Works after infer_close, too. */
void infer_release(infer_req *req);

#endif

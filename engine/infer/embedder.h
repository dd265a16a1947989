/*
 * Vectors of texts: one model, many requests at once.
 *
 * An embedder owns a model's weights, a reader and replicas. The reader, a thread, cuts texts
 * into tokens, one of each request in turn. A replica is the weights on a device and a thread,
 * which packs texts of many requests into batches, again one of each in turn, so a request of
 * two thousand does not hold up one of a single text, and is shared by all replicas. Texts
 * are not padded, and nothing is kept of them. The lexical embedder (lexical.h) has no
 * model, and only the reader.
 *
 * Invariants:
 *  - Every submitted request gets exactly one event, on the reader's thread, whatever happens:
 *    cancel, close, an error in the kernels.
 *  - Where a device fails, its replica moves to another; where there is none it ends and leaves
 *    its batch to the other replicas. The last one goes to the CPU.
 *  - Vectors have length 1 (or 0, where the lexical embedder finds no word).
 *  - A text's vector is the same alone and in company, as far as rounding in the kernels
 *    allows (aiq_kernels.h, encode).
 */
#ifndef INFER_EMBEDDER_H
#define INFER_EMBEDDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EMBED_MAX_INPUTS 2048 /* of a request, as in OpenAI's API */
#define EMBED_MAX_TOKENS 8192 /* of an input; less where the model takes less */

typedef struct embedder embedder;
typedef struct embed_req embed_req; /* a request under way */

typedef enum {
    EMBED_OK,
    EMBED_BUSY,     /* too many requests wait: try again later */
    EMBED_TOO_LONG, /* an input is longer than the model takes */
    EMBED_INVALID,  /* an input is none: empty, or of tokens that the model does not have */
    EMBED_CANCELLED,
    EMBED_FAILED, /* the kernels */
    EMBED_NOMEM
} embed_rc;

/* Zero means the default, given in brackets. */
typedef struct {
    uint32_t n_threads;   /* threads that compute [one for each core] */
    uint32_t max_waiting; /* requests under way [256] */

    /* As in infer_options. */
    bool (*progress)(void *arg, unsigned percent);
    void *progress_arg;

    struct devices
        *devices;      /* where it may compute, of those that can; outlives it [the CPU] */
    uint32_t replicas; /* on so many of them, as far as there are [1] */
    const char *label; /* as in infer_options */
} embedder_options;

typedef struct {
    const char *name;         /* general.name of the file, or "" */
    const char *architecture; /* "bert", "nomic-bert", "qwen3", …; LEXICAL_NAME */
    uint32_t dimensions;      /* of a vector */
    uint32_t n_ctx;           /* tokens of an input at most; 0: LEXICAL_MAX_TEXT bytes */
    uint64_t n_params;
    uint64_t file_bytes;
} embedder_info;

/* A text in UTF-8, or the ids of its tokens; what the model wants before and behind a text is
 * put there, unless it is there. */
typedef struct {
    const char *text; /* NULL: ids */
    size_t len;
    const int32_t *ids;
    size_t n_ids;
} embed_input;

/* Valid during the callback only. */
typedef struct {
    embed_rc rc;
    const char *error; /* where not OK: a line that a client may see, but of FAILED */
    uint32_t input;    /* TOO_LONG, INVALID: which of them */

    const float *vectors; /* OK: [n inputs][dimensions], in order */
    uint32_t dimensions;
    uint64_t n_tokens; /* of all inputs */
} embed_event;

/* On the reader's thread, which it may keep for as long as it takes to write an answer. The
 * first call can come before embedder_submit has returned. It may release its own request. */
typedef void (*embed_cb)(void *arg, const embed_event *ev);

/* Whether the file is of a model that makes vectors; false where it cannot be read, too. */
bool embedder_takes(const char *path);

/* Maps and checks the file, starts the threads. Blocks (file reads). NULL, and one line in err:
 * the file is missing, corrupt, or of a kind that is not supported. */
embedder *embedder_open(const char *path, const embedder_options *opt, char *err,
                        size_t errlen);

/* The one without a model. */
embedder *embedder_open_lexical(const embedder_options *opt, char *err, size_t errlen);

/* Cancels what runs, gives each its event, joins the threads. Nobody may be inside
 * embedder_submit, nor on the reader's thread. Requests keep until they are released. */
void embedder_close(embedder *e);

/* The strings live as long as the embedder. Any thread. */
void embedder_get_info(const embedder *e, embedder_info *info);

/* Those that have not ended; 0: lexical. Any thread. */
uint32_t embedder_replicas(embedder *e);

/*
 * Copies the n inputs, at least 1, at most EMBED_MAX_INPUTS, and queues them. Never waits. On
 * EMBED_OK *out is the caller's until embed_release; otherwise (BUSY, NOMEM) there will be no
 * event, and err says why. Any thread.
 */
embed_rc embedder_submit(embedder *e, const embed_input *inputs, uint32_t n, embed_cb cb,
                         void *arg, embed_req **out, char *err, size_t errlen);

/* Asks for an early end. The event still comes, soon. Any thread. */
void embed_cancel(embed_req *r);

/* Frees the handle: once, during or after the event. Works after embedder_close, too. */
void embed_release(embed_req *r);

#endif
